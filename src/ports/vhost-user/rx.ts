// hot
/**
 * Receive half of a queue pair: frames that the guest put on its transmit virtqueue (2k + 1).
 *
 * A poll has three steps: descriptors become copy rows (virtio-net header and header window of each frame into the private
 * scratch; the rest stays behind as segments); one native call copies them; then the virtio-net headers are read, from the
 * scratch only. So the guest cannot change what was checked.
 *
 * Used elements are written while descriptors are read, since their places are known then; `complete` shows them to the
 * guest with one store. Nearly all frames are one descriptor in the region of the frame before: that is the straight path.
 */
import { DROP_BASE, dropReason, type PortCounter, portCounter } from '#contract/catalogue.ts';
import { eventfdDrain } from '#contract/os.ts';
import { BURST, HEADROOM, MAX_FRAME, type PacketBatch, SLOT_BYTES, WINDOW } from '#datapath/packet/batch.ts';
import type { PortCounters, RxQueue } from '#ports/port.ts';
import { type ChainWalker, WALK_LONG, WALK_LOOP, WALK_OK, WALK_WAIT } from './chain.ts';
import { TABLE_DELTA, TABLE_END, TABLE_START, TABLE_STRIDE } from './guest-memory.ts';
import { LateCall } from './late-call.ts';
import type { RxOptions } from './queue-options.ts';
import { RxFrames } from './rx-frames.ts';
import {
  AVAIL_NO_INTERRUPT,
  BROKEN_HEAD,
  BROKEN_INDEX,
  BROKEN_LOOP,
  passesEvent,
  STATE_BROKEN,
  STATE_CURSOR,
  USED_NO_NOTIFY,
  type Vring,
} from './vring.ts';

// Re-bound: V8 reads a module constant faster in a loop than an imported binding.
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
const ETHERNET = 14;
/** Bad chains that end a burst. */
const MOST_REFUSED = 4;
const LOOPS = -1;
const WAITS = -2;
const passes = passesEvent;

const counter = (name: PortCounter): number => portCounter(name);
const KICKS = counter('kicks');
const BAD_DESCRIPTOR = DROP_BASE + dropReason('rx_bad_descriptor');
const OVERSIZE = DROP_BASE + dropReason('rx_oversize');

