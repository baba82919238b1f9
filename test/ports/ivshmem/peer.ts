/** A client of an ivshmem pool as short as it can be: one queue pair, by the page docs/ivshmem-layout.md. */
import { map, release } from '#contract/os.ts';
import * as layout from '#ports/ivshmem/layout.ts';
import type { Pool } from '#ports/ivshmem/pool.ts';

export interface Piece {
  readonly buffer: number;
  readonly offset: number;
  readonly length: number;
}

/** The clients of a test share a mapping. */
const mappings = new WeakMap<Pool, ArrayBuffer>();
const mappingOf = (pool: Pool): ArrayBuffer => {
  const memory = mappings.get(pool) ?? map(pool.place.fd, 0, pool.geometry.size, { write: true, owner: 0 });
  mappings.set(pool, memory);
  return memory;
};

/** Ends the clients' mapping. */
export const unmapPeers = (pool: Pool): void => {
  const memory = mappings.get(pool);
  if (memory) release(memory);
};

export class Peer {
  readonly memory: ArrayBuffer;
  readonly u8: Uint8Array;
  readonly words: Int32Array;
  readonly g: layout.PoolGeometry;
  readonly slot: number;
  readonly queue: number;
  /** Own places in the four rings, by RING_ number. */
  readonly place = new Int32Array(layout.RINGS);
  readonly #headers: Int32Array[] = [];
  readonly #entries: Uint32Array[] = [];

  constructor(pool: Pool, slot: number, queue = 0) {
    this.memory = mappingOf(pool);
    this.g = layout.readGeometry(this.memory, pool.geometry.size);
    this.u8 = new Uint8Array(this.memory);
    this.words = new Int32Array(this.memory);
    this.slot = slot;
    this.queue = queue;
    const at = layout.queueAt(this.g, slot, queue);
    for (let ring = 0; ring < layout.RINGS; ring++) {
      const perEntry = ring === layout.RING_TX || ring === layout.RING_RX ? layout.DESC_WORDS : 1;
      this.#headers.push(new Int32Array(this.memory, at + layout.ringHeaderAt(ring), 32));
      const from = at + layout.ringEntriesAt(ring, this.g.entries);
      this.#entries.push(new Uint32Array(this.memory, from, this.g.entries * perEntry));
    }
    this.words[(layout.slotAt(slot) + layout.S_HELLO) >> 2] = this.slotWord(layout.S_GENERATION);
  }

  slotWord(field: number): number {
    return this.words[(layout.slotAt(this.slot) + field) >> 2]!;
  }

  header(ring: number): Int32Array {
    return this.#headers[ring]!;
  }

  entries(ring: number): Uint32Array {
    return this.#entries[ring]!;
  }

  waiting(ring: number): number {
    return (this.header(ring)[layout.R_PRODUCER >> 2]! - this.place[ring]!) >>> 0;
  }

  /** An empty buffer, or -1. */
  take(): number {
    if (this.waiting(layout.RING_FREE) === 0) return -1;
    return this.entries(layout.RING_FREE)[this.place[layout.RING_FREE]!++ & (this.g.entries - 1)]!;
  }

  at(piece: Piece): number {
    return layout.bufferAt(this.g, piece.buffer) + piece.offset;
  }

  bytes(pieces: readonly Piece[]): Uint8Array {
    return Uint8Array.from(pieces.flatMap((p) => [...this.u8.subarray(this.at(p), this.at(p) + p.length)]));
  }

  /** Descriptors that are not shown yet. */
  put(pieces: readonly Piece[], flags?: number): void {
    const ring = this.entries(layout.RING_TX);
    pieces.forEach(({ buffer, offset, length }, i) => {
      const d = (this.place[layout.RING_TX]!++ & (this.g.entries - 1)) * layout.DESC_WORDS;
      ring[d] = buffer;
      ring[d + 1] = offset;
      ring[d + 2] = length;
      ring[d + 3] = flags ?? (i + 1 < pieces.length ? layout.DESC_NEXT : 0);
    });
  }

  show(ring = layout.RING_TX): void {
    Atomics.store(this.header(ring), layout.R_PRODUCER >> 2, this.place[ring]!);
  }

  /** Sends a frame, cut at `cut` bytes per piece. @returns its pieces; undefined when there were not enough buffers. */
  send(frame: Uint8Array, cut = this.g.bufferBytes, offset = this.g.headroom): Piece[] | undefined {
    const pieces: Piece[] = [];
    for (let at = 0; at < frame.length; ) {
      const buffer = this.take();
      if (buffer < 0) return undefined;
      const from = at === 0 ? offset : 0;
      const length = Math.min(frame.length - at, cut, this.g.bufferBytes - from);
      const piece = { buffer, offset: from, length };
      if (buffer < this.g.bufferCount) this.u8.set(frame.subarray(at, at + length), this.at(piece));
      pieces.push(piece);
      at += length;
    }
    this.put(pieces);
    this.show();
    return pieces;
  }

  /** Frames received, as pieces. */
  receive(): Piece[][] {
    const frames: Piece[][] = [];
    const ring = this.entries(layout.RING_RX);
    let frame: Piece[] = [];
    // Another client of a hostile test may have written anything there.
    for (let left = Math.min(this.waiting(layout.RING_RX), this.g.entries); left > 0; left--) {
      const d = (this.place[layout.RING_RX]!++ & (this.g.entries - 1)) * layout.DESC_WORDS;
      frame.push({ buffer: ring[d]!, offset: ring[d + 1]!, length: ring[d + 2]! });
      if (ring[d + 3] === layout.DESC_NEXT) continue;
      frames.push(frame);
      frame = [];
    }
    return frames;
  }

  giveBack(frames: readonly (readonly Piece[])[]): void {
    const ring = this.entries(layout.RING_RETURN);
    for (const piece of frames.flat()) {
      ring[this.place[layout.RING_RETURN]!++ & (this.g.entries - 1)] = piece.buffer;
    }
    this.show(layout.RING_RETURN);
  }
}
