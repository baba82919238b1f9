// hot
/**
 * TNL_POP: the header of a tunnel off a packet, and what it says into the key (contract/flow-key.ts, W_TUNNEL on).
 *
 * Taken are VXLAN (RFC 7348 section 5), Geneve (RFC 8926 section 3.4) and GRE (RFC 2784, RFC 2890) with an Ethernet frame
 * inside, over IPv4 or over IPv6 without extension headers. Options of Geneve are stepped over; a critical one drops the packet.
 */
import { TNL_GENEVE, TNL_GRE, TNL_VXLAN } from '#contract/actions.ts';
import * as key from '#contract/flow-key.ts';
import {
  GSO_NONE,
  GSO_TUNNEL,
  HEADROOM,
  MAX_SEGMENTS,
  type PacketBatch,
  SLOT_BYTES,
  VNET_NEEDS_CSUM,
} from '../packet/batch.ts';
import type { Finisher } from './finisher.ts';

const KEY_ROW = key.KEY_WORDS;
const TUNNEL = key.W_TUNNEL;
const TYPE = key.W_TYPE;
const TUN_ID = key.W_TUN_ID;
const TUN_SRC = key.W_TUN_SRC;
const TUN_DST = key.W_TUN_DST;
const TUN_IPV6_SRC = key.W_TUN_IPV6_SRC;
const TUN_MISC = key.W_TUN_MISC;
const TUN_TP = key.W_TUN_TP;
const OAM = key.TUN_OAM;
const DF = key.TUN_DF;
const CSUM = key.TUN_CSUM;
const HAS_KEY = key.TUN_KEY;
const IPV4 = key.ETH_IPV4;
const IPV6 = key.ETH_IPV6;
const UDP = key.IPPROTO_UDP;
const GRE = 47;
const VXLAN = TNL_VXLAN;
const GENEVE = TNL_GENEVE;
const GRE_KIND = TNL_GRE;
const NONE = GSO_NONE;
const IN_TUNNEL = GSO_TUNNEL;
const SEGMENTS = MAX_SEGMENTS;
const ROOM = HEADROOM;
const SLOT = SLOT_BYTES;
const NEEDS_CSUM = VNET_NEEDS_CSUM;
/** Transparent Ethernet bridging. */
const TEB = 0x6558;
const ETHERNET = 14;
/** Of the inner frame this much is to be in the scratch, where the frame has it: two tags, IPv6, TCP with options. */
const WANTED = 118;

const swap = (word: number): number => ((word & 0xff) << 8) | (word >>> 8);

/** What a packet was wrapped in. */
const facts = { at: 0, id: 0, flags: 0 };

export class Decapsulation {
  readonly #batch: PacketBatch;
  readonly #finisher: Finisher;

  constructor(batch: PacketBatch, finisher: Finisher) {
    this.#batch = batch;
    this.#finisher = finisher;
  }

