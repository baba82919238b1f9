// hot
/**
 * Transmit half of a queue pair over a packed ring: as tx.ts, but an entry is looked at when its turn comes, and used
 * descriptors are written by `publish` (used-packed.ts).
 */
import { eventfdSignal } from '#contract/os.ts';
import { type PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import type { PortCounters, TxQueue } from '#ports/port.ts';
import { fitsMtu } from '../frame/mtu.ts';
import { lockQueue, lockQueueSurely, unlockQueue } from '../queue-lock.ts';
import { BAD_DESCRIPTOR, CALLS, countSent, IOTLB_MISS, MTU, PORT_DOWN, RING_FULL, TOO_BIG } from '../tx-counters.ts';
import { WALK_LOOP, WALK_OK, WALK_WAIT } from './chain.ts';
import type { PackedChainWalker } from './chain-packed.ts';
import { TABLE_DELTA, TABLE_END, TABLE_START, TABLE_STRIDE } from './guest-memory.ts';
import { FramePieces } from './pieces.ts';
import type { TxOptions } from './queue-options.ts';
import { type BufferRing, FrameSender } from './tx-frames.ts';
import { UsedChains } from './used-packed.ts';
import { BROKEN_LOOP, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, STATE_BROKEN, STATE_CURSOR, STATE_LOCK } from './vring.ts';
import { ENTRY_MASK, EVENT_DISABLE, PACKED_AVAIL, PACKED_USED, type PackedVring, WRAP_BIT } from './vring-packed.ts';

const CURSOR = STATE_CURSOR;
const LOCK = STATE_LOCK;
const START = TABLE_START;
const END = TABLE_END;
const DELTA = TABLE_DELTA;
const STRIDE = TABLE_STRIDE;
const WRITE = DESC_WRITE;
const AVAIL = PACKED_AVAIL;
const USED = PACKED_USED;
const BOTH = PACKED_AVAIL | PACKED_USED;
/** Flags that tell a plain available buffer from all other descriptors. */
const PLAIN = BOTH | DESC_NEXT | DESC_WRITE | DESC_INDIRECT;
const WRAP = WRAP_BIT;
const MAX_PUSH = SLOTS;
const ETHERNET = 14;
const signal = eventfdSignal;
const fits = fitsMtu;

export class PackedTxQueue implements TxQueue, BufferRing {
  readonly portNo: number;
  readonly queue: number;
  readonly shared: boolean;
  journaled = false;
  readonly #vring: PackedVring;
  readonly #walker: PackedChainWalker;
  readonly #counters: PortCounters;
  readonly #headerBytes: number;
  readonly #logged: boolean;
  readonly #mergeable: boolean;
  readonly #retries: number;
  readonly #longest: number;
  readonly #pieces = new FramePieces();
  readonly #sender: FrameSender;
  /** Chains pushed and not yet published. */
  readonly waiting: UsedChains;
  readonly #used: UsedChains;
  #region = 0;
  /** Place before those. */
  #before = 0;
  /** Entry to take next, and the AVAIL and USED bits that make it available. */
  #entry = 0;
  #bits = 0;
  /** Where `rewind` goes back to. */
  #markEntry = 0;
  #markBits = 0;
  #markCount = 0;
  #markEntries = 0;
  #sentBytes = 0;
  /** Of no meaning: keeps V8 from dropping loads that are there for its sake. */
  #touch = 0;

  constructor(
    portNo: number,
    queue: number,
    shared: boolean,
    vring: PackedVring,
    walker: PackedChainWalker,
    counters: PortCounters,
    options: TxOptions,
  ) {
    this.portNo = portNo;
    this.queue = queue;
    this.shared = shared;
    this.#vring = vring;
    this.#walker = walker;
    this.#counters = counters;
    this.#headerBytes = options.headerBytes;
    this.#logged = options.logged === true;
    this.#mergeable = options.mergeable;
    this.#retries = options.retries;
    this.#longest = options.mtu + ETHERNET;
    this.#sender = new FrameSender(this, this.#pieces, counters, options);
    this.#used = new UsedChains(vring, vring.size, options.eventIdx);
    this.waiting = this.#used;
    // New buffers are seen by looking: no kicks wanted.
    vring.deviceEvent[0] = EVENT_DISABLE << 16;
  }

  lock(): boolean {
    const { state } = this.#vring;
    return this.journaled ? lockQueueSurely(state, LOCK) : lockQueue(state, LOCK);
  }

  unlock(): void {
    unlockQueue(this.#vring.state, LOCK);
  }

  push(batch: PacketBatch, list: Int32Array, n: number): number {
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    const state = this.#vring.state;
    if (n > MAX_PUSH) {
      slots[base + RING_FULL]! += n - MAX_PUSH;
      n = MAX_PUSH;
    }
    if (this.#used.count === 0) {
      const place = state[CURSOR]!;
      this.#before = place;
      this.#entry = place & ENTRY_MASK;
      this.#bits = (place & WRAP) !== 0 ? AVAIL : USED;
      this.#used.cut(0, 0);
    }
    if (state[STATE_BROKEN] !== 0) {
      slots[base + PORT_DOWN]! += n;
      return 0;
    }
    this.#sentBytes = 0;
    // A burst of plain frames fits; frames of many segments make sure of their own room.
    if (batch.rowCount + 4 * MAX_PUSH > batch.rows.length / 6) batch.copy();
    let sent = 0;
    let extra = 0;
    let tried = -1;
    for (let i = 0; i < n; ) {
      const stop = this.#pushPlain(batch, list, i, n);
      sent += stop - i;
      i = stop;
      if (i === n) break;
      const slot = list[i]!;
      if (batch.length[slot]! > this.#longest && !fits(batch, slot, this.#longest)) {
        slots[base + MTU]!++;
        i++;
        continue;
      }
      if (!this.#available()) {
        slots[base + RING_FULL]! += n - i;
        break;
      }
      if (tried !== i && this.#findRegion()) {
        tried = i;
        continue;
      }
      const reason = this.#sender.push(batch, slot, i);
      if (reason === 0) {
        sent++;
        extra += this.#sender.packets - 1;
        this.#sentBytes += this.#sender.bytes;
      } else {
        slots[base + reason]!++;
      }
      i++;
      if (state[STATE_BROKEN] !== 0) {
        slots[base + PORT_DOWN]! += n - i;
        break;
      }
    }
    if (sent > 0) countSent(this.#counters, sent + extra, this.#sentBytes);
    return sent;
  }

  /** The straight path, from packet i on. @returns the first packet that it is not for. No call in its loop, as in tx.ts. */
  #pushPlain(batch: PacketBatch, list: Int32Array, i: number, n: number): number {
    if (this.#headerBytes !== 12 || this.#logged) return i;
    const vring = this.#vring;
    const size = vring.size;
    const desc = vring.desc;
    const used = this.#used;
    const usedId = used.id;
    const usedLength = used.length;
    const usedSpan = used.span;
    const rows = batch.rows;
    const u16 = batch.u16;
    const u32 = batch.u32;
    const scratch = batch.scratchAddress;
    const start = batch.start;
    const length = batch.length;
    const headLength = batch.headLength;
    const vnetFlags = batch.vnetFlags;
    const gsoType = batch.gsoType;
    const segmentFirst = batch.segmentFirst;
    const segmentCount = batch.segmentCount;
    const segmentAddress = batch.segmentAddress;
    const segmentLength = batch.segmentLength;
    const memory = this.#walker.memory;
    const table = memory.table;
    const regionStart = table[this.#region * STRIDE + START]!;
    const regionEnd = table[this.#region * STRIDE + END]!;
    const delta = table[this.#region * STRIDE + DELTA]!;
    const guest = memory.u32[this.#region]!;
    const guestAt = memory.base[this.#region]!;
    const longest = this.#longest;
    const room = size - used.entries;
    const end = room < n - i ? i + room : n;
    let entry = this.#entry;
    let bits = this.#bits;
    let chain = used.count;
    let row = batch.rowCount * 3;
    let bytes = 0;
    // See `touch` in rx.ts.
    this.#touch =
      desc[0]! |
      usedId[0]! |
      usedLength[0]! |
      usedSpan[0]! |
      rows[0]! |
      u16[0]! |
      u32[0]! |
      start[0]! |
      length[0]! |
      headLength[0]! |
      list[0]!;
    this.#touch |= vnetFlags[0]! | gsoType[0]! | segmentCount[0]! | segmentFirst[0]! | segmentAddress[0]!;
    for (; i < end; i++) {
      const slot = list[i]!;
      const frame = length[slot]!;
      if (frame > longest) break;
      const d = entry << 2;
      const word = desc[d + 3]!;
      const at = desc[d + 1]! * 4294967296 + desc[d]!;
      const need = frame + 12;
      const segments = segmentCount[slot]!;
      if (
        ((word >>> 16) & PLAIN) !== (bits | WRITE) ||
        desc[d + 2]! < need ||
        at < regionStart ||
        at + need > regionEnd ||
        segments > 1 ||
        (vnetFlags[slot]! | gsoType[slot]!) !== 0
      ) {
        break;
      }
      const to = at + delta;
      const window = headLength[slot]!;
      if (window === 0) {
        // A frame that was left with its sender: the header goes to the guest by itself.
        const aligned = (to - guestAt) * 0.25;
        if (aligned !== Math.floor(aligned)) break;
        guest[aligned] = 0;
        guest[aligned + 1] = 0;
        guest[aligned + 2] = 0x10000;
        rows[row] = to + 12;
        rows[row + 1] = segmentAddress[segmentFirst[slot]!]!;
        rows[row + 2] = frame;
        row += 3;
      } else {
        const headerAt = start[slot]! - 12;
        // As in tx.ts: flags 0, GSO none, num_buffers 1.
        const half = headerAt >>> 1;
        const wide = (headerAt + 2) >>> 2;
        u16[half] = 0;
        u32[wide] = 0;
        u32[wide + 1] = 0;
        u16[half + 5] = 1;
        rows[row] = to;
        rows[row + 1] = scratch + headerAt;
        rows[row + 2] = 12 + window;
        row += 3;
        if (segments !== 0) {
          const segment = segmentFirst[slot]!;
          rows[row] = to + 12 + window;
          rows[row + 1] = segmentAddress[segment]!;
          rows[row + 2] = segmentLength[segment]!;
          row += 3;
        }
      }
      bytes += frame;
      usedId[chain] = word;
      usedLength[chain] = need;
      usedSpan[chain] = 1;
      chain++;
      entry++;
      if (entry === size) {
        entry = 0;
        bits ^= BOTH;
      }
    }
    batch.rowCount = (row / 3) | 0;
    this.#entry = entry;
    this.#bits = bits;
    used.entries += chain - used.count;
    used.count = chain;
    this.#sentBytes += bytes;
    return i;
  }

  /** Whether a buffer may be taken; a full ring is looked at again as often as tx-retries-max says. */
  #available(): boolean {
    const vring = this.#vring;
    if (this.#used.entries >= vring.size) return false;
    const at = 4 * this.#entry + 3;
    for (let retry = this.#retries; retry >= 0; retry--) {
      if (((Atomics.load(vring.words, at) >>> 16) & BOTH) === this.#bits) return true;
    }
    return false;
  }

  /** Whether the buffer at #entry lies in another region than the one before; that is the region from here on. */
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

  /** Buffers of any shape for the frame in #pieces, several where the guest merges them (section 5.1.6.4). */
  deliver(batch: PacketBatch, headers: Uint16Array, buffersAt: number): number {
    const vring = this.#vring;
    const size = vring.size;
    const used = this.#used;
    const walker = this.#walker;
    const entry = this.#entry;
    const bits = this.#bits;
    const count = used.count;
    const entries = used.entries;
    const need = this.#pieces.bytes();
    let left = need;
    let reason = 0;
    walker.clear();
    while (left > 0) {
      if (!this.#available()) {
        reason = used.entries - entries === size ? TOO_BIG : RING_FULL;
        break;
      }
      const word = vring.words[4 * this.#entry + 3]!;
      const walked = walker.walkPacked(vring.desc, size, this.#entry, word, WRITE);
      if (walked === WALK_LOOP || used.entries + walker.entries > size) {
        vring.state[STATE_BROKEN] = BROKEN_LOOP;
        reason = BAD_DESCRIPTOR;
        break;
      }
      if (walked === WALK_WAIT) {
        reason = IOTLB_MISS;
        break;
      }
      const bytes = walker.bytes;
      used.add(walker.id, bytes < left ? bytes : left, walker.entries);
      this.#entry += walker.entries;
      if (this.#entry >= size) {
        this.#entry -= size;
        this.#bits ^= BOTH;
      }
      if (walked !== WALK_OK || (used.count === count + 1 && bytes < this.#headerBytes)) {
        // So that a bad buffer does not block the ring for ever.
        used.length.fill(0, count, used.count);
        return BAD_DESCRIPTOR;
      }
      left -= bytes;
      if (left > 0 && !this.#mergeable) {
        reason = TOO_BIG;
        break;
      }
    }
    if (reason !== 0) {
      this.#entry = entry;
      this.#bits = bits;
      used.cut(count, entries);
      return reason;
    }
    if (this.#mergeable) headers[buffersAt] = used.count - count;
    this.#pieces.addRows(batch, need, walker);
    return 0;
  }

  mark(): void {
    this.#markEntry = this.#entry;
    this.#markBits = this.#bits;
    this.#markCount = this.#used.count;
    this.#markEntries = this.#used.entries;
  }

  rewind(): void {
    this.#entry = this.#markEntry;
    this.#bits = this.#markBits;
    this.#used.cut(this.#markCount, this.#markEntries);
  }

  empty(): void {
    this.#used.length.fill(0, this.#markCount, this.#used.count);
  }

  /** Where the ring will stand when what was pushed is published. */
  get next(): number {
    if (this.#used.count === 0) return this.#vring.state[CURSOR]!;
    return this.#entry | (this.#bits === AVAIL ? WRAP : 0);
  }

  publish(): void {
    const used = this.#used;
    if (used.count === 0) return;
    const vring = this.#vring;
    const place = used.publish(this.#before);
    vring.state[CURSOR] = place;
    if (used.wanted(place) && vring.callFd >= 0) {
      signal(vring.callFd);
      this.#counters.slots[this.#counters.base + CALLS]!++;
    }
  }

  /** Lets go of private memory; the ring is not touched again. */
  close(): void {
    this.#sender.close();
  }
}
