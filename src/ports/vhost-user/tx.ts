// hot
/**
 * Transmit half of a queue pair: frames for the guest's receive virtqueue (2k).
 *
 * Straight path: the frame goes into one buffer of one descriptor in the region of the buffer before. A plain virtio-net
 * header is written into the scratch just in front of the frame, so that header and window are one copy. All queues with
 * 12-byte headers write the same bytes there, which is why one slot may be pushed to several ports before the copy runs;
 * a header with any other content has its own row, from memory of this queue.
 *
 * A shared queue is locked from before `push` until after `publish`; its place in the ring lies in shared memory.
 */
import { eventfdSignal } from '#contract/os.ts';
import { type PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import type { PortCounters, TxQueue } from '#ports/port.ts';
import { fitsMtu } from '../frame/mtu.ts';
import { lockQueue, lockQueueSurely, unlockQueue } from '../queue-lock.ts';
import { BAD_DESCRIPTOR, CALLS, countSent, IOTLB_MISS, MTU, PORT_DOWN, RING_FULL, TOO_BIG } from '../tx-counters.ts';
import type { ChainWalker } from './chain.ts';
import {
  DELIVER_BROKEN_HEAD,
  DELIVER_BROKEN_LOOP,
  DELIVER_FULL,
  DELIVER_TOO_BIG,
  DELIVER_WAIT,
  DELIVERED,
  Delivery,
} from './delivery.ts';
import { TABLE_DELTA, TABLE_END, TABLE_START, TABLE_STRIDE } from './guest-memory.ts';
import type { TxOptions } from './queue-options.ts';
import { type BufferRing, FrameSender } from './tx-frames.ts';
import {
  AVAIL_NO_INTERRUPT,
  BROKEN_HEAD,
  BROKEN_INDEX,
  BROKEN_LOOP,
  DESC_WRITE,
  passesEvent,
  STATE_BROKEN,
  STATE_CURSOR,
  STATE_LOCK,
  USED_NO_NOTIFY,
  type Vring,
} from './vring.ts';

const CURSOR = STATE_CURSOR;
const LOCK = STATE_LOCK;
const START = TABLE_START;
const END = TABLE_END;
const DELTA = TABLE_DELTA;
const STRIDE = TABLE_STRIDE;
const WRITE = DESC_WRITE;
const passes = passesEvent;
const signal = eventfdSignal;
const fits = fitsMtu;

/** Packets of one push, at most: each may need a header of its own. */
const MAX_PUSH = SLOTS;
const ETHERNET = 14;

export class VhostTxQueue implements TxQueue, BufferRing {
  readonly portNo: number;
  readonly queue: number;
  readonly shared: boolean;
  journaled = false;
  readonly #vring: Vring;
  readonly #memory: ChainWalker['memory'];
  readonly #counters: PortCounters;
  readonly #options: TxOptions;
  readonly #headerBytes: number;
  readonly #logged: boolean;
  readonly #longest: number;
  readonly #delivery: Delivery;
  readonly #sender: FrameSender;
  #region = 0;
  /** Available index as last seen; only for a queue that is not shared. */
  #seen = 0;
  /** Chains pushed and not yet published: the place before them, and behind them. */
  #before = 0;
  #now = 0;
  #available = 0;
  /** Place to which `rewind` goes back. */
  #marked = 0;
  #availableThen = 0;
  #sentBytes = 0;
  /** Of no meaning: keeps V8 from dropping loads that are there for its sake. */
  #touch = 0;

  constructor(
    portNo: number,
    queue: number,
    shared: boolean,
    vring: Vring,
    walker: ChainWalker,
    counters: PortCounters,
    options: TxOptions,
  ) {
    this.portNo = portNo;
    this.queue = queue;
    this.shared = shared;
    this.#vring = vring;
    this.#memory = walker.memory;
    this.#counters = counters;
    this.#options = options;
    this.#headerBytes = options.headerBytes;
    this.#logged = options.logged === true;
    this.#longest = options.mtu + ETHERNET;
    this.#delivery = new Delivery(vring, walker, options.headerBytes, options.mergeable);
    this.#sender = new FrameSender(this, this.#delivery, counters, options);
    this.#now = vring.state[CURSOR]!;
    this.#before = this.#now;
    this.#seen = this.#now;
    // New buffers are seen by looking: no kicks wanted.
    if (options.eventIdx) vring.used16[2 + 4 * vring.size] = (this.#now - 1) & 0xffff;
    else vring.used16[0] = USED_NO_NOTIFY;
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
    const vring = this.#vring;
    if (n > MAX_PUSH) {
      slots[base + RING_FULL]! += n - MAX_PUSH;
      n = MAX_PUSH;
    }
    if (this.#now === this.#before) {
      this.#before = vring.state[CURSOR]!;
      this.#now = this.#before;
    }
    const cursor = this.#now;
    this.#available = this.#look(cursor, n);
    if (this.#available > vring.size && vring.state[STATE_BROKEN] === 0) vring.state[STATE_BROKEN] = BROKEN_INDEX;
    if (vring.state[STATE_BROKEN] !== 0) {
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
      if (this.#available === 0 && !this.#grew()) {
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
      if (vring.state[STATE_BROKEN] !== 0) {
        slots[base + PORT_DOWN]! += n - i;
        break;
      }
    }
    if (sent > 0) countSent(this.#counters, sent + extra, this.#sentBytes);
    return sent;
  }

  /**
   * The straight path, from packet i on. @returns the first packet that it is not for.
   * No call in its loop: after one, V8 would check every view again.
   */
  #pushPlain(batch: PacketBatch, list: Int32Array, i: number, n: number): number {
    if (this.#headerBytes !== 12 || this.#logged) return i;
    const vring = this.#vring;
    const size = vring.size;
    const mask = size - 1;
    const avail = vring.avail;
    const desc = vring.desc;
    const used = vring.used;
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
    const table = this.#memory.table;
    const regionStart = table[this.#region * STRIDE + START]!;
    const regionEnd = table[this.#region * STRIDE + END]!;
    const delta = table[this.#region * STRIDE + DELTA]!;
    const guest = this.#memory.u32[this.#region]!;
    const guestAt = this.#memory.base[this.#region]!;
    const longest = this.#longest;
    const first = this.#now;
    const end = this.#available < n - i ? i + this.#available : n;
    const begin = i;
    let row = batch.rowCount * 3;
    let bytes = 0;
    // See `touch` in rx.ts.
    this.#touch =
      avail[0]! |
      desc[0]! |
      used[0]! |
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
      const entry = (first + i - begin) & mask;
      const head = avail[entry + 2]!;
      if (frame > longest || head >= size) break;
      const d = head << 2;
      const at = desc[d + 1]! * 4294967296 + desc[d]!;
      const need = frame + 12;
      const segments = segmentCount[slot]!;
      if (
        (desc[d + 3]! & 7) !== WRITE ||
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
      used[2 * entry + 1] = head;
      used[2 * entry + 2] = need;
      bytes += frame;
      if (window === 0) {
        // A frame that was left with its sender: the header goes to the guest by itself.
        const word = (to - guestAt) * 0.25;
        if (word !== Math.floor(word)) {
          bytes -= frame;
          break;
        }
        guest[word] = 0;
        guest[word + 1] = 0;
        guest[word + 2] = 0x10000;
        rows[row] = to + 12;
        rows[row + 1] = segmentAddress[segmentFirst[slot]!]!;
        rows[row + 2] = frame;
        row += 3;
        continue;
      }
      const headerAt = start[slot]! - 12;
      // Flags 0, GSO none, num_buffers 1; a frame starts at an odd multiple of 2, so words 1..4 are two aligned u32.
      const word = headerAt >>> 1;
      const wide = (headerAt + 2) >>> 2;
      u16[word] = 0;
      u32[wide] = 0;
      u32[wide + 1] = 0;
      u16[word + 5] = 1;
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
    batch.rowCount = (row / 3) | 0;
    this.#now = (first + i - begin) & 0xffff;
    this.#available -= i - begin;
    this.#sentBytes += bytes;
    return i;
  }

  /** Whether the buffer at #now lies in another region than the one before; that is the region from here on. */
  #findRegion(): boolean {
    const vring = this.#vring;
    const head = vring.avail[(this.#now & (vring.size - 1)) + 2]!;
    if (head >= vring.size) return false;
    const at = vring.desc[4 * head + 1]! * 4294967296 + vring.desc[4 * head]!;
    const space = this.#memory;
    space.at[0] = at;
    const r = space.find();
    if (r < 0 || r === this.#region) return false;
    this.#region = r;
    return true;
  }

  /** Entries that may be taken at `cursor`; looks at the ring only when those seen before are fewer than `wanted`. */
  #look(cursor: number, wanted: number): number {
    const seen = (this.#seen - cursor) & 0xffff;
    if (!this.shared && seen >= wanted && seen <= this.#vring.size) return seen;
    const avail = this.#vring.avail;
    let now = Atomics.load(avail, 1);
    for (let retry = this.#options.retries; retry > 0 && ((now - cursor) & 0xffff) < wanted; retry--) {
      now = Atomics.load(avail, 1);
    }
    this.#seen = now;
    return (now - cursor) & 0xffff;
  }

  /** Frames of several buffers may need more than was seen. @returns true when there are more now. */
  #grew(): boolean {
    const before = this.#available;
    const now = this.#look(this.#now, this.#vring.size + 1);
    if (now <= this.#vring.size) this.#available = now;
    return this.#available > before;
  }

  mark(): void {
    this.#marked = this.#now;
    this.#availableThen = this.#available;
  }

  rewind(): void {
    this.#now = this.#marked;
    this.#available = this.#availableThen;
  }

  empty(): void {
    const used = this.#vring.used;
    const mask = this.#vring.size - 1;
    for (let at = this.#marked; at !== this.#now; at = (at + 1) & 0xffff) used[2 * (at & mask) + 2] = 0;
  }

  deliver(batch: PacketBatch, headers: Uint16Array, buffersAt: number): number {
    const delivery = this.#delivery;
    let result = delivery.deliver(batch, this.#now, this.#available, headers, buffersAt);
    if (result === DELIVER_FULL && this.#grew()) {
      result = delivery.deliver(batch, this.#now, this.#available, headers, buffersAt);
    }
    this.#now = (this.#now + delivery.taken) & 0xffff;
    this.#available -= delivery.taken;
    if (result === DELIVERED) return 0;
    if (result === DELIVER_FULL) return RING_FULL;
    if (result === DELIVER_TOO_BIG) return TOO_BIG;
    if (result === DELIVER_WAIT) return IOTLB_MISS;
    if (result === DELIVER_BROKEN_HEAD) this.#vring.state[STATE_BROKEN] = BROKEN_HEAD;
    if (result === DELIVER_BROKEN_LOOP) this.#vring.state[STATE_BROKEN] = BROKEN_LOOP;
    return BAD_DESCRIPTOR;
  }

  /** Where the ring will stand when what was pushed is published. */
  get next(): number {
    return this.#now === this.#before ? this.#vring.state[CURSOR]! : this.#now;
  }

  publish(): void {
    const before = this.#before;
    const now = this.#now;
    if (now === before) return;
    this.#before = now;
    const vring = this.#vring;
    const avail = vring.avail;
    // Sequentially consistent: the guest's wish for an interrupt is read only after the index is out (section 2.7.8.2).
    Atomics.store(vring.used16, 1, now);
    vring.state[CURSOR] = now;
    const wanted = this.#options.eventIdx
      ? passes(avail[2 + vring.size]!, now, before)
      : (avail[0]! & AVAIL_NO_INTERRUPT) === 0;
    if (wanted && vring.callFd >= 0) {
      signal(vring.callFd);
      this.#counters.slots[this.#counters.base + CALLS]!++;
    }
  }

  /** Lets go of private memory; the ring is not touched again. */
  close(): void {
    this.#sender.close();
  }
}
