// hot
/**
 * Transmit half of a queue pair: packets for the peer, into the M2S ring (server) or the S2M ring (client).
 *
 * Straight path: a plain frame into one buffer of the region of the frame before. All else goes through FinishedFrames,
 * since memif carries plain frames only, and may take several chained buffers. Descriptors are edited before the copy runs
 * and shown by `publish`; those of a frame that is taken back get their lengths back, which a client's offer consists of.
 *
 * A shared queue is locked from before `push` until after `publish`; its place in the ring lies in shared memory.
 */
import { eventfdSignal } from '#contract/os.ts';
import { MAX_PACKET_SEGMENTS, MAX_ROWS, type PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import type { PortCounters, TxQueue } from '#ports/port.ts';
import { FinishedFrames, type FrameSink } from '../frame/finished.ts';
import { lockQueue, unlockQueue } from '../queue-lock.ts';
import {
  BAD_DESCRIPTOR,
  CALLS,
  CHECKSUMS,
  countSent,
  PORT_DOWN,
  RING_FULL,
  SEGMENTED,
  TOO_BIG,
} from '../tx-counters.ts';
import {
  BROKEN_BUFFER,
  BROKEN_INDEX,
  DESC_NEXT,
  FLAGS_AT,
  type Regions,
  RING_MASK_INT,
  type Ring,
  STATE_BROKEN,
  STATE_CURSOR,
  STATE_LOCK,
} from './ring.ts';

const CURSOR = STATE_CURSOR;
const LOCK = STATE_LOCK;
const BROKEN = STATE_BROKEN;
const NEXT = DESC_NEXT;
const FLAGS = FLAGS_AT;
const MASK_INT = RING_MASK_INT;
const signal = eventfdSignal;

/** Packets of one push, at most. */
const MAX_PUSH = SLOTS;
const ETHERNET = 14;
/** Buffers of one frame, at most; rows that it may need. */
const MAX_BUFFERS = 2048;
const ROOM = MAX_ROWS - MAX_BUFFERS - MAX_PACKET_SEGMENTS - 4;

export class MemifTxQueue implements TxQueue, FrameSink {
  readonly portNo: number;
  readonly queue: number;
  readonly shared: boolean;
  readonly #ring: Ring;
  readonly #regions: Regions;
  readonly #counters: PortCounters;
  readonly #finished: FinishedFrames;
  readonly #longest: number;
  /** By entry: length of the buffer that was offered there, while its frame may be taken back. */
  readonly #offered: Float64Array;
  #region = 0;
  /** The other side's index as last seen, plus the ring's size where it gives buffers back; of a queue that is not shared. */
  #seen = 0;
  /** Entries taken by the last push: its place before, and after. */
  #before = 0;
  #now = 0;
  #available = 0;
  #bytes = 0;
  /** Of no meaning: keeps V8 from dropping loads that are there for its sake. */
  #touch = 0;

  /** @param mtu bytes of an Ethernet payload. */
  constructor(
    portNo: number,
    queue: number,
    shared: boolean,
    ring: Ring,
    regions: Regions,
    counters: PortCounters,
    mtu: number,
  ) {
    this.portNo = portNo;
    this.queue = queue;
    this.shared = shared;
    this.#ring = ring;
    this.#regions = regions;
    this.#counters = counters;
    this.#longest = mtu + ETHERNET;
    this.#finished = new FinishedFrames(this.#longest);
    this.#offered = new Float64Array(ring.size);
    this.#now = ring.state[CURSOR]!;
    this.#before = this.#now;
    this.#seen = this.#now;
  }

  lock(): boolean {
    return lockQueue(this.#ring.state, LOCK);
  }

  unlock(): void {
    unlockQueue(this.#ring.state, LOCK);
  }

  push(batch: PacketBatch, list: Int32Array, n: number): number {
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    const ring = this.#ring;
    const finished = this.#finished;
    if (n > MAX_PUSH) {
      slots[base + RING_FULL]! += n - MAX_PUSH;
      n = MAX_PUSH;
    }
    const cursor = ring.state[CURSOR]!;
    this.#before = cursor;
    this.#now = cursor;
    this.#available = this.#look(cursor, n);
    if (this.#available > ring.size && ring.state[BROKEN] === 0) ring.state[BROKEN] = BROKEN_INDEX;
    if (ring.state[BROKEN] !== 0) {
      slots[base + PORT_DOWN]! += n;
      return 0;
    }
    // A burst of plain frames fits then.
    if (batch.rowCount + 2 * MAX_PUSH > ROOM) batch.copy();
    this.#bytes = 0;
    let sent = 0;
    let extra = 0;
    for (let i = 0; i < n; ) {
      const stop = this.#pushPlain(batch, list, i, n);
      sent += stop - i;
      i = stop;
      if (i === n) break;
      if (this.#available === 0 && !this.#grew()) {
        slots[base + RING_FULL]! += n - i;
        break;
      }
      const reason = finished.push(batch, list[i]!, this);
      if (reason === 0) {
        sent++;
        extra += finished.frames - 1;
        this.#bytes += finished.bytes;
        slots[base + CHECKSUMS]! += finished.summed;
        slots[base + SEGMENTED]! += finished.segmented;
      } else {
        slots[base + reason]!++;
      }
      i++;
      if (ring.state[BROKEN] !== 0) {
        slots[base + PORT_DOWN]! += n - i;
        break;
      }
    }
    if (sent > 0) countSent(this.#counters, sent + extra, this.#bytes);
    return sent;
  }

  /**
   * The straight path, from packet i on. @returns the first packet that it is not for.
   * No call in its loop: after one, V8 would check every view again.
   */
  #pushPlain(batch: PacketBatch, list: Int32Array, i: number, n: number): number {
    const ring = this.#ring;
    const mask = ring.size - 1;
    const desc = ring.desc;
    const owned = ring.owned;
    const buffers = ring.buffers;
    const stride = ring.stride;
    const capacity = ring.capacity;
    const region = owned === 0 ? this.#region : 0;
    const regionBase = this.#regions.base[region]!;
    const regionBytes = this.#regions.bytes[region]!;
    const rows = batch.rows;
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
    const longest = this.#longest;
    const first = this.#now;
    const end = this.#available < n - i ? i + this.#available : n;
    const begin = i;
    let row = batch.rowCount * 3;
    let bytes = 0;
    // See `touch` in vhost-user/rx.ts.
    this.#touch = desc[0]! | rows[0]! | start[0]! | length[0]! | headLength[0]! | vnetFlags[0]! | gsoType[0]!;
    this.#touch |= segmentFirst[0]! | segmentCount[0]! | segmentAddress[0]! | segmentLength[0]! | list[0]!;
    for (; i < end; i++) {
      const slot = list[i]!;
      const frame = length[slot]!;
      const segments = segmentCount[slot]!;
      const entry = (first + i - begin) & mask;
      const d = entry << 2;
      const word = desc[d]!;
      const room = owned === 0 ? desc[d + 1]! : capacity;
      const at = owned === 0 ? desc[d + 2]! : buffers + entry * stride;
      if (
        frame > longest ||
        frame > room ||
        segments > 1 ||
        (owned === 0 && word >>> 16 !== region) ||
        at + frame > regionBytes ||
        (vnetFlags[slot]! | gsoType[slot]!) !== 0
      ) {
        break;
      }
      if (owned === 0) {
        desc[d] = word & ~0xffff;
      } else {
        desc[d] = 0;
        desc[d + 2] = at;
      }
      desc[d + 1] = frame;
      bytes += frame;
      const window = headLength[slot]!;
      let to = regionBase + at;
      if (window !== 0) {
        rows[row] = to;
        rows[row + 1] = scratch + start[slot]!;
        rows[row + 2] = window;
        row += 3;
        to += window;
      }
      if (segments !== 0) {
        const segment = segmentFirst[slot]!;
        rows[row] = to;
        rows[row + 1] = segmentAddress[segment]!;
        rows[row + 2] = segmentLength[segment]!;
        row += 3;
      }
    }
    batch.rowCount = (row / 3) | 0;
    this.#now = (first + i - begin) & 0xffff;
    this.#available -= i - begin;
    this.#bytes += bytes;
    return i;
  }

  /** One frame into as many buffers as it takes. */
  put(batch: PacketBatch, frames: FinishedFrames): number {
    let buffers = this.#reserve(frames.frameBytes);
    if (buffers === 0 && this.#grew()) buffers = this.#reserve(frames.frameBytes);
    if (this.#ring.state[BROKEN] !== 0) return BAD_DESCRIPTOR;
    if (buffers === 0) return this.#available === this.#ring.size ? TOO_BIG : RING_FULL;
    if (batch.rowCount > ROOM) batch.copy();
    return this.#fill(batch, frames, buffers);
  }

  mark(): number {
    return this.#now;
  }

  /** Buffers from `mark` on are offered as before. */
  rewind(mark: number): void {
    const ring = this.#ring;
    const mask = ring.size - 1;
    const desc = ring.desc;
    this.#available += (this.#now - mark) & 0xffff;
    for (let at = mark; at !== this.#now; at = (at + 1) & 0xffff) {
      const d = (at & mask) << 2;
      desc[d] = desc[d]! & ~0xffff;
      desc[d + 1] = this.#offered[at & mask]!;
    }
    this.#now = mark;
  }

  /** Buffers that `need` bytes take at #now, each read once into #offered; 0: not enough of them, or a bad one (BROKEN). */
  #reserve(need: number): number {
    const ring = this.#ring;
    const mask = ring.size - 1;
    const desc = ring.desc;
    const most = this.#available < MAX_BUFFERS ? this.#available : MAX_BUFFERS;
    let left = need;
    for (let k = 0; k < most; k++) {
      const entry = (this.#now + k) & mask;
      const d = entry << 2;
      let room = ring.capacity;
      if (ring.owned === 0) {
        const region = desc[d]! >>> 16;
        room = desc[d + 1]!;
        if (region >= this.#regions.count || room === 0 || desc[d + 2]! + room > this.#regions.bytes[region]!) {
          ring.state[BROKEN] = BROKEN_BUFFER;
          return 0;
        }
      }
      this.#offered[entry] = room;
      left -= room;
      if (left <= 0) return k + 1;
    }
    return 0;
  }

  /** Lays the pieces of the frame over the buffers at #now, as long as #offered says. @returns 0, or a drop counter. */
  #fill(batch: PacketBatch, frames: FinishedFrames, buffers: number): number {
    const ring = this.#ring;
    const mask = ring.size - 1;
    const desc = ring.desc;
    const rows = batch.rows;
    const pieceAddress = frames.pieceAddress;
    const pieceLength = frames.pieceLength;
    let row = batch.rowCount * 3;
    let left = frames.frameBytes;
    let piece = 0;
    let pieceAt = 0;
    for (let k = 0; k < buffers; k++) {
      const entry = (this.#now + k) & mask;
      const d = entry << 2;
      const offered = this.#offered[entry]!;
      const word = ring.owned === 0 ? desc[d]! : 0;
      const region = word >>> 16;
      const at = ring.owned === 0 ? desc[d + 2]! : ring.buffers + entry * ring.stride;
      const bytes = offered < left ? offered : left;
      // The peer may have changed the descriptor since it was looked at.
      if (region >= this.#regions.count || at + bytes > this.#regions.bytes[region]!) {
        ring.state[BROKEN] = BROKEN_BUFFER;
        return BAD_DESCRIPTOR;
      }
      desc[d] = (word & ~0xffff) | (k + 1 < buffers ? NEXT : 0);
      desc[d + 1] = bytes;
      if (ring.owned !== 0) desc[d + 2] = at;
      this.#region = region;
      let to = this.#regions.base[region]! + at;
      for (let room = bytes; room > 0; ) {
        const from = pieceLength[piece]! - pieceAt;
        const take = from < room ? from : room;
        rows[row] = to;
        rows[row + 1] = pieceAddress[piece]! + pieceAt;
        rows[row + 2] = take;
        row += 3;
        to += take;
        room -= take;
        pieceAt += take;
        if (pieceAt === pieceLength[piece]!) {
          piece++;
          pieceAt = 0;
        }
      }
      left -= bytes;
    }
    batch.rowCount = (row / 3) | 0;
    this.#now = (this.#now + buffers) & 0xffff;
    this.#available -= buffers;
    return 0;
  }

  /** Looks at the ring again. @returns true when there are more entries now. */
  #grew(): boolean {
    const before = this.#available;
    const now = this.#look(this.#now, this.#ring.size + 1);
    if (now > this.#ring.size) this.#ring.state[BROKEN] = BROKEN_INDEX;
    else this.#available = now;
    return this.#available > before;
  }

  /** Entries that may be taken at `cursor`; looks at the ring only when those seen before are fewer than `wanted`. */
  #look(cursor: number, wanted: number): number {
    const ring = this.#ring;
    const seen = (this.#seen - cursor) & 0xffff;
    if (!this.shared && seen >= wanted && seen <= ring.size) return seen;
    // A client has the whole ring but what the server has not taken yet; a server what the client offers.
    this.#seen = Atomics.load(ring.u16, ring.theirs) + (ring.owned === 0 ? 0 : ring.size);
    return (this.#seen - cursor) & 0xffff;
  }

  publish(): void {
    const now = this.#now;
    if (now === this.#before) return;
    this.#before = now;
    const ring = this.#ring;
    // Sequentially consistent: the peer's wish for an interrupt is read only after the index is out.
    Atomics.store(ring.u16, ring.ours, now);
    ring.state[CURSOR] = now;
    if ((ring.u16[FLAGS]! & MASK_INT) === 0) {
      signal(ring.eventFd);
      this.#counters.slots[this.#counters.base + CALLS]!++;
    }
  }

  /** Lets go of private memory; the ring is not touched again. */
  close(): void {
    this.#finished.close();
  }
}
