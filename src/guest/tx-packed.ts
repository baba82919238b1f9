// hot
/**
 * Frames to the switch over a packed ring (virtio 1.2 section 2.8): as tx.ts, whose calls these are.
 *
 * A chain has the number of its buffer as id. Invariants: a buffer is on the free stack, or in a published chain; entries
 * are taken and come back in ring order, as many as the private record of the chain says.
 */
import { eventfdSignal as signalFd } from '#contract/os.ts';
import {
  PACKED_AVAIL as AVAIL_BIT,
  EVENT_DISABLE,
  DESC_INDIRECT as INDIRECT,
  DESC_NEXT as NEXT,
  planShape,
  type RingLayout,
  HEADER_ROOM as ROOM,
  type ShapePlan,
  TABLE_ENTRIES as TABLE,
  PACKED_USED as USED_BIT,
  WRAP_BIT,
} from './layout.ts';
import type { Block } from './memory.ts';
import type { ChainShape } from './options.ts';
import { wantsKick } from './packed.ts';
import { FramesToSend, TX_BURST } from './to-send.ts';

const signal = signalFd;
const wanted = wantsKick;
const DESC_INDIRECT = INDIRECT;
const DESC_NEXT = NEXT;
const HEADER_ROOM = ROOM;
const TABLE_ENTRIES = TABLE;
const AVAIL = AVAIL_BIT;
const BOTH = AVAIL_BIT | USED_BIT;
const HIGH = 2 ** 32;

export class PackedTxQueue extends FramesToSend {
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  /** For Atomics, which would make an object of every word of 2^31 and above. */
  readonly #i32: Int32Array;
  readonly #size: number;
  readonly #desc: number;
  readonly #driverEvent: number;
  readonly #deviceEvent: number;
  readonly #bufferAt: Float64Array;
  readonly #tableAt: Float64Array;
  readonly #guestBase: number;
  readonly #freeBuffers: Int32Array;
  /** Per buffer: ring entries of its chain, 0 = not out. */
  readonly #span: Uint16Array;
  #bufferTop = 0;
  #entriesFree = 0;
  /** Entry to write next, and to look at next, with the flags that mean available and used there. */
  #next = 0;
  #available = AVAIL;
  #seen = 0;
  #used = BOTH;
  #headerBytes = 12;
  #eventIndex = false;
  #indirect = false;
  #reserved = 0;
  #open = false;
  #kickFd = -1;
  #plan: ShapePlan;

  /** @param frameBytes longest frame; the block is laid out as `layout` says. */
  constructor(block: Block, layout: RingLayout, frameBytes: number) {
    const file = block.file;
    super(file.u8, frameBytes);
    this.#u16 = file.u16;
    this.#u32 = file.u32;
    this.#i32 = file.i32;
    this.#size = layout.size;
    this.#desc = (block.ringAt + layout.descAt) / 4;
    this.#driverEvent = (block.ringAt + layout.availAt) / 4;
    this.#deviceEvent = (block.ringAt + layout.usedAt) / 4;
    this.#guestBase = file.guestAddress;
    this.#bufferAt = new Float64Array(layout.buffers);
    this.#tableAt = new Float64Array(layout.buffers);
    for (let i = 0; i < layout.buffers; i++) {
      this.#bufferAt[i] = block.buffersAt + i * layout.stride + HEADER_ROOM;
      this.#tableAt[i] = block.ringAt + layout.tablesAt + i * TABLE_ENTRIES * 16;
    }
    this.#freeBuffers = new Int32Array(layout.buffers);
    this.#span = new Uint16Array(layout.buffers);
    this.#plan = planShape({}, layout.size, false);
  }

  /** Empties the ring: every buffer is free, nothing is published. Only while the switch does not look. */
  reset(): void {
    const buffers = this.#freeBuffers.length;
    for (let i = 0; i < buffers; i++) this.#freeBuffers[i] = buffers - 1 - i;
    this.#span.fill(0);
    this.#bufferTop = buffers;
    this.#entriesFree = this.#size;
    this.#next = 0;
    this.#available = AVAIL;
    this.#seen = 0;
    this.#used = BOTH;
    this.#u32.fill(0, this.#desc, this.#desc + 4 * this.#size);
    this.#u32[this.#deviceEvent] = 0;
    // Completions are looked for when buffers run short: the switch need not call for them.
    this.#u32[this.#driverEvent] = EVENT_DISABLE << 16;
  }

