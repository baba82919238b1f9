// hot
/**
 * Receive half of a queue pair over a packed ring: as rx.ts, with these differences.
 *
 * Whether an entry is available stands in the entry itself, so that nothing tells beforehand how many wait: the straight
 * path goes on until an entry says no. A chain is given back in its own place, where its descriptors are still to be read
 * when the burst fails: so used descriptors are written in a second pass, by `complete` (used-packed.ts).
 */
import { DROP_BASE, dropReason, portCounter } from '#contract/catalogue.ts';
import { eventfdDrain } from '#contract/os.ts';
import { BURST, HEADROOM, MAX_FRAME, type PacketBatch, SLOT_BYTES, WINDOW } from '#datapath/packet/batch.ts';
import type { PortCounters, RxQueue } from '#ports/port.ts';
import { WALK_LONG, WALK_LOOP, WALK_OK, WALK_WAIT } from './chain.ts';
import type { PackedChainWalker } from './chain-packed.ts';
import { TABLE_DELTA, TABLE_END, TABLE_START, TABLE_STRIDE } from './guest-memory.ts';
import { LateCall } from './late-call.ts';
import type { RxOptions } from './queue-options.ts';
import { RxFrames } from './rx-frames.ts';
import { UsedChains } from './used-packed.ts';
import { BROKEN_LOOP, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, STATE_BROKEN, STATE_CURSOR } from './vring.ts';
import {
  ENTRY_MASK,
  EVENT_DESC,
  EVENT_DISABLE,
  EVENT_ENABLE,
  PACKED_AVAIL,
  PACKED_USED,
  type PackedVring,
  WRAP_BIT,
} from './vring-packed.ts';

const MAX_BURST = BURST;
const WINDOW_BYTES = WINDOW;
const SLOT = SLOT_BYTES;
const HEAD = HEADROOM;
const LONGEST = MAX_FRAME;
const CURSOR = STATE_CURSOR;
const START = TABLE_START;
const END = TABLE_END;
const DELTA = TABLE_DELTA;
const STRIDE = TABLE_STRIDE;
const ENTRY = ENTRY_MASK;
const WRAP = WRAP_BIT;
const AVAIL = PACKED_AVAIL;
const USED = PACKED_USED;
const BOTH = PACKED_AVAIL | PACKED_USED;
/** Flags that tell a plain available descriptor from all others. */
const PLAIN = BOTH | DESC_NEXT | DESC_WRITE | DESC_INDIRECT;
const ETHERNET = 14;
/** Bad chains that end a burst. */
const MOST_REFUSED = 4;
const LOOPS = -1;
const WAITS = -2;

const KICKS = portCounter('kicks');
const BAD_DESCRIPTOR = DROP_BASE + dropReason('rx_bad_descriptor');
const OVERSIZE = DROP_BASE + dropReason('rx_oversize');