export class VhostRxQueue implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly #vring: Vring;
  readonly #walker: ChainWalker;
  readonly #counters: PortCounters;
  readonly #headerBytes: number;
  readonly #eventIdx: boolean;
  readonly #notifyOnEmpty: boolean;
  readonly #headersEmpty: boolean;
  readonly #frames: RxFrames;
  /** Region of the frame before. */
  #region = 0;
  /** First entry of this burst. */
  #cursor = 0;
  /** Of no meaning: keeps V8 from dropping loads that are there for its sake. */
  #touch = 0;
  /** Chains of this burst, to be given back. */
  #taken = 0;
  readonly #call: LateCall;
  /** The used index of which the guest was told. */
  #told = 0;
  /** Notifications may be on: a guest starts with them, and so does a queue that another worker had. */
  #armed = true;

  constructor(
    portNo: number,
    queue: number,
    vring: Vring,
    walker: ChainWalker,
    counters: PortCounters,
    options: RxOptions,
  ) {
    this.portNo = portNo;
    this.queue = queue;
    this.kickFd = vring.kickFd;
    this.#vring = vring;
    this.#walker = walker;
    this.#counters = counters;
    this.#headerBytes = options.headerBytes;
    this.#eventIdx = options.eventIdx;
    this.#notifyOnEmpty = options.notifyOnEmpty;
    this.#headersEmpty = options.headersEmpty;
    this.#call = new LateCall(vring.callFd, counters);
    this.#frames = new RxFrames(portNo, counters, options);
  }

  poll(batch: PacketBatch, whole = false): number {
    const vring = this.#vring;
    const avail = vring.avail;
    const state = vring.state;
    const cursor = state[CURSOR]!;
    const waiting = (Atomics.load(avail, 1) - cursor) & 0xffff;
    if (waiting === 0 || state[STATE_BROKEN] !== 0) {
      if (this.#call.due) this.#tell();
      return 0;
    }
    if (this.#armed) this.disarm();
    const size = vring.size;
    if (waiting > size) return this.#broken(BROKEN_INDEX);
    if (this.#taken > 0) this.complete();
    const n = waiting < MAX_BURST ? waiting : MAX_BURST;

    this.#cursor = cursor;
    let slot = 0;
    let broken = 0;
    let tried = -1;
    let refused = 0;
    let i = 0;
    const untouched = whole && this.#headersEmpty;
    while (i < n) {
      const stop = untouched ? this.#takeWhole(batch, slot, i, n) : this.#takePlain(batch, slot, i, n);
      slot += stop - i;
      i = stop;
      if (i === n) break;
      const head = vring.avail[((cursor + i) & (size - 1)) + 2]!;
      if (head >= size) {
        broken = BROKEN_HEAD;
        break;
      }
      if (tried !== i && this.#findRegion(head)) {
        tried = i;
        continue;
      }
      const entry = (cursor + i) & (size - 1);
      vring.used[2 * entry + 1] = head;
      vring.used[2 * entry + 2] = 0;
      const result = this.#takeChain(batch, slot, head);
      if (result < 0) {
        if (result === LOOPS) broken = BROKEN_LOOP;
        break;
      }
      slot += result;
      i++;
      // A guest that sends nonsense gets no more of a round than one that sends frames.
      if (result === 0 && ++refused === MOST_REFUSED) break;
    }
    this.#taken = i;
    if (broken !== 0) this.#broken(broken);
    if (slot === 0) {
      this.complete();
      return 0;
    }
    batch.copy();
    const kept = this.#frames.readHeaders(batch, slot);
    if (kept === 0) this.complete();
    return kept;
  }

  /**
   * The straight path: chains i.. into slots `slot`.. @returns the first chain that it is not for.
   * No call in its loop: after one, V8 would check every view again.
   */
  #takePlain(batch: PacketBatch, slot: number, i: number, n: number): number {
    const vring = this.#vring;
    const size = vring.size;
    const mask = size - 1;
    const avail = vring.avail;
    const desc = vring.desc;
    const used = vring.used;
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
    const first = this.#cursor;
    let segment = batch.nextSegment;
    let row = batch.rowCount * 3;
    // TurboFan does not peel a loop of this size, and so checks type, length and base of a view at every access in it. A
    // load from each view in front of the loop settles all that once.
    this.#touch = avail[0]! | desc[0]! | used[0]! | rows[0]! | start[0]! | headLength[0]! | length[0]!;
    this.#touch |= segmentFirst[0]! | segmentCount[0]!;
    for (; i < n; i++) {
      const entry = (first + i) & mask;
      const head = avail[entry + 2]!;
      if (head >= size) break;
      const d = head << 2;
      const at = desc[d + 1]! * 4294967296 + desc[d]!;
      const bytes = desc[d + 2]!;
      if (
        (desc[d + 3]! & 7) !== 0 ||
        at < regionStart ||
        at + bytes > regionEnd ||
        bytes < shortest ||
        bytes > longest
      ) {
        break;
      }
      used[2 * entry + 1] = head;
      used[2 * entry + 2] = 0;
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
    }
    batch.rowCount = (row / 3) | 0;
    batch.nextSegment = segment;
    return i;
  }

  /** As takePlain, for frames that nobody reads: they stay where they are, as one segment each. */
  #takeWhole(batch: PacketBatch, slot: number, i: number, n: number): number {
    const vring = this.#vring;
    const size = vring.size;
    const mask = size - 1;
    const avail = vring.avail;
    const desc = vring.desc;
    const used = vring.used;
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
    const first = this.#cursor;
    let segment = batch.nextSegment;
    // As in takePlain.
    this.#touch = avail[0]! | desc[0]! | used[0]! | start[0]! | headLength[0]! | length[0]!;
    this.#touch |= segmentFirst[0]! | segmentCount[0]! | segmentAddress[0]! | segmentLength[0]!;
    for (; i < n; i++) {
      const entry = (first + i) & mask;
      const head = avail[entry + 2]!;
      if (head >= size) break;
      const d = head << 2;
      const at = desc[d + 1]! * 4294967296 + desc[d]!;
      const bytes = desc[d + 2]!;
      if (
        (desc[d + 3]! & 7) !== 0 ||
        at < regionStart ||
        at + bytes > regionEnd ||
        bytes < shortest ||
        bytes > longest
      ) {
        break;
      }
      used[2 * entry + 1] = head;
      used[2 * entry + 2] = 0;
      start[slot] = slot * SLOT + HEAD;
      headLength[slot] = 0;
      length[slot] = bytes - header;
      segmentFirst[slot] = segment;
      segmentCount[slot] = 1;
      segmentAddress[segment] = at + toFrame;
      segmentLength[segment] = bytes - header;
      segment++;
      slot++;
    }
    batch.nextSegment = segment;
    return i;
  }

  /** Whether the descriptor lies in another region than the one before; that is the region from here on. */
  #findRegion(head: number): boolean {
    const desc = this.#vring.desc;
    const at = desc[4 * head + 1]! * 4294967296 + desc[4 * head]!;
    const space = this.#walker.memory;
    space.at[0] = at;
    const r = space.find();
    if (r < 0 || r === this.#region) return false;
    this.#region = r;
    return true;
  }

  /**
   * Takes any chain into slot `slot`: several descriptors, indirect, over several regions.
   * @returns 1 taken, 0 dropped and counted, LOOPS the ring makes no sense, WAITS it stays where it is for now.
   */
  #takeChain(batch: PacketBatch, slot: number, head: number): number {
    const vring = this.#vring;
    const walker = this.#walker;
    walker.clear();
    const walked = walker.walk(vring.desc, vring.size, head, 0);
    if (walked !== WALK_OK) {
      if (walked === WALK_WAIT) return WAITS;
      this.#counters.slots[this.#counters.base + (walked === WALK_LONG ? OVERSIZE : BAD_DESCRIPTOR)]!++;
      return walked === WALK_LOOP ? LOOPS : 0;
    }
    return this.#frames.lay(batch, slot, walker) ? 1 : 0;
  }

  /** Where the ring will stand when the burst at hand is given back. */
  get next(): number {
    return (this.#vring.state[CURSOR]! + this.#taken) & 0xffff;
  }

  complete(): void {
    const taken = this.#taken;
    if (taken === 0) return;
    this.#taken = 0;
    const vring = this.#vring;
    const before = vring.state[CURSOR]!;
    const now = (before + taken) & 0xffff;
    Atomics.store(vring.used16, 1, now);
    vring.state[CURSOR] = now;
    const call = this.#call;
    if (!call.waiting) this.#told = before;
    call.put();
    // A driver that is out of buffers waits.
    if (call.due || ((now - this.#told) & 0xffff) >= vring.size >> 1) this.#tell();
  }

  /** Calls where the guest wants that: asked only after the index is out (section 2.7.8.2), by a store that none may pass. */
  #tell(): void {
    const vring = this.#vring;
    const avail = vring.avail;
    const now = vring.state[CURSOR]!;
    let wanted = this.#eventIdx
      ? passes(avail[2 + vring.size]!, now, this.#told)
      : (avail[0]! & AVAIL_NO_INTERRUPT) === 0;
    // Legacy drivers: a drained ring is always worth an interrupt (virtio 1.2 section 6.3).
    if (!wanted && this.#notifyOnEmpty) wanted = Atomics.load(avail, 1) === now;
    this.#call.end(wanted);
  }

  rest(): void {
    if (this.#call.waiting) this.#call.end(true);
  }

  arm(): boolean {
    const vring = this.#vring;
    const cursor = vring.state[CURSOR]!;
    if (this.#call.waiting) this.#tell();
    this.#armed = true;
    if (this.#eventIdx) Atomics.store(vring.used16, 2 + 4 * vring.size, cursor);
    else Atomics.store(vring.used16, 0, 0);
    if (Atomics.load(vring.avail, 1) === cursor || vring.state[STATE_BROKEN] !== 0) return false;
    this.disarm();
    return true;
  }

  disarm(): void {
    const vring = this.#vring;
    this.#armed = false;
    // An event index that was just passed comes round again only after 65 535 entries.
    if (this.#eventIdx) vring.used16[2 + 4 * vring.size] = (vring.state[CURSOR]! - 1) & 0xffff;
    else vring.used16[0] = USED_NO_NOTIFY;
    if (this.kickFd >= 0 && eventfdDrain(this.kickFd) > 0) this.#counters.slots[this.#counters.base + KICKS]!++;
  }

  #broken(reason: number): number {
    if (reason !== BROKEN_LOOP) this.#counters.slots[this.#counters.base + BAD_DESCRIPTOR]!++;
    this.#vring.state[STATE_BROKEN] = reason;
    return 0;
  }
}
