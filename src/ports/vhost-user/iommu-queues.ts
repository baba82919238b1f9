// hot
/**
 * Queues of a guest behind an IOMMU. They stand around the queues proper and mark where a burst begins and ends, between
 * which translations stay good; they keep away from rings whose own addresses have no translation; and they look ahead.
 *
 * A frame of the guest whose buffer has no translation yet stays in the ring, and what is behind it too: order is kept. A
 * frame for the guest cannot wait: it is dropped (tx_iotlb_miss). Buffers are looked at before frames for them come, so
 * that happens only to a guest that maps buffers faster than its front end answers.
 */
import { DROP_BASE, dropReason } from '#contract/catalogue.ts';
import type { PacketBatch } from '#datapath/packet/batch.ts';
import type { PortCounters, RxQueue, TxQueue } from '#ports/port.ts';
import { PAUSED } from './iotlb-shared.ts';
import type { IommuWorker } from './iova-space.ts';
import type { LookAhead } from './look-ahead.ts';

const PAUSE = PAUSED;
const IOTLB_MISS = DROP_BASE + dropReason('tx_iotlb_miss');
/** Polls without a frame between two looks at the buffers that the guest offers. */
const IDLE_POLLS = 64;

export class IommuRx implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly #inner: RxQueue;
  readonly #iommu: IommuWorker;
  readonly #paused: number;
  readonly #ahead: LookAhead;
  readonly #buffers: IommuTx | undefined;
  #open = false;
  #idle = 0;

  /** @param ring its number. @param ahead looks at this ring. @param buffers the queue on which this worker sends to the port. */
  constructor(inner: RxQueue, iommu: IommuWorker, ring: number, ahead: LookAhead, buffers: IommuTx | undefined) {
    this.portNo = inner.portNo;
    this.queue = inner.queue;
    this.kickFd = inner.kickFd;
    this.#inner = inner;
    this.#iommu = iommu;
    this.#paused = PAUSE + ring;
    this.#ahead = ahead;
    this.#buffers = buffers;
  }

  poll(batch: PacketBatch, whole = false): number {
    const iommu = this.#iommu;
    if (!this.#open) iommu.enter();
    this.#open = false;
    if (Atomics.load(iommu.shared.words, this.#paused) !== 0) {
      iommu.leave();
      return 0;
    }
    const asked = iommu.asked;
    const n = this.#inner.poll(batch, whole);
    if (iommu.asked !== asked) this.#ahead.run();
    if (n > 0) {
      this.#open = true;
      return n;
    }
    if (this.#buffers !== undefined && ++this.#idle >= IDLE_POLLS) {
      this.#idle = 0;
      this.#buffers.look();
    }
    iommu.leave();
    return 0;
  }

  complete(): void {
    this.#inner.complete();
    if (!this.#open) return;
    this.#open = false;
    this.#iommu.leave();
  }

  arm(): boolean {
    const iommu = this.#iommu;
    let waiting = false;
    iommu.enter();
    if (Atomics.load(iommu.shared.words, this.#paused) === 0) {
      waiting = this.#inner.arm();
      if (this.#buffers !== undefined) this.#buffers.look();
    } else {
      this.rest();
    }
    iommu.leave();
    return waiting;
  }

  disarm(): void {
    const iommu = this.#iommu;
    iommu.enter();
    if (Atomics.load(iommu.shared.words, this.#paused) === 0) this.#inner.disarm();
    iommu.leave();
  }

  rest(): void {
    this.#inner.rest?.();
  }
}

export class IommuTx implements TxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly shared: boolean;
  readonly journaled: boolean;
  readonly #inner: TxQueue;
  readonly #iommu: IommuWorker;
  readonly #paused: number;
  readonly #ahead: LookAhead;
  readonly #counters: PortCounters;
  #open = false;
  #pushed = false;

  /** @param ring its number. @param ahead looks at this ring. */
  constructor(inner: TxQueue, iommu: IommuWorker, ring: number, ahead: LookAhead, counters: PortCounters) {
    this.portNo = inner.portNo;
    this.queue = inner.queue;
    this.shared = inner.shared;
    this.journaled = inner.journaled === true;
    this.#inner = inner;
    this.#iommu = iommu;
    this.#paused = PAUSE + ring;
    this.#ahead = ahead;
    this.#counters = counters;
  }

  lock(): boolean {
    return this.#inner.lock();
  }

  unlock(): void {
    this.#inner.unlock();
  }

  push(batch: PacketBatch, list: Int32Array, n: number): number {
    const iommu = this.#iommu;
    if (!this.#open) iommu.enter();
    this.#open = true;
    this.#pushed = Atomics.load(iommu.shared.words, this.#paused) === 0;
    if (this.#pushed) return this.#inner.push(batch, list, n);
    this.#counters.slots[this.#counters.base + IOTLB_MISS]! += n;
    return 0;
  }

  publish(): void {
    if (this.#pushed) {
      this.#inner.publish();
      this.#ahead.run();
    }
    this.#pushed = false;
    if (!this.#open) return;
    this.#open = false;
    this.#iommu.leave();
  }

  /** Within a burst of its port: asks for buffers that the guest has offered since. */
  look(): void {
    if (Atomics.load(this.#iommu.shared.words, this.#paused) === 0) this.#ahead.run();
  }
}
