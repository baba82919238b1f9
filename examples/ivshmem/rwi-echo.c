/*
 * Answers every frame with the same frame, addresses swapped: the shortest whole client. Frames of any length, all queues of the port.
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "attach.h"

/* Builds the answer to a frame of `n` pieces; gives the buffers it takes, or -EAGAIN when there are not enough. */
static int answer(struct rwi_queue *queue, const struct rwi_piece *in, int n) {
  struct rwi_piece out[RWI_MAX_CHAIN];
  /* Head-room makes the first buffer of a frame smaller: one more may be needed. */
  int room = rwi_tx_reserve(queue, out, n < RWI_MAX_CHAIN ? n + 1 : n), used = 0;
  if (room <= 0) return room < 0 ? room : -EAGAIN;
  for (int i = 0; i < n; i++) {
    for (uint32_t done = 0; done < in[i].length;) {
      struct rwi_piece *to = &out[used];
      uint32_t part = in[i].length - done, space = to->room - to->length;
      if (space == 0) {
        if (++used == room) return -EAGAIN;
        to->next = 1;
        continue;
      }
      if (part > space) part = space;
      memcpy(to->data + to->length, in[i].data + done, part);
      to->length += part;
      done += part;
    }
  }
  uint8_t *frame = out[0].data, address[6];
  if (out[0].length < 14) return 0;
  memcpy(address, frame, 6);
  memcpy(frame, frame + 6, 6);
  memcpy(frame + 6, address, 6);
  return rwi_tx_send(queue, out, used + 1);
}

/* One burst of a queue. Gives the frames' pieces seen, or -errno. */
static int serve(struct rwi_queue *queue) {
  struct rwi_piece in[RWI_MAX_CHAIN];
  int n = rwi_rx_poll(queue, in, RWI_MAX_CHAIN);
  for (int start = 0, end; start < n; start = end) {
    for (end = start; in[end].next; end++) continue;
    end++;
    int sent;
    while ((sent = answer(queue, in + start, end - start)) == -EAGAIN) {
      int ready = rwi_wait(queue, RWI_WAIT_TX, 1000);
      if (ready < 0) return ready;
    }
    if (sent < 0) return sent;
  }
  rwi_rx_release(queue, in, n);
  return n;
}

int main(int argc, char **argv) {
  struct rwi_device device;
  struct rwi_port port;
  int sleeping = argc < 3 || strcmp(argv[2], "--poll") != 0;
  if (argc < 2) {
    fprintf(stderr, "usage: rwi-echo WHERE [--poll]\n" ATTACH_USAGE);
    return 2;
  }
  must_attach(argv[1], &device, &port, "rwi-echo");
  printf("echo ready, slot %d, %d queues, %s\n", port.slot_number, port.queues, device.vectors > 0 ? "doorbells" : "polling");
  fflush(stdout);
  for (;;) {
    int seen = 0;
    for (int i = 0; i < port.queues && seen >= 0; i++) {
      int n = serve(&port.queue[i]);
      seen = n < 0 ? n : seen + n;
    }
    /* With several queues a thread for each would sleep; this program just naps. */
    if (seen == 0 && sleeping) {
      if (port.queues == 1) seen = rwi_wait(&port.queue[0], RWI_WAIT_RX, 1000);
      else rwi_nap(50);
    }
    if (seen >= 0) seen = beat(&port);
    if (seen < 0) attach_again(argv[1], &device, &port, "rwi-echo");
  }
}