  /**
   * Takes the header off. Needs l3, l4 and W_TYPE of the packet, whose bytes nobody else may be about to send.
   * @returns false when there is no sound header of this kind; the packet is to be dropped.
   */
  unwrap(slot: number, kind: number): boolean {
    const batch = this.#batch;
    const view = batch.view;
    const keys = batch.keys;
    const row = slot * KEY_ROW;
    const start = batch.start[slot]!;
    const head = batch.headLength[slot]!;
    const l3 = batch.l3[slot]!;
    const word = keys[row + TYPE]!;
    const type = word >>> 16;
    const protocol = (word >>> 8) & 0xff;
    const gso = batch.gsoType[slot]!;
    if (l3 === 0 || (word & 0xff) !== 0 || (gso !== NONE && (gso & IN_TUNNEL) === 0)) return false;
    const ip = start + l3;
    const four = type === IPV4;
    if (!four && type !== IPV6) return false;
    const l4 = l3 + (four ? (view.getUint8(ip) & 15) << 2 : 40);
    const end = four ? l3 + view.getUint16(ip + 2) : l4 + view.getUint16(ip + 4);
    if (end > batch.length[slot]! || (!four && view.getUint8(ip + 6) !== protocol)) return false;
    if (protocol !== (kind === GRE_KIND ? GRE : UDP) || (protocol === UDP && batch.l4[slot] !== l4)) return false;
    if (!this.#read(start, l4, Math.min(head, end), kind)) return false;
    const inner = facts.at;
    if (end - inner < ETHERNET || (gso !== NONE && batch.csumStart[slot]! < inner + ETHERNET)) return false;
    if ((facts.flags & CSUM) !== 0 && !this.#sums(slot, l3, l4, end, kind)) return false;

    for (let w = TUNNEL; w < KEY_ROW; w++) keys[row + w] = 0;
    keys[row + TUN_ID + 1] = facts.id;
    let flags = facts.flags;
    let tos = 0;
    let ttl = 0;
    if (four) {
      keys[row + TUN_SRC] = view.getInt32(ip + 12);
      keys[row + TUN_DST] = view.getInt32(ip + 16);
      if ((view.getUint16(ip + 6) & 0x4000) !== 0) flags |= DF;
      tos = view.getUint8(ip + 1);
      ttl = view.getUint8(ip + 8);
    } else {
      for (let i = 0; i < 8; i++) keys[row + TUN_IPV6_SRC + i] = view.getInt32(ip + 8 + 4 * i);
      tos = (view.getUint16(ip) >>> 4) & 0xff;
      ttl = view.getUint8(ip + 7);
    }
    keys[row + TUN_MISC] = (tos << 24) | (ttl << 16) | flags;
    if (protocol === UDP) keys[row + TUN_TP] = view.getInt32(start + l4);
    return this.#strip(slot, inner, end);
  }

  /** Reads the header at l4 into `facts`; it must lie before `seen`. */
  #read(start: number, l4: number, seen: number, kind: number): boolean {
    const view = this.#batch.view;
    const at = start + l4;
    facts.flags = 0;
    facts.id = 0;
    if (kind === GRE_KIND) return this.#readGre(start, l4, seen);
    if (l4 + 16 > seen) return false;
    if (view.getUint16(at + 6) !== 0) facts.flags |= CSUM;
    const first = view.getInt32(at + 8);
    const second = view.getInt32(at + 12);
    facts.id = second >>> 8;
    facts.flags |= HAS_KEY;
    if (kind === VXLAN) {
      facts.at = l4 + 16;
      return first === 0x08000000 && (second & 0xff) === 0;
    }
    facts.at = l4 + 16 + ((first >>> 24) & 0x3f) * 4;
    if ((first & 0x00800000) !== 0) facts.flags |= OAM;
    // Version 0, no critical option, an Ethernet frame.
    return kind === GENEVE && first >>> 30 === 0 && (first & 0x00400000) === 0 && (first & 0xffff) === TEB;
  }

  #readGre(start: number, l4: number, seen: number): boolean {
    const view = this.#batch.view;
    if (l4 + 4 > seen) return false;
    const first = view.getInt32(start + l4);
    // Checksum, key, sequence number; no routing, version 0.
    if ((first & 0x4fff0000) !== 0 || (first & 0xffff) !== TEB) return false;
    const keyAt = l4 + (first < 0 ? 8 : 4);
    const hasKey = (first & 0x20000000) !== 0;
    facts.at = keyAt + (hasKey ? 4 : 0) + ((first & 0x10000000) !== 0 ? 4 : 0);
    if (facts.at > seen) return false;
    if (first < 0) facts.flags |= CSUM;
    if (hasKey) {
      facts.flags |= HAS_KEY;
      facts.id = view.getInt32(start + keyAt);
    }
    return true;
  }

