// hot
/**
 * Frames from the switch, read where they lie (docs/ivshmem-layout.md, "Receiving").
 *
 *     const n = rx.poll();
 *     for (let i = 0; i < n; i++) read rx.length[i] bytes at rx.u8[rx.at[i]];
 *     rx.release();
 *
 * They must not be written: another guest may have the same buffer. A frame longer than a buffer lies in pieces
 * `firstPiece[i]` .. `firstPiece[i] + pieceCount[i] - 1`; `copy` joins them. Frames stay readable until `release`.
 *
 * The switch's words are believed only where they stay inside of the pool.
 */
import { eventfdDrain, pollFds } from '#contract/os.ts';
import { MAX_CHAIN, STATE_READY as READY } from '#ports/ivshmem/layout.ts';
import type { QueuePlace } from './ring.ts';

// Re-bound: an imported binding costs about 2 ns at each use in a loop (Node 26.10).
const STATE_READY = READY;
const CHAIN = MAX_CHAIN;

/** Frames of one burst, at most. */
export const IV_RX_BURST = 32;
/** A burst is ended before its pieces could be more. */
const MAX_PIECES = 256;
/** Between two looks of a guest that nobody calls. */
const NAP_MICROS = 50;

export class IvRxQueue {
  /** The memory that frames lie in. Another one after the port was lost and came back. */
  u8: Uint8Array = new Uint8Array(0);
  /** First byte of frame i in `u8`, and its bytes in all. Frames with `pieceCount[i]` above 1 go on in other buffers. */
  readonly at = new Float64Array(IV_RX_BURST);
  readonly length = new Int32Array(IV_RX_BURST);
  readonly firstPiece = new Int32Array(IV_RX_BURST);
  readonly pieceCount = new Int32Array(IV_RX_BURST);
  readonly pieceAt = new Float64Array(MAX_PIECES);
  readonly pieceLength = new Int32Array(MAX_PIECES);
  /** Frames that wait for `release`. */
  count = 0;

  /** Frames received so far; entries of the switch that made no sense. */
  received = 0;
  broken = 0;
  /** The switch took the slot away, or said something that makes no sense: nothing works until the port joins again. */
  stale = false;

  readonly #held = new Uint32Array(MAX_PIECES);
  readonly #waitFds = new Int32Array(1);
  #heldCount = 0;
  #u32: Uint32Array = new Uint32Array(0);
  #open = false;
  #state = 0;
  #generationWord = 0;
  #generation = 0;
  #mask = 0;
  #bufferOffset = 0;
  #bufferBytes = 0;
  #bufferCount = 0;
  #rxProducer = 0;
  #rxConsumer = 0;
  #rxWake = 0;
  #rxEntries = 0;
  #backProducer = 0;
  #backEntries = 0;
  #rxIndex = 0;
  #backIndex = 0;
  #callFd = -1;

  /** Begins anew in a slot just joined. */
  attach(place: QueuePlace): void {
    const { pool, rx, back } = place;
    const g = pool.geometry;
    this.u8 = pool.u8;
    this.#u32 = pool.u32;
    this.#state = place.state;
    this.#generationWord = place.generationWord;
    this.#generation = place.generation;
    this.#mask = g.entries - 1;
    this.#bufferOffset = g.bufferOffset;
    this.#bufferBytes = g.bufferBytes;
    this.#bufferCount = g.bufferCount;
    this.#rxProducer = rx.producer;
    this.#rxConsumer = rx.consumer;
    this.#rxWake = rx.wake;
    this.#rxEntries = rx.entries;
    this.#backProducer = back.producer;
    this.#backEntries = back.entries;
    this.#rxIndex = 0;
    this.#backIndex = 0;
    this.#heldCount = 0;
    this.count = 0;
    this.#callFd = place.callFd;
    this.stale = false;
    this.#open = true;
  }

  /** After it nothing is received: the slot, or its memory, is gone. */
  detach(): void {
    this.#open = false;
    this.#heldCount = 0;
    this.count = 0;
    this.#callFd = -1;
  }

