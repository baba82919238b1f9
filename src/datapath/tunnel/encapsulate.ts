// hot
/**
 * TNL_PUSH: a header before a packet (contract/actions.ts).
 *
 * What comes out is a packet in a slot of its own: the header in its scratch, and behind it the inner frame, copied when it is
 * short and else by reference: its header window and its payload become segments. So no headroom is asked for, the inner
 * packet stays as it is for what else is to be done with it, and must not be edited while the outer one waits.
 *
 * A packet whose checksum is still to be filled in may be wrapped as it is: where the checksum begins moves with it. GSO
 * frames, and those that get a checksum around them, are finished first (`Finisher`), and leave before the next packet is.
 */
import { TNL_CHECKSUM } from '#contract/actions.ts';
import { dropReason } from '#contract/catalogue.ts';
import { ETH_IPV4, ETH_IPV6, IPPROTO_UDP, KEY_WORDS, W_TYPE } from '#contract/flow-key.ts';
import {
  GSO_NONE,
  HEADROOM,
  MAX_FRAME,
  MAX_PACKET_SEGMENTS,
  MAX_SEGMENTS,
  type PacketBatch,
  SLOT_BYTES,
  SLOTS,
  VNET_BYTES,
  VNET_NEEDS_CSUM,
} from '../packet/batch.ts';
import type { Finisher } from './finisher.ts';

const ROW = KEY_WORDS;
const TYPE = W_TYPE;
const IPV4 = ETH_IPV4;
const IPV6 = ETH_IPV6;
const UDP = IPPROTO_UDP;
const NONE = GSO_NONE;
const ROOM = HEADROOM;
const LONGEST = MAX_FRAME;
const MOST_PIECES = MAX_PACKET_SEGMENTS;
const SEGMENTS = MAX_SEGMENTS;
const SLOT = SLOT_BYTES;
const ALL_SLOTS = SLOTS;
const VNET = VNET_BYTES;
const NEEDS_CSUM = VNET_NEEDS_CSUM;
const CHECKSUM = TNL_CHECKSUM;
const ETHERNET = 14;
const L4_IPV4 = 34;
const L4_IPV6 = 54;
const TOO_LONG = dropReason('tunnel_too_long');
const EXHAUSTED = dropReason('clone_exhausted');
const TX_OFFLOAD = dropReason('tx_offload');

/** Source ports of tunnels, as Open vSwitch chooses them (tnl/egress_port_range). */
const FIRST_PORT = 32_768;
const PORTS = 61_000 - FIRST_PORT + 1;

const mix = (hash: number, word: number): number => {
  const product = Math.imul(hash ^ word, 0x9e3779b1);
  return product ^ (product >>> 15);
};

/** A hash of the packet's flow: addresses, protocol and ports, or Ethernet addresses. Needs l3, l4 and W_TYPE. */
export const flowHash = (batch: PacketBatch, slot: number): number => {
  const view = batch.view;
  const start = batch.start[slot]!;
  const l3 = batch.l3[slot]!;
  const l4 = batch.l4[slot]!;
  const word = batch.keys[slot * ROW + TYPE]!;
  const type = word >>> 16;
  let hash = word | 0;
  if (l3 !== 0 && (type === IPV4 || type === IPV6)) {
    const from = start + l3 + (type === IPV4 ? 12 : 8);
    const to = start + l3 + (type === IPV4 ? 20 : 40);
    for (let at = from; at < to; at += 4) hash = mix(hash, view.getInt32(at));
    const protocol = (word >>> 8) & 0xff;
    if (l4 !== 0 && (protocol === UDP || protocol === 6 || protocol === 132))
      hash = mix(hash, view.getInt32(start + l4));
  } else if (batch.headLength[slot]! >= ETHERNET) {
    for (let at = start; at < start + 12; at += 4) hash = mix(hash, view.getInt32(at));
  }
  return hash;
};

/** Folded sum of 16-bit words of the scratch. */
const sumWords = (u16: Uint16Array, at: number, bytes: number): number => {
  let sum = 0;
  const end = (at + bytes) >>> 1;
  for (let i = at >>> 1; i < end; i++) sum += u16[i]!;
  sum = (sum & 0xffff) + (sum >>> 16);
  return (sum & 0xffff) + (sum >>> 16);
};

const swap = (word: number): number => ((word & 0xff) << 8) | (word >>> 8);

export class Encapsulation {
  readonly #batch: PacketBatch;
  readonly #finisher: Finisher;
  /** Identification of the next IPv4 header. */
  #id = 0;
  /** Of the frames that `begin` finished. */
  #hash = 0;
  #segmented = false;
  #checksum = false;

