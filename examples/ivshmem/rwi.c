/*
 * Sends, receives, verifies and measures frames of an ivshmem port. Each mode is a small example of its own.
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <getopt.h>

#include "attach.h"

static const char usage[] =
    "usage: rwi MODE WHERE [options]\n"
    "modes:\n"
    "  info             tells about the pool and the slot\n"
    "  send             sends marked frames: each carries its number and a pattern made of it\n"
    "  receive          receives marked frames and checks number, length and every byte\n"
    "  ping             sends marked frames one by one, waits for each to come back (rwi-echo); round trip times\n"
    "  exchange         sends marked frames, some under way at a time, and checks all that come back\n"
    "  load [--to W2]   sends as fast as it goes for some seconds, counts what comes back, or out at W2\n"
    "  count            counts what comes in for some seconds, without a look at it\n"
    "  layout           prints the offsets of the layout that this program was made with (no WHERE)\n"
    "WHERE:\n" ATTACH_USAGE
    "options:\n"
    "  --count N        frames (1000)\n"
    "  --size S         bytes of a frame (64)\n"
    "  --queue Q        queue pair (0)\n"
    "  --seconds T      length of a measurement (3)\n"
    "  --warmup T       traffic before it (0)\n"
    "  --timeout T      seconds without a frame after which a mode gives up (10)\n"
    "  --rate R         send, load: frames per second, 0: as fast as it goes (0)\n"
    "  --window W       exchange: frames under way (32)\n"
    "  --to WHERE       load: a second port, where the frames come out\n"
    "  --poll           never sleep\n";

static struct {
  const char *where, *to;
  uint64_t count, window;
  uint32_t size;
  int queue, poll, timeout;
  double seconds, warmup, rate;
} option = {.count = 1000, .window = 32, .size = 64, .timeout = 10, .seconds = 3};

/* ---- Marked frames: Ethernet header, then this, then a pattern ---- */

#define MARK 0x52494e47u
#define ETHER_TYPE 0x88b5 /* IEEE 802: local experiments */
#define MARKED_BYTES 32

struct mark {
  uint32_t magic;
  uint32_t length;
  uint64_t number;
};

static uint8_t pattern(uint64_t number, uint32_t at) { return (uint8_t)(number * 31 + at * 7 + (at >> 8)); }

static uint8_t destination[6] = {2, 0, 0, 0, 0, 2}, source[6] = {2, 0, 0, 0, 0, 1};

static void write_head(uint8_t *frame, uint64_t number, uint32_t length) {
  struct mark mark = {MARK, length, number};
  memcpy(frame, destination, 6);
  memcpy(frame + 6, source, 6);
  frame[12] = ETHER_TYPE >> 8;
  frame[13] = ETHER_TYPE & 0xff;
  memcpy(frame + 16, &mark, sizeof mark);
}

/* Lays one frame over pieces; gives how many it took, or 0 when they do not suffice. */
static int build(struct rwi_piece *pieces, int n, uint64_t number, uint32_t length) {
  uint32_t at = 0;
  int i;
  for (i = 0; i < n && at < length; i++) {
    uint32_t part = length - at < pieces[i].room ? length - at : pieces[i].room;
    for (uint32_t b = 0; b < part; b++, at++) pieces[i].data[b] = pattern(number, at);
    pieces[i].length = part;
    pieces[i].next = at < length;
  }
  if (at < length) return 0;
  write_head(pieces[0].data, number, length);
  return i;
}