  /** Whether the checksum of UDP or GRE is right; one that the sender left to be filled in is. */
  #sums(slot: number, l3: number, l4: number, end: number, kind: number): boolean {
    const batch = this.#batch;
    const finisher = this.#finisher;
    if ((batch.vnetFlags[slot]! & NEEDS_CSUM) !== 0) return true;
    finisher.linearise(batch, slot);
    const frame = finisher.frame;
    let sum = finisher.sum(frame + l4, end - l4);
    if (kind !== GRE_KIND) {
      const four = batch.keys[slot * KEY_ROW + TYPE]! >>> 16 === IPV4;
      sum += finisher.sum(frame + l3 + (four ? 12 : 8), four ? 8 : 32) + swap(UDP) + swap(end - l4);
    }
    sum = (sum & 0xffff) + (sum >>> 16);
    sum = (sum & 0xffff) + (sum >>> 16);
    return sum === 0xffff;
  }

  /** The frame is what lies from `inner` to `end`. */
  #strip(slot: number, inner: number, end: number): boolean {
    const batch = this.#batch;
    if (!this.#cut(slot, end)) return false;
    const start = batch.csumStart[slot]!;
    if ((batch.vnetFlags[slot]! & NEEDS_CSUM) !== 0 && start >= inner + ETHERNET) batch.csumStart[slot] = start - inner;
    else {
      // Its own checksum, if any, was the outer one.
      batch.vnetFlags[slot] = 0;
      batch.csumStart[slot] = 0;
      batch.csumOffset[slot] = 0;
    }
    if (batch.gsoType[slot] !== NONE) {
      batch.gsoType[slot] = batch.gsoType[slot]! & ~IN_TUNNEL;
      batch.vnetHeaderLength[slot] = batch.vnetHeaderLength[slot]! - inner;
    }
    if (inner > batch.headLength[slot]!) {
      if (!this.#skip(slot, inner)) return false;
    } else {
      batch.start[slot] = batch.start[slot]! + inner;
      batch.headLength[slot] = batch.headLength[slot]! - inner;
    }
    batch.length[slot] = end - inner;
    batch.l3[slot] = 0;
    batch.l4[slot] = 0;
    if (batch.headLength[slot]! < WANTED && batch.segmentCount[slot]! > 0) this.#fetch(slot);
    return true;
  }

  /** Rows of its own for the segments of a packet. @returns false when there are none left. */
  #own(slot: number): boolean {
    const batch = this.#batch;
    const count = batch.segmentCount[slot]!;
    const from = batch.segmentFirst[slot]!;
    const to = batch.nextSegment;
    if (to + count > SEGMENTS) return false;
    for (let i = 0; i < count; i++) {
      batch.segmentAddress[to + i] = batch.segmentAddress[from + i]!;
      batch.segmentLength[to + i] = batch.segmentLength[from + i]!;
    }
    batch.segmentFirst[slot] = to;
    batch.nextSegment = to + count;
    return true;
  }

  /** Takes off what lies behind `end`: padding. */
  #cut(slot: number, end: number): boolean {
    const batch = this.#batch;
    let excess = batch.length[slot]! - end;
    if (excess === 0) return true;
    if (batch.segmentCount[slot]! > 0) {
      if (!this.#own(slot)) return false;
      const first = batch.segmentFirst[slot]!;
      let count = batch.segmentCount[slot]!;
      while (count > 0 && excess >= batch.segmentLength[first + count - 1]!) {
        excess -= batch.segmentLength[first + count - 1]!;
        count--;
      }
      batch.segmentCount[slot] = count;
      if (count > 0) {
        batch.segmentLength[first + count - 1] = batch.segmentLength[first + count - 1]! - excess;
        excess = 0;
      }
    }
    batch.headLength[slot] = batch.headLength[slot]! - excess;
    batch.length[slot] = end;
    return true;
  }

  /** The header is longer than the window: the frame begins in a segment. */
  #skip(slot: number, inner: number): boolean {
    const batch = this.#batch;
    if (!this.#own(slot)) return false;
    let left = inner - batch.headLength[slot]!;
    let first = batch.segmentFirst[slot]!;
    let count = batch.segmentCount[slot]!;
    while (count > 0 && left >= batch.segmentLength[first]!) {
      left -= batch.segmentLength[first]!;
      first++;
      count--;
    }
    if (count > 0) {
      batch.segmentAddress[first] = batch.segmentAddress[first]! + left;
      batch.segmentLength[first] = batch.segmentLength[first]! - left;
    }
    batch.segmentFirst[slot] = first;
    batch.segmentCount[slot] = count;
    batch.start[slot] = slot * SLOT + ROOM;
    batch.headLength[slot] = 0;
    return true;
  }

  /** Brings more of the frame into the scratch. */
  #fetch(slot: number): void {
    const batch = this.#batch;
    if (!this.#own(slot)) return;
    const from = batch.start[slot]!;
    const to = slot * SLOT + ROOM;
    if (from > to) {
      batch.u8.copyWithin(to, from, from + batch.headLength[slot]!);
      batch.start[slot] = to;
    }
    let left = WANTED - batch.headLength[slot]!;
    let first = batch.segmentFirst[slot]!;
    let count = batch.segmentCount[slot]!;
    const rows = batch.rows;
    while (left > 0 && count > 0) {
      const take = Math.min(left, batch.segmentLength[first]!);
      const at = batch.rowCount * 3;
      rows[at] = batch.scratchAddress + batch.start[slot]! + batch.headLength[slot]!;
      rows[at + 1] = batch.segmentAddress[first]!;
      rows[at + 2] = take;
      batch.rowCount++;
      batch.headLength[slot] = batch.headLength[slot]! + take;
      left -= take;
      batch.segmentAddress[first] = batch.segmentAddress[first]! + take;
      batch.segmentLength[first] = batch.segmentLength[first]! - take;
      if (batch.segmentLength[first] === 0) {
        first++;
        count--;
      }
    }
    batch.segmentFirst[slot] = first;
    batch.segmentCount[slot] = count;
    batch.copy();
  }
}
