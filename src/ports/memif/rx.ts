// hot
/**
 * Receive half of a queue pair: packets that the peer sent, from the S2M ring (server) or the M2S ring (client).
 *
 * Straight path: one descriptor, one frame, in the region of the frame before. The header window is copied, the rest stays
 * as a segment. Every word of a descriptor is read once; where the buffers are this side's own, the peer's word on where
 * they lie is not asked for at all.
 */
import { DROP_BASE, dropReason, type PortCounter, portCounter } from '#contract/catalogue.ts';
import { eventfdDrain } from '#contract/os.ts';
import {
  BURST,
  HEADROOM,
  MAX_FRAME,
  MAX_PACKET_SEGMENTS,
  type PacketBatch,
  SLOT_BYTES,
  WINDOW,
} from '#datapath/packet/batch.ts';
import type { PortCounters, RxQueue } from '#ports/port.ts';
import { DESC_NEXT, FLAGS_AT, type Regions, RING_MASK_INT, type Ring, STATE_CURSOR } from './ring.ts';

const CURSOR = STATE_CURSOR;
const NEXT = DESC_NEXT;
const FLAGS = FLAGS_AT;
const MASK_INT = RING_MASK_INT;
const FRAMES = BURST;
const SLOT = SLOT_BYTES;
const HEAD = HEADROOM;
const WINDOW_BYTES = WINDOW;
const LONGEST = MAX_FRAME;
const SEGMENTS = MAX_PACKET_SEGMENTS;
const ETHERNET = 14;
const drain = eventfdDrain;

const counter = (name: PortCounter): number => portCounter(name);
const RX_PACKETS = counter('rx_packets');
const RX_BYTES = counter('rx_bytes');
const RX_BURSTS = counter('rx_bursts');
const KICKS = counter('kicks');
const BAD_DESCRIPTOR = DROP_BASE + dropReason('rx_bad_descriptor');
const SHORT_FRAME = DROP_BASE + dropReason('rx_short_frame');
const OVERSIZE = DROP_BASE + dropReason('rx_oversize');