/* Checks a frame of `n` pieces; its number in `*number`. 1 when it is as it was sent. */
static int verify(const struct rwi_piece *pieces, int n, uint64_t *number) {
  struct mark mark;
  uint32_t at = 0;
  if (pieces[0].length < MARKED_BYTES) return 0;
  memcpy(&mark, pieces[0].data + 16, sizeof mark);
  *number = mark.number;
  if (mark.magic != MARK) return 0;
  for (int i = 0; i < n; i++)
    for (uint32_t b = 0; b < pieces[i].length; b++, at++)
      if (at >= MARKED_BYTES && pieces[i].data[b] != pattern(mark.number, at)) return 0;
  return at == mark.length;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void must(int result, const char *what) {
  if (result >= 0) return;
  fprintf(stderr, "%s: %s\n", what, strerror(-result));
  exit(1);
}

static int await(struct rwi_queue *queue, int what) {
  int alive = beat(queue->port);
  if (alive < 0) return alive;
  if (!option.poll) return rwi_wait(queue, what, 100);
  return rwi_ready(queue, what);
}

static int buffers_for(const struct rwi_queue *queue, uint32_t size) {
  return (int)((size + queue->headroom + queue->buffer_bytes - 1) / queue->buffer_bytes);
}

/* ---- Modes ---- */

static int info(struct rwi_port *port, const struct rwi_device *device) {
  static const char *ways[] = {"", "socket", "file", "sysfs", "vfio"};
  const struct rwi_header *h = (const struct rwi_header *)(const void *)device->base;
  printf("pool of %llu bytes: %u slots, rings of %u, %u buffers of %u, head-room %u, credit %u\n", (unsigned long long)h->size,
         h->slot_count, h->ring_entries, h->buffer_count, h->buffer_bytes, h->headroom, h->credit);
  printf("slot %d (port \"%.32s\") by %s: generation %u, %d queues, mtu %u%s, %d vectors\n", port->slot_number, port->slot->port_name,
         ways[device->way], port->generation, port->queues, atomic_load(&port->slot->mtu), port->plain ? ", plain" : "", device->vectors);
  return 0;
}

/* Sends marked frames from `*number` on, up to `end`, as many as there are buffers for. Gives how many. */
static int send_burst(struct rwi_queue *queue, uint64_t *number, uint64_t end) {
  struct rwi_piece pieces[RWI_MAX_CHAIN];
  int each = buffers_for(queue, option.size), used = 0, frames = 0;
  must(beat(queue->port), "send");
  int n = *number < end ? rwi_tx_reserve(queue, pieces, RWI_MAX_CHAIN) : 0;
  for (; n < 0 || (*number < end && n - used >= each); frames++) {
    must(n, "send");
    used += build(pieces + used, n - used, (*number)++, option.size);
  }
  must(rwi_tx_send(queue, pieces, used), "send");
  return frames;
}

/* What was received so far. */
struct tally {
  uint64_t good, bad, lost, other, expected;
  double last;
};

static void print_tally(const char *what, const struct tally *t) {
  printf("%s %llu good, %llu bad, %llu lost, %llu other\n", what, (unsigned long long)t->good, (unsigned long long)t->bad,
         (unsigned long long)t->lost, (unsigned long long)t->other);
}

/* Takes one burst and checks it. Gives frames seen. */
static int receive_burst(struct rwi_queue *queue, struct tally *t) {
  struct rwi_piece pieces[RWI_MAX_CHAIN];
  must(beat(queue->port), "receive");
  int n = rwi_rx_poll(queue, pieces, RWI_MAX_CHAIN), frames = 0;
  must(n, "receive");
  for (int start = 0, end; start < n; start = end, frames++) {
    uint64_t number = t->expected;
    for (end = start; pieces[end].next; end++) continue;
    end++;
    const struct rwi_piece *head = &pieces[start];
    if (head->length < 14 || head->data[12] != ETHER_TYPE >> 8 || head->data[13] != (ETHER_TYPE & 0xff)) {
      t->other++; /* A kernel's own chatter. */
      continue;
    }
    t->last = now();
    if (verify(head, end - start, &number)) t->good++;
    else t->bad++;
    if (number > t->expected) t->lost += number - t->expected;
    t->expected = number + 1;
  }
  rwi_rx_release(queue, pieces, n);
  return frames;
}

static int send_marked(struct rwi_queue *queue) {
  double start = now();
  for (uint64_t number = 0; number < option.count;) {
    uint64_t end = option.count;
    if (option.rate > 0) {
      uint64_t due = (uint64_t)((now() - start) * option.rate) + 1;
      if (due < end) end = due;
    }
    if (send_burst(queue, &number, end) > 0) continue;
    if (number == end) rwi_nap(500);
    else must(await(queue, RWI_WAIT_TX), "send");
  }
  must(rwi_flush(queue, 1000 * option.timeout), "send");
  printf("sent %llu\n", (unsigned long long)option.count);
  return 0;
}

static int receive_marked(struct rwi_queue *queue) {
  struct tally tally = {.last = now()};
  printf("receiving\n");
  fflush(stdout);
  while (tally.good + tally.lost < option.count && now() - tally.last < option.timeout)
    if (receive_burst(queue, &tally) == 0) must(await(queue, RWI_WAIT_RX), "receive");
  print_tally("received", &tally);
  return tally.good == option.count && tally.bad == 0 ? 0 : 1;
}

static int exchange(struct rwi_queue *queue) {
  struct tally tally = {.last = now()};
  uint64_t number = 0;
  printf("exchanging\n");
  fflush(stdout);
  while (tally.good + tally.lost < option.count && now() - tally.last < option.timeout) {
    uint64_t end = tally.expected + option.window;
    int sent = send_burst(queue, &number, end < option.count ? end : option.count);
    if (receive_burst(queue, &tally) + sent == 0) must(await(queue, RWI_WAIT_RX), "exchange");
  }
  print_tally("exchanged", &tally);
  return tally.good == option.count && tally.bad == 0 ? 0 : 1;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static int ping(struct rwi_queue *queue) {
  struct rwi_piece pieces[RWI_MAX_CHAIN];
  double *times = calloc(option.count, sizeof *times);
  uint64_t answered = 0;
  int each = buffers_for(queue, option.size);
  if (!times) return 1;
  for (uint64_t number = 0; number < option.count; number++) {
    int n, got = 0;
    double start = now();
    while ((n = rwi_tx_reserve(queue, pieces, each)) < each) {
      must(n, "ping");
      must(await(queue, RWI_WAIT_TX), "ping");
      if (now() - start > option.timeout) break;
    }
    if (n < each) break;
    n = build(pieces, n, number, option.size);
    start = now();
    must(rwi_tx_send(queue, pieces, n), "ping");
    while (!got && now() - start < option.timeout) {
      n = rwi_rx_poll(queue, pieces, RWI_MAX_CHAIN);
      must(n, "ping");
      for (int first = 0, end; first < n; first = end) {
        uint64_t answer = 0;
        for (end = first; pieces[end].next; end++) continue;
        end++;
        if (verify(pieces + first, end - first, &answer) && answer == number) got = 1;
      }
      rwi_rx_release(queue, pieces, n);
      if (n == 0) must(await(queue, RWI_WAIT_RX), "ping");
    }
    if (!got) break;
    times[answered++] = (now() - start) * 1e6;
  }
  qsort(times, answered, sizeof *times, compare);
  if (answered > 0)
    printf("pinged %llu of %llu: p50 %.1f us, p99 %.1f us, max %.1f us\n", (unsigned long long)answered,
           (unsigned long long)option.count, times[answered / 2], times[answered * 99 / 100], times[answered - 1]);
  else
    printf("pinged 0 of %llu\n", (unsigned long long)option.count);
  free(times);
  return answered == option.count ? 0 : 1;
}

/* One burst of frames whose first line is written, whatever their size. Gives frames sent. */
static int load_burst(struct rwi_queue *queue, uint64_t *number, int each) {
  struct rwi_piece pieces[RWI_MAX_CHAIN];
  int n = rwi_tx_reserve(queue, pieces, each > 1 ? RWI_MAX_CHAIN : 32), used = 0, frames = 0;
  must(n, "load");
  while (n - used >= each) {
    uint32_t left = option.size;
    write_head(pieces[used].data, (*number)++, option.size);
    for (int i = 0; i < each; i++, used++) {
      pieces[used].length = left < pieces[used].room ? left : pieces[used].room;
      left -= pieces[used].length;
      pieces[used].next = left > 0;
    }
    frames++;
  }
  must(rwi_tx_send(queue, pieces, used), "load");
  return frames;
}

static int drain_burst(struct rwi_queue *queue, uint64_t *sum) {
  struct rwi_piece pieces[RWI_MAX_CHAIN];
  int n = rwi_rx_poll(queue, pieces, RWI_MAX_CHAIN), frames = 0;
  must(n, "count");
  for (int i = 0; i < n; i++) {
    *sum += pieces[i].data[0];
    if (!pieces[i].next) frames++;
  }
  rwi_rx_release(queue, pieces, n);
  return frames;
}

static int load(struct rwi_queue *out, struct rwi_queue *in) {
  uint64_t sent = 0, received = 0, number = 0, sum = 0;
  int each = out ? buffers_for(out, option.size) : 0, measuring = 0;
  double begin = now(), start = begin, end = start + option.warmup;
  printf("loading\n");
  fflush(stdout);
  for (;;) {
    double time = now();
    must(beat(in->port), "load");
    if (time >= end) {
      if (measuring) break;
      measuring = 1;
      sent = received = 0;
      start = time;
      end = start + option.seconds;
    }
    uint64_t due = option.rate > 0 ? (uint64_t)((time - begin) * option.rate) : UINT64_MAX;
    int moved = 0;
    for (int turn = 0; turn < 64; turn++) {
      int went = out && number < due ? load_burst(out, &number, each) : 0, came = drain_burst(in, &sum);
      sent += (uint64_t)went;
      received += (uint64_t)came;
      moved += went + came;
    }
    if (moved > 0 || option.poll) continue;
    if (out) rwi_nap(50);
    else must(rwi_wait(in, RWI_WAIT_RX, 10), "count");
  }
  double seconds = now() - start;
  printf("sent %.4f Mpps, received %.4f Mpps, %llu received in %.3f s (%llx)\n", (double)sent / seconds / 1e6,
         (double)received / seconds / 1e6, (unsigned long long)received, seconds, (unsigned long long)sum);
  return 0;
}

static int layout(void) {
#define SHOW(name, value) printf("%s %llu\n", name, (unsigned long long)(value))
  SHOW("MAGIC_LOW", (uint32_t)('R' | 'I' << 8 | 'N' << 16 | (uint32_t)'G' << 24));
  SHOW("MAGIC_HIGH", (uint32_t)('W' | 'A' << 8 | 'Y' << 16));
  SHOW("VERSION", RWI_VERSION);
  SHOW("KNOWN_FEATURES", RWI_KNOWN_FEATURES);
  SHOW("MAX_SLOTS", RWI_MAX_SLOTS);
  SHOW("MAX_QUEUES", RWI_MAX_QUEUES);
  SHOW("MAX_CHAIN", RWI_MAX_CHAIN);
  SHOW("H_MAGIC_LOW", offsetof(struct rwi_header, magic));
  SHOW("H_VERSION", offsetof(struct rwi_header, version));
  SHOW("H_FEATURES", offsetof(struct rwi_header, features));
  SHOW("H_SIZE", offsetof(struct rwi_header, size));
  SHOW("H_SLOT_OFFSET", offsetof(struct rwi_header, slot_offset));
  SHOW("H_SLOT_STRIDE", offsetof(struct rwi_header, slot_stride));
  SHOW("H_SLOT_COUNT", offsetof(struct rwi_header, slot_count));
  SHOW("H_QUEUE_COUNT", offsetof(struct rwi_header, queue_count));
  SHOW("H_QUEUE_OFFSET", offsetof(struct rwi_header, queue_offset));
  SHOW("H_QUEUE_STRIDE", offsetof(struct rwi_header, queue_stride));
  SHOW("H_RING_ENTRIES", offsetof(struct rwi_header, ring_entries));
  SHOW("H_BUFFER_OFFSET", offsetof(struct rwi_header, buffer_offset));
  SHOW("H_BUFFER_BYTES", offsetof(struct rwi_header, buffer_bytes));
  SHOW("H_BUFFER_COUNT", offsetof(struct rwi_header, buffer_count));
  SHOW("H_HEADROOM", offsetof(struct rwi_header, headroom));
  SHOW("H_CREDIT", offsetof(struct rwi_header, credit));
  SHOW("H_EPOCH", offsetof(struct rwi_header, epoch));
  SHOW("H_HEARTBEAT", offsetof(struct rwi_header, heartbeat));
  SHOW("SLOT_STRIDE", sizeof(struct rwi_slot));
  SHOW("S_STATE", offsetof(struct rwi_slot, state));
  SHOW("S_GENERATION", offsetof(struct rwi_slot, generation));
  SHOW("S_QUEUES", offsetof(struct rwi_slot, queues));
  SHOW("S_MTU", offsetof(struct rwi_slot, mtu));
  SHOW("S_PORT", offsetof(struct rwi_slot, port));
  SHOW("S_FLAGS", offsetof(struct rwi_slot, flags));
  SHOW("S_ERROR", offsetof(struct rwi_slot, error));
  SHOW("S_NAME", offsetof(struct rwi_slot, port_name));
  SHOW("S_HELLO", offsetof(struct rwi_slot, hello));
  SHOW("S_RESET", offsetof(struct rwi_slot, reset));
  SHOW("S_HEARTBEAT", offsetof(struct rwi_slot, heartbeat));
  SHOW("S_CLIENT_NAME", offsetof(struct rwi_slot, client_name));
  SHOW("STATE_FREE", RWI_FREE);
  SHOW("STATE_READY", RWI_READY);
  SHOW("STATE_BROKEN", RWI_BROKEN);
  SHOW("STATE_CLOSED", RWI_CLOSED);
  SHOW("FLAG_PLAIN", RWI_FLAG_PLAIN);
  SHOW("FLAG_LINK", RWI_FLAG_LINK);
  SHOW("RING_TX", RWI_TX);
  SHOW("RING_FREE", RWI_TX_FREE);
  SHOW("RING_RX", RWI_RX);
  SHOW("RING_RETURN", RWI_RX_RETURN);
  SHOW("RINGS", RWI_RINGS);
  SHOW("RING_HEADER_BYTES", sizeof(struct rwi_ring_header));
  SHOW("R_PRODUCER", offsetof(struct rwi_ring_header, producer));
  SHOW("R_WAKE", offsetof(struct rwi_ring_header, wake));
  SHOW("R_CONSUMER", offsetof(struct rwi_ring_header, consumer));
  SHOW("DESC_BYTES", sizeof(struct rwi_descriptor));
  SHOW("D_BUFFER", offsetof(struct rwi_descriptor, buffer) / 4);
  SHOW("D_OFFSET", offsetof(struct rwi_descriptor, offset) / 4);
  SHOW("D_LENGTH", offsetof(struct rwi_descriptor, length) / 4);
  SHOW("D_FLAGS", offsetof(struct rwi_descriptor, flags) / 4);
  SHOW("DESC_NEXT", RWI_NEXT);
  for (int ring = 0; ring < RWI_RINGS; ring++) {
    printf("entries of ring %d at %llu\n", ring, (unsigned long long)rwi_ring_entries_at((enum rwi_ring_number)ring, 256));
  }
  return 0;
}

static void parse(int argc, char **argv) {
  static const struct option options[] = {
      {"count", 1, 0, 'c'}, {"size", 1, 0, 's'},    {"queue", 1, 0, 'q'}, {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'w'},
      {"timeout", 1, 0, 'o'}, {"to", 1, 0, 'd'}, {"poll", 0, 0, 'p'},
      {"rate", 1, 0, 'r'}, {"window", 1, 0, 'n'}, {0, 0, 0, 0},
  };
  int letter;
  while ((letter = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (letter == 'c') option.count = strtoull(optarg, NULL, 10);
    else if (letter == 's') option.size = (uint32_t)strtoul(optarg, NULL, 10);
    else if (letter == 'q') option.queue = atoi(optarg);
    else if (letter == 't') option.seconds = atof(optarg);
    else if (letter == 'w') option.warmup = atof(optarg);
    else if (letter == 'r') option.rate = atof(optarg);
    else if (letter == 'n') option.window = strtoull(optarg, NULL, 10);
    else if (letter == 'o') option.timeout = atoi(optarg);
    else if (letter == 'd') option.to = optarg;
    else if (letter == 'p') option.poll = 1;
    else {
      fputs(usage, stderr);
      exit(2);
    }
  }
}

int main(int argc, char **argv) {
  struct rwi_device device, other_device;
  struct rwi_port port, other;
  int result = 2;
  parse(argc, argv);
  const char *mode = optind < argc ? argv[optind] : "";
  if (strcmp(mode, "layout") == 0) return layout();
  if (optind + 2 != argc || option.size < MARKED_BYTES || option.size > 65557) {
    fputs(usage, stderr);
    return 2;
  }
  option.where = argv[optind + 1];
  must_attach(option.where, &device, &port, "rwi");
  if (option.queue < 0 || option.queue >= port.queues) {
    fprintf(stderr, "--queue %d: the port has %d\n", option.queue, port.queues);
    return 2;
  }
  struct rwi_queue *queue = &port.queue[option.queue], *in = queue;
  if (option.to) {
    must_attach(option.to, &other_device, &other, "rwi");
    in = &other.queue[0];
  }
  if (strcmp(mode, "info") == 0) result = info(&port, &device);
  else if (strcmp(mode, "send") == 0) result = send_marked(queue);
  else if (strcmp(mode, "receive") == 0) result = receive_marked(queue);
  else if (strcmp(mode, "ping") == 0) result = ping(queue);
  else if (strcmp(mode, "exchange") == 0) result = exchange(queue);
  else if (strcmp(mode, "load") == 0) result = load(queue, in);
  else if (strcmp(mode, "count") == 0) result = load(NULL, in);
  else fputs(usage, stderr);
  if (option.to) {
    rwi_leave(&other);
    rwi_detach(&other_device);
  }
  rwi_leave(&port);
  rwi_detach(&device);
  return result;
}