export class PackedRxQueue implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly #vring: PackedVring;
  readonly #walker: PackedChainWalker;
  readonly #counters: PortCounters;
  readonly #frames: RxFrames;
  readonly #call: LateCall;
  /** Chains of this burst, to be given back. */
  readonly waiting: UsedChains;
  readonly #used: UsedChains;
  readonly #headerBytes: number;
  readonly #eventIdx: boolean;
  readonly #headersEmpty: boolean;
  /** Region of the frame before. */
  #region = 0;
  /** Entry to look at next, and the AVAIL and USED bits that make it available. */
  #entry = 0;
  #bits = 0;
  /** Of no meaning: keeps V8 from dropping loads that are there for its sake. */
  #touch = 0;
  /** Notifications may be on: a guest starts with them, and so does a queue that another worker had. */
  #armed = true;

  constructor(
    portNo: number,
    queue: number,
    vring: PackedVring,
    walker: PackedChainWalker,
    counters: PortCounters,
    options: RxOptions,
  ) {
    this.portNo = portNo;
    this.queue = queue;
    this.kickFd = vring.kickFd;
    this.#vring = vring;
    this.#walker = walker;
    this.#counters = counters;
    this.#call = new LateCall(vring.callFd, counters);
    this.#frames = new RxFrames(portNo, counters, options);
    this.#used = new UsedChains(vring, BURST, options.eventIdx);
    this.waiting = this.#used;
    this.#headerBytes = options.headerBytes;
    this.#eventIdx = options.eventIdx;
    this.#headersEmpty = options.headersEmpty;
  }

  poll(batch: PacketBatch, whole = false): number {
    const vring = this.#vring;
    const state = vring.state;
    const words = vring.words;
    const place = state[CURSOR]!;
    const bits = (place & WRAP) !== 0 ? AVAIL : USED;
    const waiting = ((Atomics.load(words, 4 * (place & ENTRY) + 3) >>> 16) & BOTH) === bits;
    if (!waiting || state[STATE_BROKEN] !== 0) {
      if (this.#call.due) this.#tell();
      return 0;
    }
    if (this.#armed) this.disarm();
    const used = this.#used;
    if (used.count > 0) {
      this.complete();
      return this.poll(batch, whole);
    }
    const size = vring.size;
    this.#entry = place & ENTRY;
    this.#bits = bits;
    let slot = 0;
    let tried = -1;
    let refused = 0;
    const untouched = whole && this.#headersEmpty;
    while (used.count < MAX_BURST && used.entries < size) {
      slot += untouched ? this.#takeWhole(batch, slot) : this.#takePlain(batch, slot);
      if (used.count === MAX_BURST || used.entries === size) break;
      const word = words[4 * this.#entry + 3]!;
      if (((word >>> 16) & BOTH) !== this.#bits) break;
      if (tried !== used.count && this.#findRegion()) {
        tried = used.count;
        continue;
      }
      const result = this.#takeChain(batch, slot, word);
      if (result < 0) {
        if (result === LOOPS) state[STATE_BROKEN] = BROKEN_LOOP;
        break;
      }
      slot += result;
      // A guest that sends nonsense gets no more of a round than one that sends frames.
      if (result === 0 && ++refused === MOST_REFUSED) break;
    }
    if (slot === 0) {
      this.complete();
      return 0;
    }
    batch.copy();
    const kept = this.#frames.readHeaders(batch, slot);
    if (kept === 0) this.complete();
    return kept;
  }

  /** The straight path, into slots `slot`.. @returns frames taken. No call in its loop, as in rx.ts. */
  #takePlain(batch: PacketBatch, slot: number): number {
    const vring = this.#vring;
    const size = vring.size;
    const desc = vring.desc;
    const used = this.#used;
    const usedId = used.id;
    const usedLength = used.length;
    const usedSpan = used.span;
    const header = this.#headerBytes;
    const shortest = header + ETHERNET;
    const longest = header + LONGEST;
    const rows = batch.rows;
    const start = batch.start;
    const headLength = batch.headLength;
    const length = batch.length;
    const segmentFirst = batch.segmentFirst;
    const segmentCount = batch.segmentCount;
    const segmentAddress = batch.segmentAddress;
    const segmentLength = batch.segmentLength;
    const scratch = batch.scratchAddress;
    const table = this.#walker.memory.table;
    const regionStart = table[this.#region * STRIDE + START]!;
    const regionEnd = table[this.#region * STRIDE + END]!;
    const delta = table[this.#region * STRIDE + DELTA]!;
    const first = used.count;
    const room = size - used.entries;
    const end = room < MAX_BURST - first ? first + room : MAX_BURST;
    let entry = this.#entry;
    let bits = this.#bits;
    let segment = batch.nextSegment;
    let row = batch.rowCount * 3;
    let i = first;
    // As in rx.ts.
    this.#touch = desc[0]! | usedId[0]! | usedLength[0]! | usedSpan[0]! | rows[0]! | start[0]! | headLength[0]!;
    this.#touch |= length[0]! | segmentFirst[0]! | segmentCount[0]!;
    for (; i < end; i++) {
      const d = entry << 2;
      const word = desc[d + 3]!;
      const at = desc[d + 1]! * 4294967296 + desc[d]!;
      const bytes = desc[d + 2]!;
      if (
        ((word >>> 16) & PLAIN) !== bits ||
        at < regionStart ||
        at + bytes > regionEnd ||
        bytes < shortest ||
        bytes > longest
      ) {
        break;
      }
      usedId[i] = word;
      usedLength[i] = 0;
      usedSpan[i] = 1;
      const frame = bytes - header;
      const window = frame < WINDOW_BYTES ? frame : WINDOW_BYTES;
      const source = at + delta;
      const frameAt = slot * SLOT + HEAD;
      start[slot] = frameAt;
      headLength[slot] = window;
      length[slot] = frame;
      rows[row] = scratch + (frameAt - header);
      rows[row + 1] = source;
      rows[row + 2] = header + window;
      row += 3;
      segmentCount[slot] = 0;
      if (frame > WINDOW_BYTES) {
        segmentFirst[slot] = segment;
        segmentAddress[segment] = source + header + WINDOW_BYTES;
        segmentLength[segment] = frame - WINDOW_BYTES;
        segmentCount[slot] = 1;
        segment++;
      }
      slot++;
      entry++;
      if (entry === size) {
        entry = 0;
        bits ^= BOTH;
      }
    }
    batch.rowCount = (row / 3) | 0;
    batch.nextSegment = segment;
    this.#entry = entry;
    this.#bits = bits;
    used.count = i;
    used.entries += i - first;
    return i - first;
  }

  /** As takePlain, for frames that nobody reads: they stay where they are, as one segment each. */
  #takeWhole(batch: PacketBatch, slot: number): number {
    const vring = this.#vring;
    const size = vring.size;
    const desc = vring.desc;
    const used = this.#used;
    const usedId = used.id;
    const usedLength = used.length;
    const usedSpan = used.span;
    const header = this.#headerBytes;
    const shortest = header + ETHERNET;
    const longest = header + LONGEST;
    const start = batch.start;
    const headLength = batch.headLength;
    const length = batch.length;
    const segmentFirst = batch.segmentFirst;
    const segmentCount = batch.segmentCount;
    const segmentAddress = batch.segmentAddress;
    const segmentLength = batch.segmentLength;
    const table = this.#walker.memory.table;
    const regionStart = table[this.#region * STRIDE + START]!;
    const regionEnd = table[this.#region * STRIDE + END]!;
    const toFrame = table[this.#region * STRIDE + DELTA]! + header;
    const first = used.count;
    const room = size - used.entries;
    const end = room < MAX_BURST - first ? first + room : MAX_BURST;
    let entry = this.#entry;
    let bits = this.#bits;
    let segment = batch.nextSegment;
    let i = first;
    // As in rx.ts.
    this.#touch = desc[0]! | usedId[0]! | usedLength[0]! | usedSpan[0]! | start[0]! | headLength[0]! | length[0]!;
    this.#touch |= segmentFirst[0]! | segmentCount[0]! | segmentAddress[0]! | segmentLength[0]!;
    for (; i < end; i++) {
      const d = entry << 2;
      const word = desc[d + 3]!;
      const at = desc[d + 1]! * 4294967296 + desc[d]!;
      const bytes = desc[d + 2]!;
      if (
        ((word >>> 16) & PLAIN) !== bits ||
        at < regionStart ||
        at + bytes > regionEnd ||
        bytes < shortest ||
        bytes > longest
      ) {
        break;
      }
      usedId[i] = word;
      usedLength[i] = 0;
      usedSpan[i] = 1;
      start[slot] = slot * SLOT + HEAD;
      headLength[slot] = 0;
      length[slot] = bytes - header;
      segmentFirst[slot] = segment;
      segmentCount[slot] = 1;
      segmentAddress[segment] = at + toFrame;
      segmentLength[segment] = bytes - header;
      segment++;
      slot++;
      entry++;
      if (entry === size) {
        entry = 0;
        bits ^= BOTH;
      }
    }
    batch.nextSegment = segment;
    this.#entry = entry;
    this.#bits = bits;
    used.count = i;
    used.entries += i - first;
    return i - first;
  }

  /** Whether the descriptor lies in another region than the one before; that is the region from here on. */
  #findRegion(): boolean {
    const desc = this.#vring.desc;
    const d = this.#entry << 2;
    const at = desc[d + 1]! * 4294967296 + desc[d]!;
    const space = this.#walker.memory;
    space.at[0] = at;
    const r = space.find();
    if (r < 0 || r === this.#region) return false;
    this.#region = r;
    return true;
  }

  /**
   * Takes the chain at #entry, of any shape, into slot `slot`; its head's fourth word is `word`.
   * @returns 1 taken, 0 dropped and counted, LOOPS the ring makes no sense, WAITS it stays where it is for now.
   */
  #takeChain(batch: PacketBatch, slot: number, word: number): number {
    const size = this.#vring.size;
    const walker = this.#walker;
    const used = this.#used;
    walker.clear();
    const walked = walker.walkPacked(this.#vring.desc, size, this.#entry, word, 0);
    if (walked === WALK_WAIT) return WAITS;
    const endless = walked === WALK_LOOP || used.entries + walker.entries > size;
    if (walked !== WALK_OK || endless) {
      this.#counters.slots[this.#counters.base + (walked === WALK_LONG ? OVERSIZE : BAD_DESCRIPTOR)]!++;
    }
    if (endless) return LOOPS;
    used.add(walker.id, 0, walker.entries);
    this.#entry += walker.entries;
    if (this.#entry >= size) {
      this.#entry -= size;
      this.#bits ^= BOTH;
    }
    return walked === WALK_OK && this.#frames.lay(batch, slot, walker) ? 1 : 0;
  }

  /** Where the ring will stand when the burst at hand is given back. */
  get next(): number {
    if (this.#used.count === 0) return this.#vring.state[CURSOR]!;
    return this.#entry | (this.#bits === AVAIL ? WRAP : 0);
  }

  complete(): void {
    const used = this.#used;
    if (used.count === 0) return;
    const vring = this.#vring;
    vring.state[CURSOR] = used.publish(vring.state[CURSOR]!);
    const call = this.#call;
    call.put();
    // A driver that is out of buffers waits.
    if (call.due || used.untold >= vring.size >> 1) this.#tell();
  }

  #tell(): void {
    this.#call.end(this.#used.wanted(this.#vring.state[CURSOR]!));
  }

  rest(): void {
    if (!this.#call.waiting) return;
    this.#used.untold = 0;
    this.#call.end(true);
  }

  arm(): boolean {
    const vring = this.#vring;
    const place = vring.state[CURSOR]!;
    if (this.#call.waiting) this.#tell();
    this.#armed = true;
    Atomics.store(vring.deviceEvent, 0, this.#eventIdx ? place | (EVENT_DESC << 16) : EVENT_ENABLE << 16);
    const bits = (place & WRAP) !== 0 ? AVAIL : USED;
    const waiting = ((Atomics.load(vring.words, 4 * (place & ENTRY) + 3) >>> 16) & BOTH) === bits;
    if (!waiting || vring.state[STATE_BROKEN] !== 0) return false;
    this.disarm();
    return true;
  }

  disarm(): void {
    this.#armed = false;
    this.#vring.deviceEvent[0] = EVENT_DISABLE << 16;
    if (this.kickFd >= 0 && eventfdDrain(this.kickFd) > 0) this.#counters.slots[this.#counters.base + KICKS]!++;
  }
}