  constructor(batch: PacketBatch, finisher: Finisher) {
    this.#batch = batch;
    this.#finisher = finisher;
  }

  /** Whether the action words[at..] wraps the packet as it is: else `begin` and `frame` are to be used. */
  isPlain(slot: number, words: Uint32Array, at: number): boolean {
    const batch = this.#batch;
    return (
      batch.gsoType[slot] === NONE && (words[at + 2]! & CHECKSUM) === 0 && batch.segmentCount[slot]! < MOST_PIECES - 1
    );
  }

  /** Wraps a packet. @returns the slot of what this makes, or a drop reason, negated. */
  wrap(slot: number, words: Uint32Array, at: number): number {
    const batch = this.#batch;
    const bytes = words[at + 2]! & 0xff;
    const head = batch.headLength[slot]!;
    const pieces = batch.segmentCount[slot]!;
    const short = pieces === 0 && ROOM + bytes + head + 4 <= SLOT;
    const extra = short ? 0 : pieces + (head > 0 ? 1 : 0);
    const made = this.#make(bytes, batch.length[slot]!, extra);
    if (made < 0) return made;
    this.#put(made, words, at, bytes);
    if (short) {
      const u16 = batch.u16;
      const to = (batch.start[made]! + bytes) >>> 1;
      const from = batch.start[slot]! >>> 1;
      const count = (head + 1) >>> 1;
      for (let i = 0; i < count; i++) u16[to + i] = u16[from + i]!;
      batch.headLength[made] = bytes + head;
    } else {
      this.#refer(slot, made, head, pieces);
    }
    batch.buffer[made] = batch.buffer[slot]!;
    if ((batch.vnetFlags[slot]! & NEEDS_CSUM) !== 0) {
      batch.vnetFlags[made] = NEEDS_CSUM;
      batch.csumStart[made] = batch.csumStart[slot]! + bytes;
      batch.csumOffset[made] = batch.csumOffset[slot]!;
    }
    this.#complete(made, flowHash(batch, slot));
    return made;
  }

