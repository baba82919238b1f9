/**
 * Rings behind an IOMMU whose pages lie scattered over the guest's memory, as Linux allocates them: each part is mapped once
 * more, page by page into one piece of address space.
 */
import { mapPieces, release } from '#contract/os.ts';
import type { FilePart } from '../memory.ts';
import type { PageLog } from './dirty-log.ts';
import type { RingPlace } from './vring.ts';

/** Whole pages of one file, the IOVA that they begin at, and where they lie in guest memory. */
export interface Piece extends FilePart {
  readonly iova: number;
  readonly guestAddress: number;
}

/** Buffers of a memory table, and behind them those of windows. */
export class RingWindows {
  readonly buffers: ArrayBuffer[];
  readonly #own: ArrayBuffer[] = [];
  readonly #owner: number;

  /** @param owner port number for the SIGBUS guard. */
  constructor(buffers: readonly ArrayBuffer[], owner: number) {
    this.buffers = [...buffers];
    this.#owner = owner;
  }

  /** The same place with every part in one of `buffers`. @throws OsError when pages cannot be mapped one by one. */
  resolve(place: RingPlace): RingPlace {
    if (!place.windows) return place;
    const [desc, avail, used] = place.windows.map((pieces) => (pieces.length > 0 ? this.#open(pieces) : undefined));
    return {
      ...place,
      descriptorRegion: desc ?? place.descriptorRegion,
      availableRegion: avail ?? place.availableRegion,
      usedRegion: used ?? place.usedRegion,
    };
  }

  close(): void {
    for (const buffer of this.#own.splice(0)) release(buffer);
  }

  #open(pieces: readonly FilePart[]): number {
    const rows = Float64Array.from(pieces.flatMap(({ fd, mmapOffset, size }) => [fd, mmapOffset, size]));
    const buffer = mapPieces(rows, this.#owner);
    this.#own.push(buffer);
    return this.buffers.push(buffer) - 1;
  }
}

/** A dirty log of a ring that is named by IOVAs. */
export class PiecewiseLog implements PageLog {
  readonly #log: PageLog;
  readonly #pieces: readonly Piece[];

  constructor(log: PageLog, pieces: readonly Piece[]) {
    this.#log = log;
    this.#pieces = pieces;
  }

  mark(at: number, bytes: number): void {
    const pieces = this.#pieces;
    const count = pieces.length;
    for (let i = 0; i < count; i++) {
      const { iova, size, guestAddress } = pieces[i]!;
      const from = at > iova ? at : iova;
      const end = at + bytes < iova + size ? at + bytes : iova + size;
      if (from < end) this.#log.mark(guestAddress + (from - iova), end - from);
    }
  }
}
