/**
 * Cases of rings: one guest's transmit ring and another's receive ring, as the case says, one to three bursts from the one
 * to the other, and everything that must hold afterwards whatever the guests did.
 */
import { DROP_BASE, DROP_REASONS, PORT_ROW, portCounter } from '#contract/catalogue.ts';
import { close, map, memfd, release } from '#contract/os.ts';
import { type PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import type { RxQueue, TxQueue, WorkerPort } from '#ports/port.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { vhostPort } from '#ports/vhost-user/factory.ts';
import { STATE_BROKEN, STATE_CURSOR, STATE_WORDS } from '#ports/vhost-user/vring.ts';
import { Arena, GUEST_BASE, PAGE } from './arena.ts';
import type { GroupPlan, SidePlan } from './plan.ts';
import { FuzzRing, type Offer } from './ring.ts';

export const SENDER_CANARY = 0xc3;
const RECEIVER_CANARY = 0x96;
/** Bytes of a log that covers GUEST_BASE and 32 pages. */
const LOG_BYTES = Math.ceil((GUEST_BASE / PAGE + 64) / 8);
const RX_PACKETS = portCounter('rx_packets');
const list = Int32Array.from({ length: SLOTS }, (_, i) => i);
let generations = 2_000_000;

export class Side {
  readonly plan: SidePlan;
  readonly arena: Arena;
  readonly ring: FuzzRing;
  readonly counters = new Float64Array(PORT_ROW);
  readonly words: Int32Array;
  readonly #state = new SharedArrayBuffer(2 * STATE_WORDS * 4);
  readonly #batch: PacketBatch;
  readonly #index: number;
  readonly #portNo: number;
  readonly #logFd: number;
  readonly log: Uint8Array | undefined;
  port: WorkerPort;

  constructor(portNo: number, plan: SidePlan, sends: boolean, batch: PacketBatch) {
    this.plan = plan;
    this.#portNo = portNo;
    this.#batch = batch;
    this.#index = sends ? 1 : 0;
    this.arena = new Arena(portNo, plan.regions, sends ? SENDER_CANARY : RECEIVER_CANARY);
    this.ring = new FuzzRing(this.arena, plan.size, plan.packed, !sends);
    this.words = new Int32Array(this.#state, this.#index * STATE_WORDS * 4, STATE_WORDS);
    this.#logFd = plan.logged ? memfd('log', Math.ceil(LOG_BYTES / PAGE) * PAGE) : -1;
    if (plan.logged) this.log = new Uint8Array(map(this.#logFd, 0, LOG_BYTES, { write: true, owner: 0 }));
    this.port = this.#attach(plan.startAt);
  }

  get rx(): RxQueue {
    return this.port.rx[0]!;
  }
  get tx(): TxQueue {
    return this.port.tx!;
  }
  get place(): number {
    return this.words[STATE_CURSOR]!;
  }
  get broken(): number {
    return this.words[STATE_BROKEN]!;
  }

  /** As a guest does that connects again: a new view, the ring from where it stood. */
  reattach(): void {
    this.port.close();
    this.port = this.#attach(this.place);
  }

  /** Frames taken and dropped, or dropped instead of being sent, since the counters were cleared. */
  get packets(): number {
    return this.counters[RX_PACKETS]!;
  }
  get drops(): number {
    let sum = 0;
    for (let i = 0; i < DROP_REASONS.length; i++) sum += this.counters[DROP_BASE + i]!;
    return sum;
  }

  close(): void {
    this.port.close();
    this.arena.close();
    if (this.log) release(this.log.buffer as ArrayBuffer);
    if (this.#logFd >= 0) close(this.#logFd);
  }

  #attach(place: number): WorkerPort {
    this.words.fill(0);
    this.words[STATE_CURSOR] = place;
    const { plan } = this;
    const { descriptors, driver, device } = FuzzRing.offsets;
    const logged = plan.logged && {
      log: { fd: this.#logFd, offset: 0, size: LOG_BYTES },
      logAll: true,
    };
    const attachment: VhostUserAttachment = {
      kind: 'vhost-user',
      portNo: this.#portNo,
      rxQueues: this.#index === 1 ? [0] : [],
      generation: generations++,
      regions: this.arena.regions,
      rings: [
        {
          index: this.#index,
          size: plan.size,
          descriptorRegion: 0,
          descriptorOffset: descriptors,
          availableRegion: 0,
          availableOffset: driver,
          usedRegion: 0,
          usedOffset: device,
          kickFd: -1,
          callFd: -1,
          ...(plan.logged && { log: { usedAt: GUEST_BASE + device, descriptorsAt: GUEST_BASE + descriptors } }),
        },
      ],
      packed: plan.packed,
      state: this.#state,
      rx: plan.rx,
      tx: plan.tx,
      ...logged,
    };
    const context = {
      worker: 0,
      workers: plan.shared ? 2 : 1,
      counters: { slots: this.counters, base: 0 },
      batch: this.#batch,
    };
    return vhostPort(attachment, context, undefined);
  }
}

/** The two ports of a group, and the burst between them. */
export class RingRig {
  readonly from: Side;
  readonly to: Side;
  readonly unread: boolean;
  readonly #batch: PacketBatch;

  constructor(plan: GroupPlan, batch: PacketBatch) {
    this.#batch = batch;
    this.from = new Side(1, plan.from, true, batch);
    this.to = new Side(2, plan.to, false, batch);
    this.unread = plan.unread;
  }

  /**
   * One burst. @param between called when frames have been taken, and when buffers have been.
   * @returns packets taken, and how many of them were sent; -1: the shared queue was not to be had.
   */
  burst(between: () => void): [taken: number, sent: number] {
    const batch = this.#batch;
    const { rx } = this.from;
    const { tx } = this.to;
    const n = rx.poll(batch, this.unread);
    let sent = 0;
    if (n > 0) {
      between();
      if (tx.shared && !tx.lock()) return [n, -1];
      sent = tx.push(batch, list, n);
      between();
      batch.copy();
      tx.publish();
      if (tx.shared) tx.unlock();
      rx.complete();
    }
    batch.clear();
    return [n, sent];
  }

  /** Nothing of a failed case stays. */
  discard(): void {
    this.#batch.rowCount = 0;
    this.#batch.clear();
  }

  close(): void {
    this.discard();
    this.from.close();
    this.to.close();
  }
}

/** Marks as right whatever lies in offered memory and in the switch's part of the ring. */
export const settleOffers = (side: Side, offer: Offer): void => {
  side.ring.allowUsed();
  for (const [at, bytes] of offer.write) side.arena.allow(at, bytes);
};
