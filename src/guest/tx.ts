// hot
/**
 * Frames to the switch: the driver's side of a transmit virtqueue (virtio 1.2 sections 2.7.13 and 5.1.6.2).
 *
 *     const n = tx.reserve(32);
 *     for (let i = 0; i < n; i++) { write the frame at tx.u8[tx.at[i]]; tx.length[i] = its bytes; }
 *     tx.send(n);
 *
 * Invariants: a buffer is on the free stack, or in a published chain; so is a descriptor. Private copies of all that the
 * switch must not decide (chain lengths, heads, buffers) are kept here; of what it writes only used.idx, ids, flags and
 * avail_event are read, and an id is believed only when its chain is out.
 */
import { eventfdSignal as signalFd } from '#contract/os.ts';
import {
  AVAIL_NO_INTERRUPT,
  DESC_INDIRECT as INDIRECT,
  DESC_NEXT as NEXT,
  USED_NO_NOTIFY as NO_NOTIFY,
  planShape,
  type RingLayout,
  HEADER_ROOM as ROOM,
  type ShapePlan,
  TABLE_ENTRIES as TABLE,
} from './layout.ts';
import type { Block } from './memory.ts';
import type { ChainShape } from './options.ts';
import { FramesToSend, TX_BURST } from './to-send.ts';

// Re-bound: an imported binding costs about 2 ns at each use in a loop (Node 26.10).
const signal = signalFd;
const DESC_INDIRECT = INDIRECT;
const DESC_NEXT = NEXT;
const USED_NO_NOTIFY = NO_NOTIFY;
const HEADER_ROOM = ROOM;
const TABLE_ENTRIES = TABLE;
const HIGH = 2 ** 32;

