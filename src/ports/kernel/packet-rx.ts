// hot
/**
 * Receive half of a packet socket: frames that the interface received, read from the ring that the kernel writes.
 *
 * No system call while frames come. A frame's header window is copied into the scratch; the rest stays in the ring, as a
 * segment, until `complete` gives the frame back. Frames longer than a ring frame are fetched from the socket's buffer.
 */
import { DROP_BASE, dropReason, portCounter } from '#contract/catalogue.ts';
import { packetDrops, receiveFrames } from '#contract/os.ts';
import { BURST, HEADROOM, MAX_FRAME, type PacketBatch, SLOT_BYTES, WINDOW } from '#datapath/packet/batch.ts';
import type { PortCounters, RxQueue } from '#ports/port.ts';
import type { Landing } from './landing.ts';
import {
  FRAME_BYTES,
  RING_FRAMES,
  STATUS_COPY,
  STATUS_KERNEL,
  STATUS_LOSING,
  STATUS_USER,
  STATUS_VLAN_TPID_VALID,
  STATUS_VLAN_VALID,
  TP_LEN,
  TP_MAC,
  TP_SNAPLEN,
  TP_VLAN_TCI,
  TP_VLAN_TPID,
} from './packet-ring.ts';
import { fillSlot, putTagBack, VNET_HEADER, wholeSlot } from './rx-slot.ts';

const MAX_BURST = BURST;
const HEADER = VNET_HEADER;
const SLOT = SLOT_BYTES;
const HEAD = HEADROOM;
const WINDOW_BYTES = WINDOW;
const LONGEST = MAX_FRAME;
const ETHERNET = 14;
const ETH_VLAN = 0x8100;
const DATA_VALID = 2;
const MASK = RING_FRAMES - 1;
const FRAME = FRAME_BYTES;
const FRAME32 = FRAME_BYTES >>> 2;
const FRAME16 = FRAME_BYTES >>> 1;
const LEN32 = TP_LEN >>> 2;
const SNAPLEN32 = TP_SNAPLEN >>> 2;
const MAC16 = TP_MAC >>> 1;
const TCI16 = TP_VLAN_TCI >>> 1;
const TPID16 = TP_VLAN_TPID >>> 1;
const KERNEL = STATUS_KERNEL;
const USER = STATUS_USER;
const COPY = STATUS_COPY;
const LOSING = STATUS_LOSING;
const VLAN_VALID = STATUS_VLAN_VALID;
const TPID_VALID = STATUS_VLAN_TPID_VALID;
const fill = fillSlot;
const leaveWhole = wholeSlot;
const putTag = putTagBack;
const receive = receiveFrames;

const RX_PACKETS = portCounter('rx_packets');
const RX_BYTES = portCounter('rx_bytes');
const RX_BURSTS = portCounter('rx_bursts');
const SHORT_FRAME = DROP_BASE + dropReason('rx_short_frame');
const OVERSIZE = DROP_BASE + dropReason('rx_oversize');
const BAD_OFFLOAD = DROP_BASE + dropReason('rx_bad_offload');
const KERNEL_FULL = DROP_BASE + dropReason('rx_kernel_full');

