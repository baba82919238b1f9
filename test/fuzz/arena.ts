/**
 * Guest memory that shows every byte touched outside of what was offered.
 *
 * Each region is the whole of a file but its first page. In front of it lies that page, full of canaries; behind it the
 * mapping goes on past the end of the file, where any access, read or write, is a fault that is counted. The region itself
 * is full of canaries but for rings and offered buffers. A second copy of everything says what it ought to hold.
 */
import { address, close, faultWord, map, memfd, release } from '#contract/os.ts';
import type { Region } from '#ports/vhost-user/guest-memory.ts';

export const PAGE = 4096;
const FRONT = PAGE;
/** Past the end of the file: more than the longest frame. */
const BEHIND = 1 << 17;
/** Guest physical address of the first region: above 4 GiB. */
export const GUEST_BASE = 0x1_4000_0000;
/** Front-end address minus guest physical address. */
export const USER_DELTA = 0x7f00_0000_0000;

export interface RegionPlan {
  readonly bytes: number;
  /** Bytes of guest physical address space between the region before and this one. */
  readonly hole: number;
}

interface Part {
  readonly fd: number;
  readonly buffer: ArrayBuffer;
  /** The file: front page and region. */
  readonly live: Buffer;
  readonly shadow: Buffer;
  readonly view: DataView;
  readonly shadowView: DataView;
  readonly guestAddress: number;
  readonly bytes: number;
}

export class Arena {
  readonly parts: readonly Part[];
  readonly regions: readonly Region[];
  readonly canary: number;
  /** What the parts held at a moment, but for what the guest has written since; undefined: nobody asks. */
  before: readonly Buffer[] | undefined;
  readonly #copies: readonly Buffer[];
  readonly #faultsBefore = faultWord[0]!;

  constructor(owner: number, plans: readonly RegionPlan[], canary: number) {
    this.canary = canary;
    let at = GUEST_BASE;
    this.parts = plans.map(({ bytes, hole }) => {
      const fd = memfd('arena', FRONT + bytes);
      const buffer = map(fd, 0, FRONT + bytes + BEHIND, { write: true, owner });
      const shadow = Buffer.alloc(FRONT + bytes);
      at += hole;
      const part = {
        ...{ fd, buffer, shadow, bytes, guestAddress: at },
        live: Buffer.from(buffer, 0, FRONT + bytes),
        view: new DataView(buffer, FRONT, bytes),
        shadowView: new DataView(shadow.buffer, shadow.byteOffset + FRONT, bytes),
      };
      at += bytes;
      return part;
    });
    this.#copies = this.parts.map(({ live }) => Buffer.alloc(live.length));
    this.regions = this.parts.map(({ fd, buffer, guestAddress, bytes }) => ({
      ...{ fd, guestAddress, size: bytes, mmapOffset: FRONT, userAddress: guestAddress + USER_DELTA },
      mapped: address(buffer) + FRONT,
    }));
  }

  /** Everything is canaries again. */
  clear(): void {
    for (const { live, shadow } of this.parts) {
      live.fill(this.canary);
      shadow.fill(this.canary);
    }
  }

  /** What memory holds now is what it ought to hold. */
  settle(): void {
    for (const { live, shadow } of this.parts) live.copy(shadow);
  }

  /** Remembers what the guest has in its memory now. */
  remember(): void {
    for (const [i, { live }] of this.parts.entries()) live.copy(this.#copies[i]!);
    this.before = this.#copies;
  }

  /** The part in which guest address `at` lies; undefined: none. */
  find(at: number): Part | undefined {
    for (const part of this.parts) if (at >= part.guestAddress && at < part.guestAddress + part.bytes) return part;
    return undefined;
  }

  /** Calls `each` for every stretch of [at, at + bytes) that lies in a region, from the first on, until one does not. */
  stretches(at: number, bytes: number, each: (part: Part, from: number, to: number) => void): void {
    let left = bytes;
    while (left > 0) {
      const part = this.find(at);
      if (!part) return;
      const from = at - part.guestAddress;
      const take = Math.min(left, part.bytes - from);
      each(part, FRONT + from, FRONT + from + take);
      at += take;
      left -= take;
    }
  }

  /** Bytes that may have been written: what they are now is right. */
  allow(at: number, bytes: number): void {
    this.stretches(at, bytes, (part, from, to) => part.live.copy(part.shadow, from, from, to));
  }

  /** The guest writes, and knows it. */
  poke16(at: number, value: number): void {
    const part = this.find(at);
    if (!part || at + 2 > part.guestAddress + part.bytes) return;
    part.view.setUint16(at - part.guestAddress, value, true);
    part.shadowView.setUint16(at - part.guestAddress, value, true);
    this.before?.[this.parts.indexOf(part)]?.writeUInt16LE(value & 0xffff, FRONT + at - part.guestAddress);
  }

  poke32(at: number, value: number): void {
    this.poke16(at, value & 0xffff);
    this.poke16(at + 2, value >>> 16);
  }

  /** @returns what was touched that should not have been; empty: nothing. */
  check(): string {
    for (const { live, shadow, guestAddress } of this.parts) {
      if (live.compare(shadow) === 0) continue;
      const i = live.findIndex((byte, k) => byte !== shadow[k]);
      const where = i < FRONT ? `${FRONT - i} bytes in front of the region` : `offset ${i - FRONT} of the region`;
      return `a byte that was not offered was written: ${where} at 0x${guestAddress.toString(16)}`;
    }
    const faults = faultWord[0]! - this.#faultsBefore;
    return faults === 0 ? '' : `${faults} accesses behind the end of a region`;
  }

  /** Whether a run of `canaries` bytes of this value lies in a region from `from` (offset in the first region) on. */
  holds(canary: number, canaries: number, from: number): boolean {
    for (const [i, { live }] of this.parts.entries()) {
      const first = FRONT + (i === 0 ? from : 0);
      if (live.indexOf(canary, first) >= 0 && live.indexOf(Buffer.alloc(canaries, canary), first) >= 0) return true;
    }
    return false;
  }

  close(): void {
    for (const { buffer, fd } of this.parts) {
      release(buffer);
      close(fd);
    }
  }
}
