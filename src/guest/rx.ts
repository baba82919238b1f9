// hot
/**
 * Frames from the switch: the driver's side of a receive virtqueue (virtio 1.2 sections 2.7.14 and 5.1.6.4).
 *
 *     const n = rx.poll();
 *     for (let i = 0; i < n; i++) read rx.length[i] bytes at rx.u8[rx.at[i]];
 *     rx.release();
 *
 * With MRG_RXBUF a frame may lie in several buffers: frame i has pieces `firstPiece[i]` .. `firstPiece[i] + pieceCount[i] - 1`,
 * and `copy` joins them. Frames stay readable until `release`.
 *
 * Invariants: a buffer's chain is written once and never changes, so that giving a buffer back is one store in the
 * available ring. Ids and lengths that the switch writes are believed only where the buffer is out and the bytes fit.
 */
import { eventfdDrain, pollFds, eventfdSignal as signalFd } from '#contract/os.ts';
import {
  AVAIL_NO_INTERRUPT as NO_INTERRUPT,
  USED_NO_NOTIFY as NO_NOTIFY,
  planShape,
  postBuffers,
  type RingLayout,
} from './layout.ts';
import type { Block } from './memory.ts';
import type { ChainShape } from './options.ts';
import { MAX_RX_PIECES, ReceivedFrames, RX_BURST } from './received.ts';

// Re-bound: an imported binding costs about 2 ns at each use in a loop (Node 26.10).
const signal = signalFd;
const AVAIL_NO_INTERRUPT = NO_INTERRUPT;
const USED_NO_NOTIFY = NO_NOTIFY;

const MAX_PIECES = MAX_RX_PIECES;

export class RxQueue extends ReceivedFrames {
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #block: Block;
  readonly #layout: RingLayout;
  readonly #frameBytes: number;
  readonly #mask: number;
  readonly #avail: number;
  readonly #used: number;
  readonly #usedEvent: number;
  readonly #availEvent: number;
  /** Per head: offset of its buffer's frame, and 1 while the buffer is the switch's. */
  readonly #headAt: Float64Array;
  readonly #out: Uint8Array;
  readonly #held: Uint16Array;
  readonly #waitFds = new Int32Array(1);
  #heldCount = 0;
  #availIndex = 0;
  #lastUsed = 0;
  #headerBytes = 12;
  #mergeable = false;
  #eventIndex = false;
  #open = false;
  #kickFd = -1;
  #callFd = -1;

  /** @param frameBytes longest frame that one buffer holds. */
  constructor(block: Block, layout: RingLayout, frameBytes: number) {
    const file = block.file;
    super(file.u8);
    this.#u16 = file.u16;
    this.#u32 = file.u32;
    this.#block = block;
    this.#layout = layout;
    this.#frameBytes = frameBytes;
    this.#mask = layout.size - 1;
    this.#avail = (block.ringAt + layout.availAt) / 2;
    this.#used = (block.ringAt + layout.usedAt) / 4;
    this.#usedEvent = this.#avail + 2 + layout.size;
    this.#availEvent = (this.#used + 1 + 2 * layout.size) * 2;
    this.#headAt = new Float64Array(layout.size);
    this.#out = new Uint8Array(layout.size);
    this.#held = new Uint16Array(layout.size);
  }

  /** Takes up what was negotiated. To be followed by `reset`. */
  configure(headerBytes: number, eventIndex: boolean, mergeable: boolean): void {
    this.#headerBytes = headerBytes;
    this.#eventIndex = eventIndex;
    this.#mergeable = mergeable;
  }

