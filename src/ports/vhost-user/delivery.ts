// hot
/**
 * Puts one frame, given as pieces, into guest buffers of any shape: chains, indirect tables, several regions, and with
 * MRG_RXBUF several buffers (virtio 1.2 section 5.1.6.4). The straight path of tx.ts does without it.
 *
 * The caller lists the pieces, virtio-net header first, in `sourceAddress` and `sourceLength`; `deliver` takes buffers from
 * the ring, writes their used elements, and adds the copies to the batch. Nothing is shown to the guest here.
 */
import type { PacketBatch } from '#datapath/packet/batch.ts';
import { type ChainWalker, WALK_LOOP, WALK_OK, WALK_WAIT } from './chain.ts';
import { FramePieces } from './pieces.ts';
import { DESC_WRITE, type Vring } from './vring.ts';

export const DELIVERED = 0;
/** Not enough buffers now. */
export const DELIVER_FULL = 1;
/** The buffers are too small, and always will be. */
export const DELIVER_TOO_BIG = 2;
/** A buffer was bad; `taken` chains go back to the guest empty. */
export const DELIVER_BAD = 3;
/** The ring makes no sense: descriptor number, or a loop. */
export const DELIVER_BROKEN_HEAD = 4;
export const DELIVER_BROKEN_LOOP = 5;

/** A buffer's translation is not here yet. */
export const DELIVER_WAIT = 6;

export class Delivery extends FramePieces {
  /** Chains that the last `deliver` used up. */
  taken = 0;
  readonly #vring: Vring;
  readonly #walker: ChainWalker;
  readonly #headerBytes: number;
  readonly #mergeable: boolean;

  constructor(vring: Vring, walker: ChainWalker, headerBytes: number, mergeable: boolean) {
    super();
    this.#vring = vring;
    this.#walker = walker;
    this.#headerBytes = headerBytes;
    this.#mergeable = mergeable;
  }

  /**
   * @param cursor first available entry to take; @param available entries that may be taken.
   * @param header16, buffersAt where to write num_buffers, the header being private memory that is copied later.
   */
  deliver(batch: PacketBatch, cursor: number, available: number, header16: Uint16Array, buffersAt: number): number {
    const vring = this.#vring;
    const walker = this.#walker;
    const used = vring.used;
    const mask = vring.size - 1;
    const need = this.bytes();
    let chains = 0;
    let left = need;
    walker.clear();
    this.taken = 0;
    while (left > 0) {
      if (chains === available) return available === vring.size ? DELIVER_TOO_BIG : DELIVER_FULL;
      const entry = (cursor + chains) & mask;
      const head = vring.avail[entry + 2]!;
      if (head >= vring.size) return DELIVER_BROKEN_HEAD;
      used[2 * entry + 1] = head;
      const walked = walker.walk(vring.desc, vring.size, head, DESC_WRITE);
      if (walked === WALK_LOOP) return DELIVER_BROKEN_LOOP;
      if (walked === WALK_WAIT) return DELIVER_WAIT;
      chains++;
      if (walked !== WALK_OK || (chains === 1 && walker.bytes < this.#headerBytes)) {
        this.#giveBack(cursor, chains);
        return DELIVER_BAD;
      }
      const bytes = walker.bytes;
      if (bytes < left && !this.#mergeable) return DELIVER_TOO_BIG;
      used[2 * entry + 2] = bytes < left ? bytes : left;
      left -= bytes;
    }
    if (this.#mergeable) header16[buffersAt] = chains;
    this.addRows(batch, need, walker);
    this.taken = chains;
    return DELIVERED;
  }

  /** Used elements of length 0, so that a bad buffer does not block the ring for ever. */
  #giveBack(cursor: number, chains: number): void {
    const used = this.#vring.used;
    const mask = this.#vring.size - 1;
    for (let i = 0; i < chains; i++) used[2 * ((cursor + i) & mask) + 2] = 0;
    this.taken = chains;
  }
}
