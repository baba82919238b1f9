// hot
/**
 * What a guest that negotiated no offload gets instead: checksums computed, GSO frames segmented, in software.
 *
 * The frame is first brought together in private memory (one copy), so that what is summed is what is sent. Segments take
 * their headers from edited copies and their payload from there. Memory is a bump allocator that starts again after the
 * copies out of it have run.
 */
import { address, mapAnonymous, release } from '#contract/os.ts';
import {
  GSO_ECN,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_TUNNEL,
  GSO_UDP,
  GSO_UDP_L4,
  type PacketBatch,
} from '#datapath/packet/batch.ts';
import { fold, sumBytes, swap16 } from './checksum.ts';
import { FRAGMENT_BYTES, fragmentable, putFragment4, putFragment6 } from './fragment.ts';
import { ethernetBytes, gsoHeaderLength } from './net-header.ts';
import { outer, readOuter } from './outer.ts';

const ECN = GSO_ECN;
const TCPV4 = GSO_TCPV4;
const TCPV6 = GSO_TCPV6;
const TUNNEL = GSO_TUNNEL;
const UFO = GSO_UDP;
const UDP_L4 = GSO_UDP_L4;
const checkSum = sumBytes;
const foldSum = fold;
const swap = swap16;
const fragment4 = putFragment4;
const fragment6 = putFragment6;

/** Below the size that transparent huge pages start at; holds fifteen of the longest frames. */
const ARENA_BYTES = 1 << 20;
/** Segments of one frame, at most: 64 KiB at the smallest MSS of IPv4 in practice (RFC 879: 536) is 122. */
export const MAX_GSO_SEGMENTS = 256;
/** Before a linear frame: so that the TCP payload of a plain IPv4 frame is 4-byte aligned. */
const SKEW = 2;
const VNET = 12;
const TCP_FIN_PSH = 9;
const TCP_CWR = 0x80;
const UDP_CSUM = 6;
/** What `segmentHeaders` reserves, at most. */
const HEADERS_BYTES = 320;

export class SoftwareOffload {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  /** Absolute address of the arena. */
  readonly address: number;
  /** Byte offset of the frame that `linearise` brought here. */
  frame = 0;
  /** Of the frame that `prepare` looked at: its length, length of headers, payload per segment, number of segments. */
  length = 0;
  headers = 0;
  mss = 0;
  segments = 0;
  /** The segments are fragments of one datagram, whose checksum is whole. */
  fragments = false;
  /** Where the payload begins in the frame: `headers`, but for a fragment header that the frame does not have. */
  #payloadAt = 0;
  /** Identification of the next datagram in fragments (RFC 7739: not to be foretold). */
  #identification = (Math.random() * 0x1_0000_0000) >>> 0;
  #l3 = 0;
  /** IPv4. */
  #four = false;
  #l4 = 0;
  #type = 0;
  /** Of a tunnel around it: offsets of its IP header and of what follows; l4 0: there is none. */
  #outerL3 = 0;
  #outerL4 = 0;
  #outerFour = false;
  #outerUdp = false;
  #next = 0;

  constructor() {
    const arena = mapAnonymous(ARENA_BYTES);
    this.u8 = new Uint8Array(arena);
    this.u16 = new Uint16Array(arena);
    this.u32 = new Uint32Array(arena);
    this.address = address(arena);
  }

  /** Lets go of the arena. */
  close(): void {
    release(this.u8.buffer as ArrayBuffer);
  }

