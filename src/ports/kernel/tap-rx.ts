// hot
/**
 * Receive half of a TAP queue: frames that the host sends into the device.
 *
 * Whether there are frames is known only by a system call. While there are none it is made less and less often, so that
 * a quiet device costs the other queues of the worker little; a worker that sleeps is woken by poll() in any case.
 */
import { DROP_BASE, dropReason, portCounter } from '#contract/catalogue.ts';
import { receiveFrames } from '#contract/os.ts';
import { BURST, HEADROOM, MAX_FRAME, type PacketBatch, SLOT_BYTES, WINDOW } from '#datapath/packet/batch.ts';
import type { PortCounters, RxQueue } from '#ports/port.ts';
import type { Landing } from './landing.ts';
import { fillSlot, VNET_HEADER } from './rx-slot.ts';

const MAX_BURST = BURST;
const HEADER = VNET_HEADER;
const SLOT = SLOT_BYTES;
const HEAD = HEADROOM;
const WINDOW_BYTES = WINDOW;
const LONGEST = MAX_FRAME;
const ETHERNET = 14;
/** Polls that pass without a system call after a long quiet time. */
const MOST_SKIPPED = 32;
const receive = receiveFrames;
const fill = fillSlot;

const RX_PACKETS = portCounter('rx_packets');
const RX_BYTES = portCounter('rx_bytes');
const RX_BURSTS = portCounter('rx_bursts');
const SHORT_FRAME = DROP_BASE + dropReason('rx_short_frame');
const OVERSIZE = DROP_BASE + dropReason('rx_oversize');
const BAD_OFFLOAD = DROP_BASE + dropReason('rx_bad_offload');

export class TapRxQueue implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly kickIsLevel = true;
  readonly #landing: Landing;
  readonly #counters: PortCounters;
  #skip = 0;
  #quiet = 0;

  constructor(portNo: number, queue: number, fd: number, landing: Landing, counters: PortCounters) {
    this.portNo = portNo;
    this.queue = queue;
    this.kickFd = fd;
    this.#landing = landing;
    this.#counters = counters;
  }

  poll(batch: PacketBatch): number {
    if (this.#skip > 0) {
      this.#skip--;
      return 0;
    }
    const landing = this.#landing;
    const lengths = landing.lengths;
    const got = receive(this.kickFd, false, landing.pieces, MAX_BURST, lengths);
    if (got <= 0) {
      if (this.#quiet < MOST_SKIPPED) this.#quiet++;
      this.#skip = this.#quiet;
      return 0;
    }
    this.#quiet = 0;
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    let kept = 0;
    let bytes = 0;
    for (let i = 0; i < got; i++) {
      const length = lengths[i]! - HEADER;
      let problem = 0;
      if (length < ETHERNET) problem = SHORT_FRAME;
      else if (length > LONGEST) problem = OVERSIZE;
      else {
        const from = i * SLOT + HEAD;
        const to = kept * SLOT + HEAD;
        if (kept !== i) batch.u8.copyWithin(to - HEADER, from - HEADER, from + WINDOW_BYTES);
        if (!fill(batch, kept, to, length, landing.rest + i * landing.restBytes)) problem = BAD_OFFLOAD;
      }
      if (problem !== 0) {
        slots[base + problem]! += 1;
        continue;
      }
      bytes += length;
      kept++;
    }
    if (kept === 0) return 0;
    slots[base + RX_PACKETS]! += kept;
    slots[base + RX_BYTES]! += bytes;
    slots[base + RX_BURSTS]! += 1;
    batch.count = kept;
    batch.inPort = this.portNo;
    return kept;
  }

  /** Frames were copied out of the kernel. */
  complete(): void {}

  /** poll() on a TAP queue returns at once when frames wait. */
  arm(): boolean {
    this.#skip = 0;
    this.#quiet = 0;
    return false;
  }

  disarm(): void {}
}