export class MemifRxQueue implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly #ring: Ring;
  readonly #regions: Regions;
  readonly #counters: PortCounters;
  /** Region of the frame before. */
  #region = 0;
  #cursor = 0;
  /** Descriptors of this burst, to be given back. */
  #taken = 0;
  /** Where the last take stopped: next slot, and bytes of its frames. */
  #slot = 0;
  #bytes = 0;
  /** Notifications may be on: peers start with them, and so does a queue that another worker had. */
  #armed = true;
  /** Of no meaning: keeps V8 from dropping loads that are there for its sake. */
  #touch = 0;

  constructor(portNo: number, queue: number, ring: Ring, regions: Regions, counters: PortCounters) {
    this.portNo = portNo;
    this.queue = queue;
    this.kickFd = ring.eventFd;
    this.#ring = ring;
    this.#regions = regions;
    this.#counters = counters;
  }

  poll(batch: PacketBatch, whole = false): number {
    const ring = this.#ring;
    const state = ring.state;
    const cursor = state[CURSOR]!;
    const waiting = (Atomics.load(ring.u16, ring.theirs) - cursor) & 0xffff;
    if (waiting === 0) return 0;
    if (this.#armed) this.disarm();
    if (this.#taken > 0) this.complete();
    if (waiting > ring.size) return this.#overrun(waiting);
    this.#cursor = cursor;
    this.#slot = 0;
    this.#bytes = 0;
    let i = 0;
    // Frames that are dropped count too: each turn takes one at least.
    for (let turn = 0; turn < FRAMES && i < waiting && this.#slot < FRAMES; turn++) {
      i = this.#takePlain(batch, i, waiting, whole);
      if (i < waiting && this.#slot < FRAMES) i = this.#takeAny(batch, i, waiting);
    }
    this.#taken = i;
    const frames = this.#slot;
    if (frames === 0) {
      this.complete();
      return 0;
    }
    batch.copy();
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    slots[base + RX_PACKETS]! += frames;
    slots[base + RX_BYTES]! += this.#bytes;
    slots[base + RX_BURSTS]! += 1;
    batch.count = frames;
    batch.inPort = this.portNo;
    return frames;
  }

  /**
   * The sender went round the ring past this side: what lies there is nothing whole. DPDK does so where chained frames meet
   * a ring that is nearly full, and goes on; so all of it is dropped, and the ring goes on from the sender's index.
   */
  #overrun(waiting: number): number {
    this.#counters.slots[this.#counters.base + BAD_DESCRIPTOR]!++;
    this.#taken = waiting;
    this.complete();
    return 0;
  }

  /**
   * The straight path: descriptors i.. into the next slots. @returns the first descriptor that it is not for.
   * No call in its loop: after one, V8 would check every view again.
   */
  #takePlain(batch: PacketBatch, i: number, waiting: number, whole: boolean): number {
    const ring = this.#ring;
    const mask = ring.size - 1;
    const desc = ring.desc;
    const owned = ring.owned;
    const buffers = ring.buffers;
    const stride = ring.stride;
    const longest = owned === 0 || ring.capacity > LONGEST ? LONGEST : ring.capacity;
    const region = owned === 0 ? this.#region : 0;
    const regionBase = this.#regions.base[region]!;
    const regionBytes = this.#regions.bytes[region]!;
    const rows = batch.rows;
    const start = batch.start;
    const headLength = batch.headLength;
    const length = batch.length;
    const segmentFirst = batch.segmentFirst;
    const segmentCount = batch.segmentCount;
    const segmentAddress = batch.segmentAddress;
    const segmentLength = batch.segmentLength;
    const vnetFlags = batch.vnetFlags;
    const gsoType = batch.gsoType;
    const scratch = batch.scratchAddress;
    const cursor = this.#cursor;
    const most = whole ? 0 : WINDOW_BYTES;
    let slot = this.#slot;
    let bytes = 0;
    let segment = batch.nextSegment;
    let row = batch.rowCount * 3;
    // See `touch` in vhost-user/rx.ts: settles type, length and base of each view in front of the loop.
    this.#touch = desc[0]! | rows[0]! | start[0]! | headLength[0]! | length[0]! | segmentFirst[0]! | segmentCount[0]!;
    this.#touch |= segmentAddress[0]! | segmentLength[0]! | vnetFlags[0]! | gsoType[0]!;
    for (; i < waiting && slot < FRAMES; i++) {
      const entry = (cursor + i) & mask;
      const d = entry << 2;
      const word = desc[d]!;
      const frame = desc[d + 1]!;
      const at = owned === 0 ? desc[d + 2]! : buffers + entry * stride;
      if (
        (word & NEXT) !== 0 ||
        (owned === 0 && word >>> 16 !== region) ||
        frame < ETHERNET ||
        frame > longest ||
        at + frame > regionBytes
      ) {
        break;
      }
      const source = regionBase + at;
      const frameAt = slot * SLOT + HEAD;
      const window = frame < most ? frame : most;
      start[slot] = frameAt;
      headLength[slot] = window;
      length[slot] = frame;
      vnetFlags[slot] = 0;
      gsoType[slot] = 0;
      if (window !== 0) {
        rows[row] = scratch + frameAt;
        rows[row + 1] = source;
        rows[row + 2] = window;
        row += 3;
      }
      segmentCount[slot] = 0;
      if (frame > window) {
        segmentFirst[slot] = segment;
        segmentCount[slot] = 1;
        segmentAddress[segment] = source + window;
        segmentLength[segment] = frame - window;
        segment++;
      }
      bytes += frame;
      slot++;
    }
    batch.rowCount = (row / 3) | 0;
    batch.nextSegment = segment;
    this.#slot = slot;
    this.#bytes += bytes;
    return i;
  }

  /**
   * One frame of any shape at descriptor i: chained, in any region, or bad, which is counted and dropped.
   * @returns the descriptor after it.
   */
  #takeAny(batch: PacketBatch, i: number, waiting: number): number {
    const ring = this.#ring;
    const mask = ring.size - 1;
    const desc = ring.desc;
    const slot = this.#slot;
    const first = batch.nextSegment;
    const firstRow = batch.rowCount;
    let segment = first;
    let row = firstRow * 3;
    let to = batch.scratchAddress + slot * SLOT + HEAD;
    let copy = WINDOW_BYTES;
    let frame = 0;
    let reason = 0;
    let more = true;
    for (; more && i < waiting; i++) {
      const entry = (this.#cursor + i) & mask;
      const d = entry << 2;
      const word = desc[d]!;
      const bytes = desc[d + 1]!;
      let region = word >>> 16;
      let at = desc[d + 2]!;
      let most = 0xffffffff;
      more = (word & NEXT) !== 0;
      // Some senders set the flag and never take it away again (DPDK): so this side does, before it gives the buffer back.
      if (more) desc[d] = word & ~NEXT;
      if (ring.owned !== 0) {
        region = 0;
        at = ring.buffers + entry * ring.stride;
        most = ring.capacity;
      }
      if (reason !== 0 || bytes === 0) continue;
      if (region >= this.#regions.count || bytes > most || at + bytes > this.#regions.bytes[region]!) {
        reason = BAD_DESCRIPTOR;
        continue;
      }
      this.#region = region;
      frame += bytes;
      if (frame > LONGEST || segment - first >= SEGMENTS - 1) {
        reason = OVERSIZE;
        continue;
      }
      let from = this.#regions.base[region]! + at;
      let left = bytes;
      if (copy > 0) {
        const take = left < copy ? left : copy;
        batch.rows[row] = to;
        batch.rows[row + 1] = from;
        batch.rows[row + 2] = take;
        row += 3;
        to += take;
        from += take;
        left -= take;
        copy -= take;
      }
      if (left > 0) {
        batch.segmentAddress[segment] = from;
        batch.segmentLength[segment] = left;
        segment++;
      }
    }
    // A chain that is not there to its end is none.
    if (reason === 0 && more) reason = BAD_DESCRIPTOR;
    if (reason === 0 && frame < ETHERNET) reason = SHORT_FRAME;
    if (reason !== 0) {
      this.#counters.slots[this.#counters.base + reason]!++;
      return i;
    }
    batch.rowCount = (row / 3) | 0;
    batch.nextSegment = segment;
    batch.start[slot] = slot * SLOT + HEAD;
    batch.headLength[slot] = WINDOW_BYTES - copy;
    batch.length[slot] = frame;
    batch.segmentFirst[slot] = first;
    batch.segmentCount[slot] = segment - first;
    batch.vnetFlags[slot] = 0;
    batch.gsoType[slot] = 0;
    this.#slot = slot + 1;
    this.#bytes += frame;
    return i;
  }

  complete(): void {
    const taken = this.#taken;
    if (taken === 0) return;
    this.#taken = 0;
    const ring = this.#ring;
    const cursor = ring.state[CURSOR]!;
    const now = (cursor + taken) & 0xffff;
    let index = now;
    if (ring.owned !== 0) {
      // Offered again, whatever the peer wrote there: whole, in region 0.
      const desc = ring.desc;
      const mask = ring.size - 1;
      const buffers = ring.buffers;
      const stride = ring.stride;
      const capacity = ring.capacity;
      for (let i = 0; i < taken; i++) {
        const entry = (cursor + i) & mask;
        const d = entry << 2;
        desc[d] = 0;
        desc[d + 1] = capacity;
        desc[d + 2] = buffers + entry * stride;
      }
      index = (now + ring.size) & 0xffff;
    }
    Atomics.store(ring.u16, ring.ours, index);
    ring.state[CURSOR] = now;
  }

  arm(): boolean {
    const ring = this.#ring;
    this.#armed = true;
    Atomics.store(ring.u16, FLAGS, 0);
    if (Atomics.load(ring.u16, ring.theirs) === ring.state[CURSOR]!) return false;
    this.disarm();
    return true;
  }

  disarm(): void {
    this.#armed = false;
    this.#ring.u16[FLAGS] = MASK_INT;
    if (drain(this.kickFd) > 0) this.#counters.slots[this.#counters.base + KICKS]!++;
  }
}