  /** @returns byte offset of `bytes` bytes, 64-byte aligned; below ARENA_BYTES / 2 of them. */
  #reserve(batch: PacketBatch, bytes: number): number {
    if (this.#next + bytes > ARENA_BYTES) {
      batch.copy();
      this.#next = 0;
    }
    const at = this.#next;
    this.#next = (at + bytes + 63) & ~63;
    return at;
  }

  /** Copies a whole frame into the arena; runs all copies of the batch that wait. A header of 12 bytes fits before it. */
  linearise(batch: PacketBatch, slot: number): void {
    const length = batch.length[slot]!;
    // Room for the headers of all segments too: from here on, no copy of this frame runs before all its rows are listed.
    const at = this.#reserve(batch, 16 + SKEW + length + MAX_GSO_SEGMENTS * HEADERS_BYTES);
    const rows = batch.rows;
    let row = batch.rowCount * 3;
    let to = this.address + at + 16 + SKEW;
    rows[row] = to;
    rows[row + 1] = batch.scratchAddress + batch.start[slot]!;
    rows[row + 2] = batch.headLength[slot]!;
    row += 3;
    to += batch.headLength[slot]!;
    const first = batch.segmentFirst[slot]!;
    const last = first + batch.segmentCount[slot]!;
    for (let s = first; s < last; s++) {
      rows[row] = to;
      rows[row + 1] = batch.segmentAddress[s]!;
      rows[row + 2] = batch.segmentLength[s]!;
      to += batch.segmentLength[s]!;
      row += 3;
    }
    batch.rowCount = (row / 3) | 0;
    batch.copy();
    this.frame = at + 16 + SKEW;
    this.length = length;
    this.#next = (this.frame + length + 63) & ~63;
  }

  /** Ones' complement sum of bytes of the arena, as in checksum.ts. */
  sum(at: number, length: number): number {
    return checkSum(this.u8, this.u16, this.u32, at, length);
  }

  /** Completes the partial checksum of the linear frame (virtio 1.2 section 5.1.6.2). @returns false: outside the frame. */
  fillChecksum(csumStart: number, csumOffset: number): boolean {
    const at = this.frame + csumStart + csumOffset;
    if (csumStart + csumOffset + 2 > this.length) return false;
    // The field holds the sum of the pseudo header and takes part. 0 means "none" in UDP, where all ones says the same
    // number; in TCP all ones is a number that no sender computes.
    const sum = ~checkSum(this.u8, this.u16, this.u32, this.frame + csumStart, this.length - csumStart) & 0xffff;
    const value = sum === 0 && csumOffset === UDP_CSUM ? 0xffff : sum;
    // Words count from csum_start: a field at an odd offset of it takes the bytes the other way round.
    const stored = (csumOffset & 1) !== 0 ? swap(value) : value;
    this.u8[at] = stored & 0xff;
    this.u8[at + 1] = stored >>> 8;
    return true;
  }

  /** Reads the headers of the linear GSO frame. @returns false when it cannot be segmented. */
  prepare(gsoType: number, gsoSize: number, csumStart: number): boolean {
    const kind = gsoType & ~TUNNEL;
    const type = kind === UDP_L4 || kind === UFO ? kind : kind & ~ECN;
    if ((type !== TCPV4 && type !== TCPV6 && type !== UDP_L4 && type !== UFO) || gsoSize === 0) return false;
    // Fragments of an inner packet would each need the tunnel's header anew.
    if (type === UFO && kind !== gsoType) return false;
    const head = this.length < 240 ? this.length : 240;
    let inner = 0;
    this.#outerL4 = 0;
    if (kind !== gsoType) {
      if (!readOuter(this.u8, this.frame, head)) return false;
      inner = outer.inner;
      this.#outerL3 = outer.l3;
      this.#outerL4 = outer.l4;
      this.#outerFour = outer.four;
      this.#outerUdp = outer.udp;
    }
    const frame = this.frame + inner;
    const own = gsoHeaderLength(this.u8, frame, head - inner, type, csumStart - inner);
    if (own === 0) return false;
    const headers = inner + own;
    const payload = this.length - headers;
    this.#type = type;
    this.#l3 = inner + ethernetBytes(this.u8, frame);
    this.#four = this.u8[this.frame + this.#l3]! >>> 4 === 4;
    this.#l4 = csumStart;
    this.fragments = type === UFO;
    if (this.fragments) return this.#prepareFragments(gsoSize);
    this.headers = headers;
    this.#payloadAt = headers;
    this.mss = gsoSize;
    this.segments = payload <= gsoSize ? 1 : ((payload + gsoSize - 1) / gsoSize) | 0;
    return this.segments <= MAX_GSO_SEGMENTS;
  }

  /**
   * UDP fragmentation offload: the checksum is that of the whole datagram, gso_size the payload of a fragment, of which the
   * UDP header is a part. All fragments but the last carry a multiple of eight bytes.
   */
  #prepareFragments(gsoSize: number): boolean {
    if (gsoSize < 8 || !this.fillChecksum(this.#l4, UDP_CSUM)) return false;
    const at = this.#four ? this.#l4 : fragmentable(this.u8, this.frame + this.#l3, this.frame + this.#l4) - this.frame;
    const payload = this.length - at;
    const whole = payload <= gsoSize;
    this.#payloadAt = at;
    this.mss = whole ? payload : gsoSize & ~7;
    this.segments = whole ? 1 : ((payload + this.mss - 1) / this.mss) | 0;
    this.headers = whole || this.#four ? at : at + FRAGMENT_BYTES;
    this.#identification = (this.#identification + 0x9e3779b1) >>> 0;
    return this.segments <= MAX_GSO_SEGMENTS;
  }

  /** Payload bytes of segment k. */
  payload(k: number): number {
    const left = this.length - this.#payloadAt - k * this.mss;
    return left < this.mss ? left : this.mss;
  }

  /** Byte offset of the payload of segment k. */
  payloadFrom(k: number): number {
    return this.frame + this.#payloadAt + k * this.mss;
  }

  /**
   * Makes the headers of segment k, with a plain virtio-net header of 12 bytes in front.
   * @param partial leaves the checksum to the device: the field gets the sum of the pseudo header. Not in tunnels, which may
   *   have a checksum over it.
   * @returns byte offset of the virtio-net header; the frame's headers follow it.
   */
  segmentHeaders(batch: PacketBatch, k: number, partial = false): number {
    const u8 = this.u8;
    const vnet = this.#reserve(batch, VNET + SKEW + this.headers + 2) + SKEW;
    const at = vnet + VNET;
    const payload = this.payload(k);
    u8.fill(0, vnet, at);
    u8.copyWithin(at, this.frame, this.frame + this.headers);
    const l3 = at + this.#l3;
    const l4 = at + this.#l4;
    if (this.fragments) {
      this.#editFragment(at, l3, l4, payload, k);
      return vnet;
    }
    const bytes = this.headers - this.#l4 + payload;
    const udp = this.#type === UDP_L4;
    if (this.#four) this.#editIpv4(l3, l4, this.headers - this.#l3 + payload, k);
    else put16(u8, l3 + 4, this.headers - this.#l3 - 40 + payload);

    const sequence = k * this.mss;
    const field = udp ? l4 + 6 : l4 + 16;
    if (udp) put16(u8, l4 + 4, bytes);
    else {
      put32(u8, l4 + 4, get32(u8, l4 + 4) + sequence);
      if (k < this.segments - 1) u8[l4 + 13]! &= ~TCP_FIN_PSH;
      if (k > 0) u8[l4 + 13]! &= ~TCP_CWR;
    }
    u8[field] = 0;
    u8[field + 1] = 0;
    let sum = checkSum(u8, this.u16, this.u32, this.#four ? l3 + 12 : l3 + 8, this.#four ? 8 : 32);
    sum += swap(udp ? 17 : 6) + swap(bytes & 0xffff);
    if (partial && this.#outerL4 === 0) {
      const pseudo = foldSum(sum);
      u8[field] = pseudo & 0xff;
      u8[field + 1] = pseudo >>> 8;
      return vnet;
    }
    sum += checkSum(u8, this.u16, this.u32, l4, at + this.headers - l4);
    const data = checkSum(u8, this.u16, this.u32, this.frame + this.headers + sequence, payload);
    // Both headers have an even length: the payload's words start on a word of the checksum.
    let value = ~foldSum(sum + data) & 0xffff;
    // 0 means "none" in UDP.
    if (udp && value === 0) value = 0xffff;
    u8[field] = value & 0xff;
    u8[field + 1] = value >>> 8;
    if (this.#outerL4 !== 0) this.#editOuter(at, this.headers + payload, k, data);
    return vnet;
  }

  /** The IP header of fragment k, and in IPv6 the fragment header behind it. */
  #editFragment(at: number, l3: number, l4: number, payload: number, k: number): void {
    const u8 = this.u8;
    const offset = k * this.mss;
    const more = k < this.segments - 1;
    if (this.#four) {
      if (this.segments > 1) fragment4(u8, l3, l4, offset, more);
      this.#editIpv4(l3, l4, this.headers - this.#l3 + payload, 0);
      return;
    }
    put16(u8, l3 + 4, this.headers - this.#l3 - 40 + payload);
    if (this.segments > 1) fragment6(u8, l3, at + this.#payloadAt, offset, more, this.#identification);
  }

  /** The tunnel around segment k, a frame of `length` bytes at `at`. @param data sum of its payload. */
  #editOuter(at: number, length: number, k: number, data: number): void {
    const u8 = this.u8;
    const l3 = at + this.#outerL3;
    const l4 = at + this.#outerL4;
    const bytes = length - this.#outerL4;
    const udp = this.#outerUdp;
    if (this.#outerFour) this.#editIpv4(l3, l4, length - this.#outerL3, k);
    else put16(u8, l3 + 4, length - this.#outerL3 - 40);
    if (udp) put16(u8, l4 + 4, bytes);
    // UDP says by 0 that there is no checksum, GRE by a flag. What else stands there is no whole sum.
    const field = udp ? l4 + 6 : l4 + 4;
    if (udp ? (u8[field]! | u8[field + 1]!) === 0 : (u8[l4]! & 0x80) === 0) return;
    u8[field] = 0;
    u8[field + 1] = 0;
    let sum = checkSum(u8, this.u16, this.u32, l4, at + this.headers - l4) + data;
    if (udp) {
      const four = this.#outerFour;
      sum += checkSum(u8, this.u16, this.u32, four ? l3 + 12 : l3 + 8, four ? 8 : 32);
      sum += swap(17) + swap(bytes & 0xffff);
    }
    let value = ~foldSum(sum) & 0xffff;
    if (udp && value === 0) value = 0xffff;
    u8[field] = value & 0xff;
    u8[field + 1] = value >>> 8;
  }

  #editIpv4(l3: number, l4: number, length: number, k: number): void {
    const u8 = this.u8;
    put16(u8, l3 + 2, length);
    put16(u8, l3 + 4, ((u8[l3 + 4]! << 8) | u8[l3 + 5]!) + k);
    u8[l3 + 10] = 0;
    u8[l3 + 11] = 0;
    const sum = ~checkSum(u8, this.u16, this.u32, l3, l4 - l3) & 0xffff;
    u8[l3 + 10] = sum & 0xff;
    u8[l3 + 11] = sum >>> 8;
  }
}

const put16 = (u8: Uint8Array, at: number, value: number): void => {
  u8[at] = value >>> 8;
  u8[at + 1] = value;
};

const get32 = (u8: Uint8Array, at: number): number =>
  (u8[at]! << 24) | (u8[at + 1]! << 16) | (u8[at + 2]! << 8) | u8[at + 3]!;

const put32 = (u8: Uint8Array, at: number, value: number): void => {
  u8[at] = value >>> 24;
  u8[at + 1] = value >>> 16;
  u8[at + 2] = value >>> 8;
  u8[at + 3] = value;
};