export class TxQueue extends FramesToSend {
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #size: number;
  readonly #mask: number;
  readonly #desc: number;
  readonly #avail: number;
  readonly #used: number;
  readonly #bufferAt: Float64Array;
  readonly #tableAt: Float64Array;
  readonly #guestBase: number;
  readonly #freeBuffers: Int32Array;
  readonly #freeDescriptors: Int32Array;
  /** Per head: ring descriptors of its chain (0 = not out) and its buffer; per descriptor: the next of its chain. */
  readonly #chainCount: Uint16Array;
  readonly #chainBuffer: Int32Array;
  readonly #chainNext: Int32Array;
  #bufferTop = 0;
  #descriptorTop = 0;
  #availIndex = 0;
  #lastUsed = 0;
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
    this.#size = layout.size;
    this.#mask = layout.size - 1;
    this.#desc = (block.ringAt + layout.descAt) / 4;
    this.#avail = (block.ringAt + layout.availAt) / 2;
    this.#used = (block.ringAt + layout.usedAt) / 4;
    this.#guestBase = file.guestAddress;
    this.#bufferAt = new Float64Array(layout.buffers);
    this.#tableAt = new Float64Array(layout.buffers);
    for (let i = 0; i < layout.buffers; i++) {
      this.#bufferAt[i] = block.buffersAt + i * layout.stride + HEADER_ROOM;
      this.#tableAt[i] = block.ringAt + layout.tablesAt + i * TABLE_ENTRIES * 16;
    }
    this.#freeBuffers = new Int32Array(layout.buffers);
    this.#freeDescriptors = new Int32Array(layout.size);
    this.#chainCount = new Uint16Array(layout.size);
    this.#chainBuffer = new Int32Array(layout.size);
    this.#chainNext = new Int32Array(layout.size);
    this.#plan = planShape({}, layout.size, false);
  }

  /** Empties the ring: every buffer is free, nothing is published. After `configure`, and only while the switch does not look. */
  reset(): void {
    const buffers = this.#freeBuffers.length;
    for (let i = 0; i < buffers; i++) this.#freeBuffers[i] = buffers - 1 - i;
    for (let i = 0; i < this.#size; i++) this.#freeDescriptors[i] = this.#size - 1 - i;
    this.#chainCount.fill(0);
    this.#bufferTop = buffers;
    this.#descriptorTop = this.#size;
    this.#availIndex = 0;
    this.#lastUsed = 0;
    this.#u16.fill(0, this.#avail, this.#avail + 3 + this.#size);
    this.#u32.fill(0, this.#used, this.#used + 2 + 2 * this.#size);
    // Completions are looked for when buffers run short: the switch need not call for them. With EVENT_IDX the flags word
    // must be 0 (section 2.7.7.1), and used_event 0 asks for one call in 65 536 frames.
    this.#u16[this.#avail] = this.#eventIndex ? 0 : AVAIL_NO_INTERRUPT;
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

  /** used.idx as the switch left it: where a new connection goes on. */
  get usedIndex(): number {
    return Atomics.load(this.#u16, this.#used * 2 + 1);
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
    if (this.#bufferTop < max || this.#descriptorTop < max * each) {
      this.#reclaim();
      if (this.#bufferTop < max) max = this.#bufferTop;
      if (this.#descriptorTop < max * each) max = Math.floor(this.#descriptorTop / each);
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
    const plan = this.#plan;
    const simple = plan.pieces === 1 && !plan.indirect;
    const header = this.#headerBytes;
    const mask = this.#mask;
    const desc = this.#desc;
    const ring = this.#avail + 2;
    const frameBytes = this.frameBytes;
    const freeBuffers = this.#freeBuffers;
    const freeDescriptors = this.#freeDescriptors;
    const chainCount = this.#chainCount;
    const chainBuffer = this.#chainBuffer;
    const base = this.#guestBase - header;
    const offsets = this.at;
    const lengths = this.length;
    const flags = this.flags;
    const gsoType = this.gsoType;
    const gsoSize = this.gsoSize;
    const headerLength = this.headerLength;
    const csumStart = this.csumStart;
    const csumOffset = this.csumOffset;
    let bufferTop = this.#bufferTop;
    let descriptorTop = this.#descriptorTop;
    const first = this.#availIndex;
    let index = first;
    let kept = 0;
    for (let i = 0; i < n; i++) {
      const length = lengths[i]!;
      const buffer = freeBuffers[--bufferTop]!;
      if (length <= 0 || length > frameBytes) {
        kept++;
        continue;
      }
      const at = offsets[i]!;
      const h = (at - header) / 2;
      u16[h] = flags[i]! | (gsoType[i]! << 8);
      u16[h + 1] = headerLength[i]!;
      u16[h + 2] = gsoSize[i]!;
      u16[h + 3] = csumStart[i]!;
      u16[h + 4] = csumOffset[i]!;
      if (header === 12) u16[h + 5] = 0;
      let head = 0;
      if (simple) {
        head = freeDescriptors[--descriptorTop]!;
        const d = desc + head * 4;
        const address = base + at;
        u32[d] = address;
        u32[d + 1] = address / HIGH;
        u32[d + 2] = length + header;
        u32[d + 3] = 0;
        chainCount[head] = 1;
      } else {
        this.#descriptorTop = descriptorTop;
        head = this.#chain(buffer, at, length);
        descriptorTop = this.#descriptorTop;
      }
      chainBuffer[head] = buffer;
      u16[ring + (index & mask)] = head;
      index++;
    }
    this.#bufferTop = bufferTop;
    this.#descriptorTop = descriptorTop;
    if (kept > 0) this.#keep(n, kept);
    if (index === first) return 0;
    this.#availIndex = index & 0xffff;
    this.sent += index - first;
    // Publishes, and is the full barrier before the switch's wish is read (section 2.7.13.4).
    Atomics.store(u16, this.#avail + 1, index & 0xffff);
    if (this.#wantsKick(first, index)) {
      this.kicks++;
      if (this.#kickFd >= 0) signal(this.#kickFd);
    }
    return index - first;
  }

  /** Puts the buffers of frames left out of a burst of `n` back; the stack still holds all of them above its top. */
  #keep(n: number, kept: number): void {
    this.rejected += kept;
    const free = this.#freeBuffers;
    const popped = this.#bufferTop + n - 1;
    for (let i = n - 1; i >= 0; i--) {
      const length = this.length[i]!;
      if (length <= 0 || length > this.frameBytes) free[this.#bufferTop++] = free[popped - i]!;
    }
  }

  #wantsKick(first: number, index: number): boolean {
    if (!this.#eventIndex) return (Atomics.load(this.#u16, this.#used * 2) & USED_NO_NOTIFY) === 0;
    // avail_event lies behind the used ring (section 2.7.10).
    const event = Atomics.load(this.#u16, (this.#used + 1 + 2 * this.#size) * 2);
    return ((index - event - 1) & 0xffff) < ((index - first) & 0xffff);
  }

  /** Lays a frame over several descriptors, in the ring or in the buffer's table. @returns the head. */
  #chain(buffer: number, at: number, length: number): number {
    const plan = this.#plan;
    const header = this.#headerBytes;
    const u32 = this.#u32;
    const cuts = plan.cuts;
    const table = plan.indirect ? this.#tableAt[buffer]! / 4 : 0;
    let head = -1;
    let previous = -1;
    let count = 0;
    let start = -header;
    let cut = plan.headerAlone ? -1 : 0;
    for (;;) {
      let end = length;
      if (cut < 0) end = 0;
      else if (cut < cuts.length && cuts[cut]! < length) end = cuts[cut]!;
      const entry = plan.indirect ? count : this.#freeDescriptors[--this.#descriptorTop]!;
      const d = plan.indirect ? table + entry * 4 : this.#desc + entry * 4;
      const address = this.#guestBase + at + start;
      u32[d] = address;
      u32[d + 1] = address / HIGH;
      u32[d + 2] = end - start;
      u32[d + 3] = 0;
      if (previous >= 0) {
        const p = plan.indirect ? table + previous * 4 : this.#desc + previous * 4;
        u32[p + 3] = DESC_NEXT | (entry << 16);
        if (!plan.indirect) this.#chainNext[previous] = entry;
      } else {
        head = entry;
      }
      previous = entry;
      count++;
      start = end;
      cut++;
      if (end === length) break;
    }
    if (plan.indirect) {
      head = this.#freeDescriptors[--this.#descriptorTop]!;
      const d = this.#desc + head * 4;
      const address = this.#guestBase + this.#tableAt[buffer]!;
      u32[d] = address;
      u32[d + 1] = address / HIGH;
      u32[d + 2] = count * 16;
      u32[d + 3] = DESC_INDIRECT;
      count = 1;
    }
    this.#chainCount[head] = count;
    return head;
  }

  /** Takes back what the switch has used. */
  #reclaim(): void {
    if (!this.#open) return;
    const u32 = this.#u32;
    const mask = this.#mask;
    const used = this.#used + 1;
    const chainCount = this.#chainCount;
    const end = Atomics.load(this.#u16, this.#used * 2 + 1);
    let index = this.#lastUsed;
    while (index !== end) {
      const id = u32[used + (index & mask) * 2]!;
      index = (index + 1) & 0xffff;
      if (id > mask || chainCount[id] === 0) {
        this.broken++;
        continue;
      }
      this.#freeBuffers[this.#bufferTop++] = this.#chainBuffer[id]!;
      let left = chainCount[id]!;
      let d = id;
      chainCount[id] = 0;
      while (left > 0) {
        this.#freeDescriptors[this.#descriptorTop++] = d;
        d = this.#chainNext[d]!;
        left--;
      }
    }
    this.#lastUsed = index;
  }
}
