/**
 * The guest's memory: memfds, mapped here and shown to the switch as a memory table.
 *
 * A **block** holds all of one direction of one queue: its ring, its indirect tables, its buffers. A block lies in one
 * file, so that a queue works on one set of views. In a file, rings and tables come first and buffers last; a file's
 * regions (`splits`) are cut in the buffers, so a ring never lies across two regions while a buffer may.
 */
import { address, close, map, memfd, release } from '#contract/os.ts';
import type { MemoryOptions } from './options.ts';

const PAGE = 4096;

/** One row of the memory table (vhost-user.rst, "Memory region description"). */
export interface MemoryRegion {
  readonly guestAddress: number;
  readonly size: number;
  readonly userAddress: number;
  readonly mmapOffset: number;
  readonly fd: number;
}

/** Bytes that a block needs: its ring and tables, and its buffers. */
export interface BlockSize {
  readonly ringBytes: number;
  readonly bufferBytes: number;
}

/** A block in its place; offsets count from the start of its file's views. */
export interface Block {
  readonly file: MemoryFile;
  readonly ringAt: number;
  readonly buffersAt: number;
}

/** One memfd with its views. */
export interface MemoryFile {
  readonly fd: number;
  readonly size: number;
  readonly buffer: ArrayBuffer;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  /** Guest physical and user address of byte 0. */
  readonly guestAddress: number;
  readonly userAddress: number;
}

const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;

export class GuestMemory {
  readonly files: readonly MemoryFile[];
  readonly blocks: readonly Block[];
  readonly regions: readonly MemoryRegion[];

  /** @throws OsError when memory cannot be had. */
  constructor(name: string, sizes: readonly BlockSize[], options: Required<MemoryOptions>) {
    const count = Math.min(options.files, sizes.length);
    const ringEnd = new Array<number>(count).fill(0);
    for (const [i, size] of sizes.entries()) ringEnd[i % count]! += roundUp(size.ringBytes, 64);
    const buffersAt = ringEnd.map((end) => roundUp(end, PAGE));
    const end = buffersAt.slice();
    for (const [i, size] of sizes.entries()) end[i % count]! += roundUp(size.bufferBytes, 64);

    const files: MemoryFile[] = [];
    let guestAddress = options.gpaBase;
    for (let i = 0; i < count; i++) {
      const size = roundUp(Math.max(end[i]!, buffersAt[i]! + PAGE * options.splits), PAGE);
      const fd = memfd(`${name}.${i}`, size, { seal: options.sealed });
      const buffer = map(fd, 0, size, { write: true, owner: 0 });
      files.push({
        fd,
        size,
        buffer,
        u8: new Uint8Array(buffer),
        u16: new Uint16Array(buffer),
        u32: new Uint32Array(buffer),
        i32: new Int32Array(buffer),
        guestAddress,
        userAddress: address(buffer),
      });
      guestAddress += size + options.gap;
    }
    this.files = files;

    const ringCursor = new Array<number>(count).fill(0);
    const bufferCursor = buffersAt.slice();
    this.blocks = sizes.map((size, i) => {
      const at = i % count;
      const block = { file: files[at]!, ringAt: ringCursor[at]!, buffersAt: bufferCursor[at]! };
      ringCursor[at]! += roundUp(size.ringBytes, 64);
      bufferCursor[at]! += roundUp(size.bufferBytes, 64);
      return block;
    });
    this.regions = files.flatMap((file, i) => splitFile(file, buffersAt[i]!, options.splits));
  }

  /** Gives the memory back; views read zeros from then on. */
  close(): void {
    for (const file of this.files) {
      release(file.buffer);
      close(file.fd);
    }
  }
}

function splitFile(file: MemoryFile, buffersAt: number, splits: number): MemoryRegion[] {
  const regions: MemoryRegion[] = [];
  const step = Math.floor((file.size - buffersAt) / splits / PAGE) * PAGE;
  let start = 0;
  for (let i = 1; i <= splits; i++) {
    const end = i === splits ? file.size : buffersAt + i * step;
    regions.push({
      guestAddress: file.guestAddress + start,
      size: end - start,
      userAddress: file.userAddress + start,
      mmapOffset: start,
      fd: file.fd,
    });
    start = end;
  }
  return regions;
}
