/*
 * The load of the ladder bench for a guest's own network card, over a packet socket (packet(7)): what `rwi load`, `rwi count`,
 * `rwi ping` and `rwi-echo` do for an ivshmem port, with the guest's kernel in between.
 * SPDX-License-Identifier: Apache-2.0
 *
 * MAC is the receiver's: QEMU's own back end keeps frames for other addresses from a guest.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define ETHER_TYPE 0x88b5 /* IEEE 802: local experiments */
#define BURST 32
#define MAX_FRAME 2048
#define HEAD 22 /* Ethernet header and a number */
#define LOST_MS 2000

static const char usage[] =
    "usage: frames send IFACE MAC SIZE SECONDS | count IFACE WARMUP SECONDS | ping IFACE MAC SIZE COUNT | echo IFACE\n";

static uint8_t buffers[BURST][MAX_FRAME];
static struct iovec pieces[BURST];
static struct mmsghdr messages[BURST];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int must(int result, const char *what) {
  if (result < 0) {
    perror(what);
    exit(1);
  }
  return result;
}

/* A socket for frames of our type on one interface. */
static int open_on(const char *interface) {
  struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETHER_TYPE)};
  address.sll_ifindex = (int)if_nametoindex(interface);
  if (address.sll_ifindex == 0) must(-1, interface);
  int fd = must(socket(AF_PACKET, SOCK_RAW, htons(ETHER_TYPE)), "socket"), one = 1;
  must(bind(fd, (struct sockaddr *)&address, sizeof address), "bind");
  must(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one), "PACKET_IGNORE_OUTGOING");
  return fd;
}

/* Frames of `bytes` from the socket's interface to the address `to`. */
static void prepare(int fd, const char *to, size_t bytes) {
  uint8_t head[14] = {[12] = ETHER_TYPE >> 8, [13] = ETHER_TYPE & 0xff};
  struct sockaddr_ll own;
  socklen_t length = sizeof own;
  must(getsockname(fd, (struct sockaddr *)&own, &length), "getsockname");
  memcpy(head + 6, own.sll_addr, 6);
  if (sscanf(to, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", head, head + 1, head + 2, head + 3, head + 4, head + 5) != 6) {
    fprintf(stderr, "%s: not an address such as 52:54:00:00:00:01\n", to);
    exit(2);
  }
  for (int i = 0; i < BURST; i++) {
    memcpy(buffers[i], head, sizeof head);
    pieces[i] = (struct iovec){buffers[i], bytes};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
  }
}

/* As fast as the card takes frames: the socket's send buffer makes it wait. */
static int send_frames(int fd, const char *to, size_t size, double seconds) {
  uint64_t sent = 0;
  double start = now(), end = start + seconds;
  prepare(fd, to, size);
  while (now() < end) {
    int n = sendmmsg(fd, messages, BURST, 0);
    if (n < 0 && errno != ENOBUFS && errno != EAGAIN) must(n, "sendmmsg");
    if (n > 0) sent += (uint64_t)n;
  }
  printf("sent %.0f per second\n", (double)sent / (now() - start));
  return 0;
}

static int count_frames(int fd, double warmup, double seconds) {
  uint64_t received = 0;
  double start = now(), end = start + warmup;
  struct pollfd poller = {.fd = fd, .events = POLLIN};
  prepare(fd, "0:0:0:0:0:0", MAX_FRAME);
  for (int measuring = 0;;) {
    if (now() >= end) {
      if (measuring) break;
      measuring = 1;
      received = 0;
      start = now();
      end = start + seconds;
    }
    int n = recvmmsg(fd, messages, BURST, MSG_DONTWAIT, NULL);
    if (n > 0) received += (uint64_t)n;
    else if (errno == EAGAIN) must(poll(&poller, 1, 10), "poll");
    else must(n, "recvmmsg");
  }
  printf("received %.0f per second\n", (double)received / (now() - start));
  return 0;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static int ping(int fd, const char *to, size_t size, uint64_t count) {
  struct pollfd poller = {.fd = fd, .events = POLLIN};
  double *times = calloc(count, sizeof *times);
  uint64_t answered = 0;
  if (!times) return 1;
  prepare(fd, to, size);
  for (uint64_t number = 0; number < count; number++) {
    uint64_t answer = UINT64_MAX;
    memcpy(buffers[0] + 14, &number, sizeof number);
    double start = now();
    must((int)send(fd, buffers[0], size, 0), "send");
    while (answer != number && poll(&poller, 1, LOST_MS) > 0) {
      if (must((int)recv(fd, buffers[1], MAX_FRAME, 0), "recv") >= HEAD) memcpy(&answer, buffers[1] + 14, sizeof answer);
    }
    if (answer != number) break;
    times[answered++] = (now() - start) * 1e6;
  }
  qsort(times, answered, sizeof *times, compare);
  if (answered > 0)
    printf("pinged %llu of %llu: p50 %.1f us, p99 %.1f us\n", (unsigned long long)answered, (unsigned long long)count,
           times[answered / 2], times[answered * 99 / 100]);
  free(times);
  return answered == count ? 0 : 1;
}

static _Noreturn void echo(int fd) {
  uint8_t address[6];
  printf("echo ready\n");
  fflush(stdout);
  for (;;) {
    int n = must((int)recv(fd, buffers[0], MAX_FRAME, 0), "recv");
    memcpy(address, buffers[0], 6);
    memcpy(buffers[0], buffers[0] + 6, 6);
    memcpy(buffers[0] + 6, address, 6);
    must((int)send(fd, buffers[0], (size_t)n, 0), "send");
  }
}

int main(int argc, char **argv) {
  const char *mode = argc > 2 ? argv[1] : "";
  size_t size = argc == 6 ? strtoul(argv[4], NULL, 10) : 0;
  int sized = size >= HEAD && size <= MAX_FRAME;
  if (strcmp(mode, "send") == 0 && sized) return send_frames(open_on(argv[2]), argv[3], size, atof(argv[5]));
  if (strcmp(mode, "ping") == 0 && sized) return ping(open_on(argv[2]), argv[3], size, strtoull(argv[5], NULL, 10));
  if (strcmp(mode, "count") == 0 && argc == 5) return count_frames(open_on(argv[2]), atof(argv[3]), atof(argv[4]));
  if (strcmp(mode, "echo") == 0 && argc == 3) echo(open_on(argv[2]));
  fputs(usage, stderr);
  return 2;
}