  /** Takes up what was negotiated; the shape of chains starts anew, as `legacyFraming` asks. */
  configure(headerBytes: number, eventIndex: boolean, indirect: boolean, legacyFraming: boolean): void {
    this.#headerBytes = headerBytes;
    this.#eventIndex = eventIndex;
    this.#indirect = indirect;
    this.#plan = planShape({ headerAlone: legacyFraming }, this.#size, indirect);
  }

  /** Where the switch listens for kicks; -1 while there is none. */
  attach(kickFd: number): void {
    this.#kickFd = kickFd;
    this.#open = true;
  }

  /** After it nothing can be reserved: the memory is gone. */
  close(): void {
    this.#open = false;
    this.#kickFd = -1;
  }

  /** Where the switch stopped in the ring, entry and wrap counter: where a new connection goes on. */
  get usedIndex(): number {
    this.#reclaim();
    return this.#seen | (this.#used !== 0 ? WRAP_BIT : 0);
  }

  /** Frames published and not yet taken back. */
  get pending(): number {
    this.#reclaim();
    return this.#freeBuffers.length - this.#bufferTop;
  }

  /** Shape of the chains sent from now on. @throws RangeError when the ring cannot hold it. */
  setShape(shape: ChainShape): void {
    this.#plan = planShape(shape, this.#size, this.#indirect);
  }

