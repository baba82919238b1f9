/**
 * SEND_RARP: the switch speaks for a guest that has just arrived and cannot do so itself (vhost-user.rst, "SEND_RARP").
 * The frame enters the switch as if the guest had sent it, so that every table on its way learns where the guest is now.
 *
 * An rx queue with an announcement stands around the queue proper until its worker has sent it; the main thread then takes
 * it away again.
 */
import { type PortCounter, portCounter } from '#contract/catalogue.ts';
import type { PacketBatch } from '#datapath/packet/batch.ts';
import { placeFrame } from '#datapath/packet/place.ts';
import type { PortCounters, RxQueue } from '#ports/port.ts';

/** Word of a ring's state row (vring.ts): 1 while an announcement waits. Set by the main thread, taken by a worker. */
export const STATE_ANNOUNCE = 8;

const counter = (name: PortCounter): number => portCounter(name);
const RX_PACKETS = counter('rx_packets');
const RX_BYTES = counter('rx_bytes');
const FRAME_BYTES = 60;

/** A reverse ARP request for one's own address (RFC 903), padded to the shortest Ethernet frame. */
export function rarpFrame(mac: Uint8Array): Uint8Array {
  const frame = new Uint8Array(FRAME_BYTES);
  frame.fill(0xff, 0, 6);
  frame.set(mac, 6);
  // EtherType RARP; hardware Ethernet, protocol IPv4, address lengths 6 and 4, operation "request reverse".
  frame.set([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3], 12);
  frame.set(mac, 22);
  frame.set(mac, 32);
  return frame;
}

export class AnnouncingRx implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly #inner: RxQueue;
  readonly #frame: Uint8Array;
  readonly #state: Int32Array;
  readonly #counters: PortCounters;
  /** The burst at hand is the announcement. */
  #own = false;

  /** @param state the ring's row of shared state. */
  constructor(inner: RxQueue, mac: readonly number[], state: Int32Array, counters: PortCounters) {
    this.portNo = inner.portNo;
    this.queue = inner.queue;
    this.kickFd = inner.kickFd;
    this.#inner = inner;
    this.#frame = rarpFrame(Uint8Array.from(mac));
    this.#state = state;
    this.#counters = counters;
  }

  poll(batch: PacketBatch, whole = false): number {
    if (Atomics.exchange(this.#state, STATE_ANNOUNCE, 0) === 0) return this.#inner.poll(batch, whole);
    this.#own = true;
    placeFrame(batch, this.#frame, 0, 0, FRAME_BYTES);
    batch.inPort = this.portNo;
    this.#counters.slots[this.#counters.base + RX_PACKETS]! += 1;
    this.#counters.slots[this.#counters.base + RX_BYTES]! += FRAME_BYTES;
    return 1;
  }

  complete(): void {
    if (this.#own) this.#own = false;
    else this.#inner.complete();
  }

  arm(): boolean {
    return Atomics.load(this.#state, STATE_ANNOUNCE) !== 0 || this.#inner.arm();
  }

  disarm(): void {
    this.#inner.disarm();
  }

  rest(): void {
    this.#inner.rest?.();
  }
}