  /**
   * Writes the chains of all buffers and gives them to the switch. Only while the switch does not look.
   * @throws RangeError when the shape does not fit the ring.
   */
  reset(shape: ChainShape, indirectAllowed: boolean): void {
    const { size, usedAt } = this.#layout;
    const block = this.#block;
    const plan = planShape(shape, size, indirectAllowed);
    const posted = postBuffers(block, this.#layout, plan, this.#headerBytes, this.#frameBytes);
    this.#u16.fill(0, this.#avail, this.#avail + 3 + size);
    this.#u32.fill(0, (block.ringAt + usedAt) / 4, (block.ringAt + usedAt) / 4 + 2 + 2 * size);
    this.#out.fill(0);
    for (let i = 0; i < posted.length; i++) {
      const head = i * plan.ringDescriptors;
      this.#headAt[head] = posted[i]!;
      this.#out[head] = 1;
      this.#u16[this.#avail + 2 + i] = head;
    }
    this.#heldCount = 0;
    this.count = 0;
    this.#lastUsed = 0;
    this.#availIndex = posted.length & 0xffff;
    this.disarm();
    Atomics.store(this.#u16, this.#avail + 1, this.#availIndex);
  }

  attach(kickFd: number, callFd: number): void {
    this.#kickFd = kickFd;
    this.#callFd = callFd;
    this.#open = true;
  }

  close(): void {
    this.#open = false;
    this.#kickFd = -1;
    this.#callFd = -1;
    this.count = 0;
  }

  /** used.idx as the switch left it: where a new connection goes on. */
  get usedIndex(): number {
    return Atomics.load(this.#u16, this.#used * 2 + 1);
  }

  /**
   * Looks for frames, at most RX_BURST. Frames of the last poll are released first.
   * @returns number of frames; fields 0 .. n-1 describe them.
   */
  poll(): number {
    if (this.count > 0 || this.#heldCount > 0) this.release();
    if (!this.#open) return 0;
    const u16 = this.#u16;
    const end = Atomics.load(u16, this.#used * 2 + 1);
    let index = this.#lastUsed;
    if (index === end) return 0;
    const u32 = this.#u32;
    const mask = this.#mask;
    const used = this.#used + 1;
    const out = this.#out;
    const headAt = this.#headAt;
    const held = this.#held;
    const header = this.#headerBytes;
    const mergeable = this.#mergeable;
    const frameBytes = this.#frameBytes;
    const offsets = this.at;
    const lengths = this.length;
    const firstPiece = this.firstPiece;
    const pieceCount = this.pieceCount;
    const pieceAt = this.pieceAt;
    const pieceLength = this.pieceLength;
    const flags = this.flags;
    const gsoType = this.gsoType;
    const gsoSize = this.gsoSize;
    const headerLength = this.headerLength;
    const csumStart = this.csumStart;
    const csumOffset = this.csumOffset;
    let heldCount = this.#heldCount;
    let pieces = 0;
    let n = 0;
    while (index !== end && n < RX_BURST) {
      const id = u32[used + (index & mask) * 2]!;
      const bytes = u32[used + (index & mask) * 2 + 1]! - header;
      if (id > mask || out[id] === 0) {
        this.broken++;
        index = (index + 1) & 0xffff;
        continue;
      }
      const at = headAt[id]!;
      const h = (at - header) / 2;
      let count = 1;
      if (mergeable) {
        count = u16[h + 5]!;
        // The switch publishes a frame's buffers together (section 5.1.6.4); fewer would never become a frame.
        if (count === 0 || count > ((end - index) & 0xffff) || pieces + count > MAX_PIECES) {
          if (n > 0 && pieces + count > MAX_PIECES && count <= ((end - index) & 0xffff)) break;
          count = 0;
        }
      }
      out[id] = 0;
      held[heldCount++] = id;
      index = (index + 1) & 0xffff;
      if (count === 0 || bytes <= 0 || bytes > frameBytes) {
        this.broken++;
        continue;
      }
      offsets[n] = at;
      firstPiece[n] = pieces;
      pieceAt[pieces] = at;
      pieceLength[pieces] = bytes;
      let total = bytes;
      let taken = 1;
      while (taken < count) {
        const next = u32[used + (index & mask) * 2]!;
        const more = u32[used + (index & mask) * 2 + 1]!;
        if (next > mask || out[next] === 0 || more > frameBytes + header) break;
        out[next] = 0;
        held[heldCount++] = next;
        index = (index + 1) & 0xffff;
        // Buffers after the first hold frame bytes only, from where the header would begin.
        pieceAt[pieces + taken] = headAt[next]! - header;
        pieceLength[pieces + taken] = more;
        total += more;
        taken++;
      }
      if (taken < count) {
        this.broken++;
        continue;
      }
      pieceCount[n] = count;
      lengths[n] = total;
      flags[n] = u16[h]!;
      gsoType[n] = u16[h]! >>> 8;
      headerLength[n] = u16[h + 1]!;
      gsoSize[n] = u16[h + 2]!;
      csumStart[n] = u16[h + 3]!;
      csumOffset[n] = u16[h + 4]!;
      pieces += count;
      n++;
    }
    this.#heldCount = heldCount;
    this.#lastUsed = index;
    this.count = n;
    this.received += n;
    return n;
  }

  /** Gives the buffers of the last poll back to the switch; its frames must not be read after it. */
  release(): void {
    const count = this.#heldCount;
    this.count = 0;
    if (count === 0 || !this.#open) return;
    const u16 = this.#u16;
    const mask = this.#mask;
    const ring = this.#avail + 2;
    const held = this.#held;
    const out = this.#out;
    const first = this.#availIndex;
    for (let i = 0; i < count; i++) {
      const head = held[i]!;
      out[head] = 1;
      u16[ring + ((first + i) & mask)] = head;
    }
    this.#heldCount = 0;
    const index = (first + count) & 0xffff;
    this.#availIndex = index;
    Atomics.store(u16, this.#avail + 1, index);
    let wanted = false;
    if (this.#eventIndex) {
      wanted = ((index - Atomics.load(u16, this.#availEvent) - 1) & 0xffff) < ((index - first) & 0xffff);
    } else {
      wanted = (Atomics.load(u16, this.#used * 2) & USED_NO_NOTIFY) === 0;
    }
    if (wanted && this.#kickFd >= 0) signal(this.#kickFd);
  }

  /** Asks the switch to call at the next frame. @returns true when frames wait already. */
  arm(): boolean {
    if (!this.#open) return false;
    if (this.#eventIndex) Atomics.store(this.#u16, this.#usedEvent, this.#lastUsed);
    Atomics.store(this.#u16, this.#avail, 0);
    return Atomics.load(this.#u16, this.#used * 2 + 1) !== this.#lastUsed;
  }

  /** Asks the switch not to call; with EVENT_IDX it still does once in 65 536 buffers. */
  disarm(): void {
    if (this.#eventIndex) {
      // The flags word must be 0 with EVENT_IDX (section 2.7.7.1): an event index just passed keeps the switch still.
      Atomics.store(this.#u16, this.#usedEvent, (this.#lastUsed - 1) & 0xffff);
      Atomics.store(this.#u16, this.#avail, 0);
    } else {
      Atomics.store(this.#u16, this.#avail, AVAIL_NO_INTERRUPT);
    }
  }

  /**
   * Blocks the calling thread until frames wait, for at most `timeoutMs` (-1: for ever). Releases the frames of the last
   * poll first.
   * @returns true when `poll` will find frames.
   */
  waitReadable(timeoutMs: number): boolean {
    this.release();
    if (!this.#open) return false;
    eventfdDrain(this.#callFd);
    let ready = this.arm();
    if (!ready) {
      this.#waitFds[0] = this.#callFd;
      pollFds(this.#waitFds, 1, timeoutMs < 0 ? -1 : Math.round(timeoutMs * 1000));
      ready = Atomics.load(this.#u16, this.#used * 2 + 1) !== this.#lastUsed;
    }
    this.disarm();
    return ready;
  }

  /** eventfd that the switch signals after `arm`, or -1. */
  get callFd(): number {
    return this.#callFd;
  }
}