  /** The inner frame behind the header of `made`, as segments. */
  #refer(slot: number, made: number, head: number, pieces: number): void {
    const batch = this.#batch;
    const address = batch.segmentAddress;
    const length = batch.segmentLength;
    let to = batch.segmentFirst[made]!;
    if (head > 0) {
      address[to] = batch.scratchAddress + batch.start[slot]!;
      length[to] = head;
      to++;
    }
    const from = batch.segmentFirst[slot]!;
    for (let i = 0; i < pieces; i++) {
      address[to + i] = address[from + i]!;
      length[to + i] = length[from + i]!;
    }
  }

  /**
   * Finishes a packet that cannot be wrapped as it is.
   * @returns frames that it became, for `frame`; or a drop reason, negated.
   */
  begin(slot: number, words: Uint32Array, at: number): number {
    const batch = this.#batch;
    const finisher = this.#finisher;
    const gso = batch.gsoType[slot]!;
    this.#hash = flowHash(batch, slot);
    this.#checksum = (words[at + 2]! & CHECKSUM) !== 0;
    this.#segmented = gso !== NONE;
    finisher.linearise(batch, slot);
    const start = batch.csumStart[slot]!;
    if (gso !== NONE) return finisher.prepare(gso, batch.gsoSize[slot]!, start) ? finisher.segments : -TX_OFFLOAD;
    if ((batch.vnetFlags[slot]! & NEEDS_CSUM) === 0) return 1;
    return finisher.fillChecksum(start, batch.csumOffset[slot]!) ? 1 : -TX_OFFLOAD;
  }

  /** Wraps frame k of those that `begin` made. @returns its slot, or a drop reason, negated. */
  frame(slot: number, k: number, words: Uint32Array, at: number): number {
    const batch = this.#batch;
    const finisher = this.#finisher;
    const bytes = words[at + 2]! & 0xff;
    const head = this.#segmented ? finisher.headers : finisher.length;
    const payload = this.#segmented ? finisher.payload(k) : 0;
    const made = this.#make(bytes, head + payload, payload > 0 ? 2 : 1);
    if (made < 0) return made;
    const first = batch.segmentFirst[made]!;
    const from = this.#segmented ? finisher.segmentHeaders(batch, k) + VNET : finisher.frame;
    const data = payload > 0 ? finisher.payloadFrom(k) : 0;
    batch.segmentAddress[first] = finisher.address + from;
    batch.segmentLength[first] = head;
    if (payload > 0) {
      batch.segmentAddress[first + 1] = finisher.address + data;
      batch.segmentLength[first + 1] = payload;
    }
    batch.buffer[made] = batch.buffer[slot]!;
    this.#put(made, words, at, bytes);
    this.#complete(made, this.#hash);
    if (this.#checksum) {
      // Headers of a TCP segment are of an even length.
      const inner = finisher.sum(from, head) + (payload > 0 ? finisher.sum(data, payload) : 0);
      this.#sum(made, bytes, inner);
    }
    return made;
  }

  /** A slot for a frame of `inner` bytes behind `bytes` of header, and `pieces` segments of its own. */
  #make(bytes: number, inner: number, pieces: number): number {
    const batch = this.#batch;
    const made = batch.nextSlot;
    if (bytes + inner > LONGEST || bytes + inner - ETHERNET > 0xffff) return -TOO_LONG;
    if (made >= ALL_SLOTS || batch.nextSegment + pieces > SEGMENTS) return -EXHAUSTED;
    batch.nextSlot = made + 1;
    batch.start[made] = made * SLOT + ROOM;
    batch.headLength[made] = bytes;
    batch.length[made] = bytes + inner;
    batch.segmentFirst[made] = batch.nextSegment;
    batch.segmentCount[made] = pieces;
    batch.nextSegment += pieces;
    // A frame of its own, in no buffer of a pool.
    batch.buffer[made] = -1;
    batch.edited[made] = 1;
    batch.vnetFlags[made] = 0;
    batch.gsoType[made] = NONE;
    batch.gsoSize[made] = 0;
    batch.vnetHeaderLength[made] = 0;
    batch.csumStart[made] = 0;
    batch.csumOffset[made] = 0;
    return made;
  }

  /** The header as it came; its last word may be two bytes longer than the header. */
  #put(made: number, words: Uint32Array, at: number, bytes: number): void {
    const view = this.#batch.view;
    const to = this.#batch.start[made]!;
    for (let i = 0; i < bytes; i += 4) view.setInt32(to + i, words[at + 3 + (i >>> 2)]! | 0);
  }

  /** Lengths, identification, source port; l3, l4 and W_TYPE of what was made. */
  #complete(made: number, hash: number): void {
    const batch = this.#batch;
    const view = batch.view;
    const start = batch.start[made]!;
    const length = batch.length[made]!;
    const type = view.getUint16(start + 12);
    let l4 = L4_IPV6;
    let protocol = 0;
    if (type === IPV4) {
      l4 = L4_IPV4;
      protocol = view.getUint8(start + 23);
      const total = length - ETHERNET;
      this.#id = (this.#id + 1) & 0xffff;
      let sum = view.getUint16(start + 24) + total + this.#id;
      sum = (sum & 0xffff) + (sum >>> 16);
      sum = (sum & 0xffff) + (sum >>> 16);
      view.setUint16(start + 16, total);
      view.setUint16(start + 18, this.#id);
      view.setUint16(start + 24, ~sum & 0xffff);
    } else {
      protocol = view.getUint8(start + 20);
      view.setUint16(start + 18, length - L4_IPV6);
    }
    batch.l3[made] = ETHERNET;
    batch.l4[made] = protocol === UDP ? l4 : 0;
    batch.keys[made * ROW + TYPE] = (type << 16) | (protocol << 8);
    if (protocol !== UDP) return;
    view.setUint16(start + l4, FIRST_PORT + ((hash >>> 0) % PORTS));
    view.setUint16(start + l4 + 4, length - l4);
  }

  /** The checksum of UDP (RFC 768) or GRE (RFC 2784). @param inner sum of the frame inside. */
  #sum(made: number, bytes: number, inner: number): void {
    const batch = this.#batch;
    const u16 = batch.u16;
    const start = batch.start[made]!;
    const kind = batch.keys[made * ROW + TYPE]!;
    const four = kind >>> 16 === IPV4;
    const l4 = four ? L4_IPV4 : L4_IPV6;
    const udp = ((kind >>> 8) & 0xff) === UDP;
    let sum = inner + sumWords(u16, start + l4, bytes - l4);
    if (udp) sum += sumWords(u16, start + (four ? 26 : 22), four ? 8 : 32) + swap(UDP) + swap(batch.length[made]! - l4);
    sum = (sum & 0xffff) + (sum >>> 16);
    sum = (sum & 0xffff) + (sum >>> 16);
    const value = ~sum & 0xffff;
    u16[(start + l4 + (udp ? 6 : 4)) >>> 1] = value === 0 && udp ? 0xffff : value;
  }
}