export class PacketRxQueue implements RxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly kickFd: number;
  readonly kickIsLevel = true;
  readonly #i32: Int32Array;
  readonly #u16: Uint16Array;
  readonly #ring: number;
  /** Word `queue`: the frame that comes next. */
  readonly #state: Int32Array;
  readonly #landing: Landing;
  readonly #counters: PortCounters;
  /** Per frame of the burst: status as read once; number among those that were fetched, else -1. */
  readonly #status = new Int32Array(MAX_BURST);
  readonly #landed = new Int32Array(MAX_BURST);
  readonly #pieces = new Float64Array(MAX_BURST * 4);
  /** Frames of the last burst, to be given back. */
  #taken = 0;

  /** @param ring the mapped ring, at absolute address `at`. */
  constructor(
    portNo: number,
    queue: number,
    fd: number,
    ring: ArrayBuffer,
    at: number,
    state: Int32Array,
    landing: Landing,
    counters: PortCounters,
  ) {
    this.portNo = portNo;
    this.queue = queue;
    this.kickFd = fd;
    this.#i32 = new Int32Array(ring);
    this.#u16 = new Uint16Array(ring);
    this.#ring = at;
    this.#state = state;
    this.#landing = landing;
    this.#counters = counters;
  }

  poll(batch: PacketBatch, whole = false): number {
    if (this.#taken > 0) this.complete();
    const i32 = this.#i32;
    const statuses = this.#status;
    const cursor = this.#state[this.queue]!;
    let n = 0;
    let seen = 0;
    for (; n < MAX_BURST; n++) {
      const status = Atomics.load(i32, ((cursor + n) & MASK) * FRAME32);
      if ((status & USER) === 0) break;
      statuses[n] = status;
      seen |= status;
    }
    if (n === 0) return 0;
    this.#taken = n;
    if ((seen & LOSING) !== 0) this.#countLost();
    this.#list(batch, n, whole);
    if ((seen & COPY) !== 0) this.#fetch(n);
    batch.copy();
    const kept = this.#finish(batch, n, whole);
    if (kept === 0) this.complete();
    return kept;
  }

  /** Lists the copies of header windows, each to the slot of its place in the burst. */
  #list(batch: PacketBatch, n: number, whole: boolean): void {
    const i32 = this.#i32;
    const u16 = this.#u16;
    const rows = batch.rows;
    const cursor = this.#state[this.queue]!;
    let row = batch.rowCount * 3;
    for (let i = 0; i < n; i++) {
      if ((this.#status[i]! & COPY) !== 0) continue;
      const f = (cursor + i) & MASK;
      const length = i32[f * FRAME32 + SNAPLEN32]!;
      const at = f * FRAME + u16[f * FRAME16 + MAC16]! - HEADER;
      if (whole && this.#isPlain(i, at)) continue;
      rows[row] = batch.scratchAddress + i * SLOT + HEAD - HEADER;
      rows[row + 1] = this.#ring + at;
      rows[row + 2] = HEADER + Math.min(length, WINDOW_BYTES);
      row += 3;
    }
    batch.rowCount = (row / 3) | 0;
  }

  /** Frame i needs no look: no tag beside it, nothing in the virtio-net header at byte `at` of the ring. */
  #isPlain(i: number, at: number): boolean {
    return (this.#status[i]! & VLAN_VALID) === 0 && (this.#u16[at >>> 1]! & ~DATA_VALID) === 0;
  }

  /** Fetches the frames that the kernel kept in the socket's buffer; they lie there in the order of the ring. */
  #fetch(n: number): void {
    const landed = this.#landed;
    const from = this.#landing.pieces;
    const to = this.#pieces;
    let copies = 0;
    for (let i = 0; i < n; i++) {
      landed[i] = -1;
      if ((this.#status[i]! & COPY) === 0) continue;
      for (let p = 0; p < 4; p++) to[4 * copies + p] = from[4 * i + p]!;
      landed[i] = copies++;
    }
    const got = receive(this.kickFd, true, to, copies, this.#landing.lengths);
    for (let i = 0; got < copies && i < n; i++) if (landed[i]! >= got) landed[i] = -1;
  }

  /** Makes packets of the burst and closes gaps. @returns packets. */
  #finish(batch: PacketBatch, n: number, whole: boolean): number {
    const i32 = this.#i32;
    const u16 = this.#u16;
    const cursor = this.#state[this.queue]!;
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    let kept = 0;
    let bytes = 0;
    for (let i = 0; i < n; i++) {
      const f = (cursor + i) & MASK;
      const status = this.#status[i]!;
      const length = i32[f * FRAME32 + LEN32]!;
      const at = f * FRAME + u16[f * FRAME16 + MAC16]!;
      const to = kept * SLOT + HEAD;
      let problem = 0;
      if (length < ETHERNET) problem = SHORT_FRAME;
      else if (length > LONGEST - 4) problem = OVERSIZE;
      else if ((status & COPY) !== 0) problem = this.#finishCopy(batch, i, kept, length);
      else if (i32[f * FRAME32 + SNAPLEN32] !== length) problem = KERNEL_FULL;
      else if (whole && this.#isPlain(i, at - HEADER)) leaveWhole(batch, kept, to, length, this.#ring + at);
      else {
        const from = i * SLOT + HEAD;
        if (kept !== i) batch.u8.copyWithin(to - HEADER, from - HEADER, from + WINDOW_BYTES);
        if (!fill(batch, kept, to, length, this.#ring + at + WINDOW_BYTES)) problem = BAD_OFFLOAD;
      }
      if (problem !== 0) {
        slots[base + problem]! += 1;
        continue;
      }
      if ((status & VLAN_VALID) !== 0) {
        const tpid = (status & TPID_VALID) !== 0 ? u16[f * FRAME16 + TPID16]! : ETH_VLAN;
        putTag(batch, kept, tpid, u16[f * FRAME16 + TCI16]!);
      }
      bytes += batch.length[kept]!;
      kept++;
    }
    if (kept === 0) return 0;
    slots[base + RX_PACKETS]! += kept;
    slots[base + RX_BYTES]! += bytes;
    slots[base + RX_BURSTS]! += 1;
    batch.count = kept;
    batch.inPort = this.portNo;
    return kept;
  }

  /** Frame i was fetched, its window into slot i. @returns 0 or a drop counter. */
  #finishCopy(batch: PacketBatch, i: number, kept: number, length: number): number {
    const landing = this.#landing;
    const place = this.#landed[i]!;
    if (place < 0 || landing.lengths[place] !== length + HEADER) return KERNEL_FULL;
    const from = i * SLOT + HEAD;
    const to = kept * SLOT + HEAD;
    if (kept !== i) batch.u8.copyWithin(to - HEADER, from - HEADER, from + WINDOW_BYTES);
    return fill(batch, kept, to, length, landing.rest + i * landing.restBytes) ? 0 : BAD_OFFLOAD;
  }

  #countLost(): void {
    const lost = packetDrops(this.kickFd);
    if (lost > 0) this.#counters.slots[this.#counters.base + KERNEL_FULL]! += lost;
  }

  complete(): void {
    const i32 = this.#i32;
    const taken = this.#taken;
    const cursor = this.#state[this.queue]!;
    for (let i = 0; i < taken; i++) Atomics.store(i32, ((cursor + i) & MASK) * FRAME32, KERNEL);
    this.#state[this.queue] = (cursor + taken) & MASK;
    this.#taken = 0;
  }

  /** poll() on the socket returns at once when a frame waits, or an error. */
  arm(): boolean {
    return (Atomics.load(this.#i32, (this.#state[this.queue]! & MASK) * FRAME32) & USER) !== 0;
  }

  disarm(): void {}
}