  /**
   * Takes room for at most `max` (TX_BURST) frames: sets `at`, clears `length` and the header fields.
   * @returns frames that may be written; they are not used up before `send`.
   */
  reserve(max: number): number {
    if (!this.#open) return 0;
    if (max > TX_BURST) max = TX_BURST;
    const each = this.#plan.ringDescriptors;
    if (this.#bufferTop < max || this.#entriesFree < max * each) {
      this.#reclaim();
      if (this.#bufferTop < max) max = this.#bufferTop;
      if (this.#entriesFree < max * each) max = Math.floor(this.#entriesFree / each);
    }
    this.prepare(max, this.#freeBuffers, this.#bufferTop, this.#bufferAt);
    this.#reserved = max;
    return max;
  }

  /**
   * Publishes the first `n` frames of the reservation and kicks the switch where it asked for that. A frame whose length
   * is 0 or above `frameBytes` is left out and counted in `rejected`.
   * @returns frames published.
   */
  send(n: number): number {
    if (n > this.#reserved) n = this.#reserved;
    this.#reserved = 0;
    const u16 = this.#u16;
    const u32 = this.#u32;
    const free = this.#freeBuffers;
    const top = this.#bufferTop;
    const header = this.#headerBytes;
    const before = this.#entriesFree;
    const desc = this.#desc;
    const frameBytes = this.frameBytes;
    const offsets = this.at;
    const lengths = this.length;
    const flags = this.flags;
    const gsoType = this.gsoType;
    const gsoSize = this.gsoSize;
    const headerLength = this.headerLength;
    const csumStart = this.csumStart;
    const csumOffset = this.csumOffset;
    let firstAt = 0;
    let firstWord = 0;
    let sent = 0;
    let kept = 0;
    this.#bufferTop = top - n;
    for (let i = 0; i < n; i++) {
      const length = lengths[i]!;
      if (length <= 0 || length > frameBytes) {
        kept++;
        continue;
      }
      const buffer = free[top - 1 - i]!;
      const at = offsets[i]!;
      const h = (at - header) / 2;
      u16[h] = flags[i]! | (gsoType[i]! << 8);
      u16[h + 1] = headerLength[i]!;
      u16[h + 2] = gsoSize[i]!;
      u16[h + 3] = csumStart[i]!;
      u16[h + 4] = csumOffset[i]!;
      if (header === 12) u16[h + 5] = 0;
      const headAt = desc + 4 * this.#next + 3;
      const word = this.#chain(buffer, at, length);
      if (sent === 0) {
        firstAt = headAt;
        firstWord = word;
      } else {
        u32[headAt] = word;
      }
      sent++;
    }
    if (kept > 0) this.#keep(n, top);
    if (sent === 0) return 0;
    this.sent += sent;
    // Publishes all, and is the full barrier before the switch's wish is read (section 2.8.21.3).
    Atomics.store(this.#i32, firstAt, firstWord);
    const place = this.#next | (this.#available === AVAIL ? WRAP_BIT : 0);
    const word = Atomics.load(this.#i32, this.#deviceEvent);
    if (wanted(word, place, before - this.#entriesFree, this.#size, this.#eventIndex)) {
      this.kicks++;
      if (this.#kickFd >= 0) signal(this.#kickFd);
    }
    return sent;
  }

  /** Puts the buffers of frames left out of a burst of `n` back; `top` was the stack's before it. */
  #keep(n: number, top: number): void {
    const free = this.#freeBuffers;
    for (let i = n - 1; i >= 0; i--) {
      const length = this.length[i]!;
      if (length > 0 && length <= this.frameBytes) continue;
      free[this.#bufferTop++] = free[top - 1 - i]!;
      this.rejected++;
    }
  }

  /** Lays a frame over the next entries, or its table. @returns the head's last word, which is not written yet. */
  #chain(buffer: number, at: number, length: number): number {
    const plan = this.#plan;
    const u32 = this.#u32;
    const cuts = plan.cuts;
    const table = this.#tableAt[buffer]! / 4;
    let headWord = 0;
    let count = 0;
    let start = -this.#headerBytes;
    let cut = plan.headerAlone ? -1 : 0;
    for (;;) {
      let end = length;
      if (cut < 0) end = 0;
      else if (cut < cuts.length && cuts[cut]! < length) end = cuts[cut]!;
      const more = end === length ? 0 : DESC_NEXT;
      const d = plan.indirect ? table + 4 * count : this.#desc + 4 * this.#next;
      const address = this.#guestBase + at + start;
      u32[d] = address;
      u32[d + 1] = address / HIGH;
      u32[d + 2] = end - start;
      const word = plan.indirect ? 0 : this.#take(buffer, more);
      if (plan.indirect || count > 0) u32[d + 3] = word;
      else headWord = word;
      count++;
      start = end;
      cut++;
      if (more === 0) break;
    }
    if (plan.indirect) {
      const d = this.#desc + 4 * this.#next;
      const address = this.#guestBase + this.#tableAt[buffer]!;
      u32[d] = address;
      u32[d + 1] = address / HIGH;
      u32[d + 2] = count * 16;
      headWord = this.#take(buffer, DESC_INDIRECT);
      count = 1;
    }
    this.#span[buffer] = count;
    return headWord;
  }

  /** Uses up one entry. @returns its last word. */
  #take(id: number, flags: number): number {
    const word = id | ((flags | this.#available) << 16);
    this.#entriesFree--;
    this.#next++;
    if (this.#next === this.#size) {
      this.#next = 0;
      this.#available ^= BOTH;
    }
    return word;
  }

  /** Takes back what the switch has used. */
  #reclaim(): void {
    if (!this.#open) return;
    const i32 = this.#i32;
    const span = this.#span;
    while (this.#entriesFree < this.#size) {
      const word = Atomics.load(i32, this.#desc + 4 * this.#seen + 3);
      if (((word >>> 16) & BOTH) !== this.#used) return;
      const id = word & 0xffff;
      let entries = 1;
      if (id >= span.length || span[id] === 0) {
        this.broken++;
      } else {
        entries = span[id]!;
        span[id] = 0;
        this.#freeBuffers[this.#bufferTop++] = id;
      }
      this.#entriesFree += entries;
      this.#seen += entries;
      if (this.#seen >= this.#size) {
        this.#seen -= this.#size;
        this.#used ^= BOTH;
      }
    }
  }
}
