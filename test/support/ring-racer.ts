/**
 * A thread that rewrites the rings of a guest while the switch reads them: descriptors, indirect tables, ring entries, indices
 * and headers, until it is told to stop. The memory is a HostileGuest's, laid out by src/guest/layout.ts.
 */
import { workerData } from 'node:worker_threads';
import { eventfdSignal, map, release } from '#contract/os.ts';
import { DESC_BYTES, PACKED_AVAIL, PACKED_USED, type RingLayout, TABLE_ENTRIES } from '#guest/layout.ts';
import { Random } from '../fuzz/random.ts';

export interface RacedRing {
  readonly fd: number;
  readonly bytes: number;
  readonly guestAddress: number;
  /** Offsets in the file. */
  readonly ringAt: number;
  readonly buffersAt: number;
  readonly kickFd: number;
  /** The switch writes its buffers. */
  readonly receives: boolean;
}

export interface RingRacerData {
  readonly rings: readonly RacedRing[];
  readonly layout: RingLayout;
  readonly packed: boolean;
  readonly seed: number;
  /** Word 0: stop; word 1: words written, modulo 2^32. */
  readonly control: SharedArrayBuffer;
}

const BETWEEN_KICKS = 256;
const [NEXT, WRITE, INDIRECT] = [1, 2, 4];
const LENGTHS = [60, 64, 72, 100, 1514, 1526, 2048];
const BAD_LENGTHS = [0, 1, 11, 12, 13, 65_550, 0x7fff_ffff, 0xffff_ffff];

class Racer {
  readonly #ring: RacedRing;
  readonly #layout: RingLayout;
  readonly #packed: boolean;
  readonly #random: Random;
  readonly buffer: ArrayBuffer;
  readonly #view: DataView;

  constructor(ring: RacedRing, { layout, packed, seed }: RingRacerData) {
    this.#ring = ring;
    this.#layout = layout;
    this.#packed = packed;
    this.#random = new Random(seed, ring.ringAt);
    this.buffer = map(ring.fd, 0, ring.bytes, { write: true, owner: 0 });
    this.#view = new DataView(this.buffer);
    for (let i = 0; i < layout.size; i++) this.#plain(ring.ringAt + i * DESC_BYTES, i);
  }

  /** Makes one word another, or offers the whole ring. */
  disturb(): void {
    const kind = this.#random.below(16);
    if (kind < 2) this.#offer();
    else if (kind < 4) this.#header();
    else if (kind < 8) this.#row(this.#tableAt() + this.#random.below(TABLE_ENTRIES) * DESC_BYTES, true);
    else this.#row(this.#ring.ringAt + this.#random.below(this.#layout.size) * DESC_BYTES, false);
  }

  #plain(at: number, buffer: number): void {
    this.#view.setBigUint64(at, BigInt(this.#bufferAddress(buffer)), true);
    this.#view.setUint32(at + 8, this.#ring.receives ? 1526 : 100, true);
    if (this.#packed) this.#view.setUint16(at + 12, buffer, true);
    else this.#view.setUint16(at + 12, this.#ring.receives ? WRITE : 0, true);
  }

  #offer(): void {
    const { ringAt } = this.#ring;
    const { availAt, usedAt, size } = this.#layout;
    const random = this.#random;
    if (this.#packed) {
      this.#view.setUint16(ringAt + availAt + 2, random.below(4), true);
      return;
    }
    const head = random.once(4096) ? random.pick([size, 0xffff]) : random.below(size);
    this.#view.setUint16(ringAt + availAt + 4 + 2 * random.below(size), head, true);
    const used = this.#view.getUint16(ringAt + usedAt + 2, true);
    const jump = random.once(16_384) ? random.pick([-1, 1, 0x4000]) : 0;
    this.#view.setUint16(ringAt + availAt + 2, used + size + jump, true);
  }

  #header(): void {
    const at = this.#ring.buffersAt + this.#random.below(this.#layout.buffers) * this.#layout.stride;
    const value = this.#random.once(4) ? this.#random.pick([1, 0x101, 34, 1460, 0x7fff]) : 0;
    this.#view.setUint16(at + 2 * this.#random.below(6), value, true);
  }

  #row(at: number, inTable: boolean): void {
    const random = this.#random;
    const direction = this.#ring.receives ? WRITE : 0;
    const extra = random.once(4) ? random.pick([NEXT, INDIRECT, INDIRECT, NEXT | INDIRECT, WRITE]) : 0;
    const last = random.once(4) ? random.below(0x10000) : random.below(this.#layout.size);
    const [flagsAt, lastAt] = this.#packed ? [at + 14, at + 12] : [at + 12, at + 14];
    switch (random.below(4)) {
      case 0:
        this.#view.setBigUint64(at, this.#address(), true);
        return;
      case 1:
        this.#view.setUint32(at + 8, random.pick(random.once(4) ? BAD_LENGTHS : LENGTHS), true);
        return;
      case 2: {
        const lap = this.#packed && !inTable ? random.pick([PACKED_AVAIL, PACKED_USED]) : 0;
        this.#view.setUint16(flagsAt, (direction ^ extra) | lap, true);
        return;
      }
      default:
        this.#view.setUint16(lastAt, last, true);
    }
  }

  #address(): bigint {
    const { guestAddress, bytes, ringAt } = this.#ring;
    const random = this.#random;
    switch (random.below(8)) {
      case 0:
        return random.pick([0n, 2n ** 64n - 16n, 2n ** 63n, BigInt(guestAddress + bytes), BigInt(guestAddress - 1)]);
      case 1:
        return BigInt(guestAddress + bytes - random.range(1, 64));
      case 2:
        return BigInt(guestAddress + ringAt + random.below(this.#layout.bytes));
      case 3:
        return BigInt(guestAddress + this.#tableAt());
      default:
        return BigInt(this.#bufferAddress(random.below(this.#layout.buffers)));
    }
  }

  #bufferAddress(i: number): number {
    const { guestAddress, buffersAt } = this.#ring;
    return guestAddress + buffersAt + i * this.#layout.stride;
  }

  #tableAt(): number {
    const { tablesAt, buffers } = this.#layout;
    return this.#ring.ringAt + tablesAt + this.#random.below(buffers) * TABLE_ENTRIES * DESC_BYTES;
  }
}

const data = workerData as RingRacerData;
const words = new Int32Array(data.control);
const racers = data.rings.map((ring) => new Racer(ring, data));
while (Atomics.load(words, 0) === 0) {
  for (let i = 0; i < BETWEEN_KICKS; i++) racers[i % racers.length]!.disturb();
  Atomics.add(words, 1, BETWEEN_KICKS);
  for (const { kickFd } of data.rings) eventfdSignal(kickFd);
}
for (const { buffer } of racers) release(buffer);