  /** Takes the next burst; the one before must be released. @returns frames, at most IV_RX_BURST. */
  poll(): number {
    this.count = 0;
    if (!this.#open || this.#heldCount > 0) return 0;
    const u32 = this.#u32;
    if (u32[this.#state] !== STATE_READY || u32[this.#generationWord] !== this.#generation) {
      this.stale = true;
      return 0;
    }
    const end = Atomics.load(u32, this.#rxProducer);
    let index = this.#rxIndex;
    if (index === end) return 0;
    const mask = this.#mask;
    if ((end - index) >>> 0 > mask + 1) {
      this.stale = true;
      return 0;
    }
    const entries = this.#rxEntries;
    const first = this.#bufferOffset;
    const bytes = this.#bufferBytes;
    const buffers = this.#bufferCount;
    const held = this.#held;
    const at = this.at;
    const lengths = this.length;
    const firstPiece = this.firstPiece;
    const pieceCount = this.pieceCount;
    const pieceAt = this.pieceAt;
    const pieceLength = this.pieceLength;
    let pieces = 0;
    let heldCount = 0;
    let n = 0;
    // Every entry of a frame is published together: a chain that does not end is broken, as is one of too many pieces.
    while (index !== end && n < IV_RX_BURST) {
      if (heldCount + CHAIN > MAX_PIECES) break;
      const start = pieces;
      let total = 0;
      let sane = true;
      let more = 1;
      while (more !== 0 && index !== end && pieces - start < CHAIN) {
        const d = entries + (index & mask) * 4;
        const buffer = u32[d]!;
        const offset = u32[d + 1]!;
        const length = u32[d + 2]!;
        more = u32[d + 3]! & 1;
        index = (index + 1) >>> 0;
        if (buffer >= buffers) {
          sane = false;
          continue;
        }
        held[heldCount++] = buffer;
        if (offset + length > bytes) sane = false;
        pieceAt[pieces] = first + buffer * bytes + offset;
        pieceLength[pieces] = length;
        pieces++;
        total += length;
      }
      if (!sane || more !== 0) {
        this.broken++;
        pieces = start;
        // Its buffers are given back with the burst.
        continue;
      }
      at[n] = pieceAt[start]!;
      lengths[n] = total;
      firstPiece[n] = start;
      pieceCount[n] = pieces - start;
      n++;
    }
    this.#rxIndex = index;
    this.#heldCount = heldCount;
    u32[this.#rxConsumer] = index;
    this.count = n;
    this.received += n;
    if (n === 0) this.release();
    return n;
  }

  /** Gives the buffers of the last poll back to the switch; its frames must not be read after it. */
  release(): void {
    const count = this.#heldCount;
    this.count = 0;
    if (count === 0 || !this.#open) return;
    const u32 = this.#u32;
    const mask = this.#mask;
    const entries = this.#backEntries;
    const held = this.#held;
    const index = this.#backIndex;
    for (let i = 0; i < count; i++) u32[entries + ((index + i) & mask)] = held[i]!;
    this.#heldCount = 0;
    this.#backIndex = (index + count) >>> 0;
    Atomics.store(u32, this.#backProducer, this.#backIndex);
  }

  /** Copies frame i into `target` at `offset`. @returns its bytes. */
  copy(i: number, target: Uint8Array, offset = 0): number {
    const u8 = this.u8;
    const first = this.firstPiece[i]!;
    const end = first + this.pieceCount[i]!;
    for (let piece = first; piece < end; piece++) {
      const at = this.pieceAt[piece]!;
      const bytes = this.pieceLength[piece]!;
      target.set(u8.subarray(at, at + bytes), offset);
      offset += bytes;
    }
    return this.length[i]!;
  }

  /** Asks the switch to call at the next frame. @returns true when frames wait already. */
  arm(): boolean {
    if (!this.#open) return false;
    Atomics.store(this.#u32, this.#rxWake, 1);
    return Atomics.load(this.#u32, this.#rxProducer) !== this.#rxIndex;
  }

  disarm(): void {
    if (this.#open) Atomics.store(this.#u32, this.#rxWake, 0);
  }

  /**
   * Blocks the calling thread until frames wait, for at most `timeoutMs`: by doorbell or, where there is none, by looking
   * every 50 microseconds. Releases the frames of the last poll first.
   * @returns true when `poll` will find frames.
   */
  waitReadable(timeoutMs: number): boolean {
    this.release();
    if (!this.#open) return false;
    if (this.#callFd < 0) return this.#waitLooking(timeoutMs);
    eventfdDrain(this.#callFd);
    let ready = this.arm();
    if (!ready) {
      this.#waitFds[0] = this.#callFd;
      pollFds(this.#waitFds, 1, Math.round(timeoutMs * 1000));
      ready = Atomics.load(this.#u32, this.#rxProducer) !== this.#rxIndex;
    }
    this.disarm();
    return ready;
  }

  #waitLooking(timeoutMs: number): boolean {
    const turns = (timeoutMs * 1000) / NAP_MICROS;
    for (let turn = 0; turn <= turns; turn++) {
      if (Atomics.load(this.#u32, this.#rxProducer) !== this.#rxIndex) return true;
      pollFds(this.#waitFds, 0, NAP_MICROS);
    }
    return false;
  }

  /** eventfd that the switch signals after `arm`, or -1. */
  get callFd(): number {
    return this.#callFd;
  }
}
