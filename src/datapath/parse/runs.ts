// hot
/**
 * Runs: packets in a row that no megaflow of their port can tell apart, as the packets of one connection in a burst, or all
 * packets under a wide rule. Only the first of a run, its leader, is parsed and looked up; what was found for it holds for
 * the others.
 *
 * Compared are raw header bytes under the union of the port's masks: packets that agree there have the same masked key in
 * every subtable, by the parser's own rules. What decides how the parser reads (types, lengths, protocol, fragments) must be
 * the same wholly. A run that ends too early costs time only; so where a comparison is not that simple (tags, IPv6, options,
 * fragments) each packet leads itself.
 */
import {
  ETH_QINQ,
  ETH_VLAN,
  IPPROTO_TCP,
  IPPROTO_UDP,
  W_DL_DST,
  W_DL_MIX,
  W_DL_SRC,
  W_NW_DST,
  W_NW_MISC,
  W_NW_SRC,
  W_TP,
} from '#contract/flow-key.ts';
import { pendingSlots, runFlags, runPackets } from '../classifier/found.ts';
import type { PacketBatch } from '../packet/batch.ts';
import { NEED_ADDRESSES, NEED_NETWORK, NEED_WIDE } from './need.ts';

const ADDRESSES = NEED_ADDRESSES;
const NETWORK = NEED_NETWORK;
const WIDE = NEED_WIDE;
const VLAN = ETH_VLAN;
const QINQ = ETH_QINQ;
const TCP = IPPROTO_TCP;
const UDP = IPPROTO_UDP;
const DL_DST = W_DL_DST;
const DL_MIX = W_DL_MIX;
const DL_SRC = W_DL_SRC;
const NW_SRC = W_NW_SRC;
const NW_DST = W_NW_DST;
const TP = W_TP;
const MISC = W_NW_MISC;
/** First Ethernet type (IEEE 802.3 clause 3.2.6). */
const FIRST_ETHERTYPE = 0x600;
/** Ethernet type IPv4, version 4, five words of header. */
const IPV4_PLAIN = 0x080045;
const pending = pendingSlots;
const packets = runPackets;
const tcpFlags = runFlags;

/** Whether `packets` and `tcpFlags` stand as `singleRuns` wants them: it is called for burst after burst. */
let single = false;

/** Every packet 0..count-1 leads itself. */
export const singleRuns = (batch: PacketBatch, count: number): void => {
  batch.runBytes = batch.length;
  if (!single) {
    packets.fill(1);
    tcpFlags.fill(0);
    single = true;
  }
  for (let slot = 0; slot < count; slot++) pending[slot] = slot;
};

/** Packets 0..count-1, `bytes` in all, are one run. */
export const oneRun = (batch: PacketBatch, count: number, bytes: number): void => {
  single = false;
  batch.runBytes = batch.sums;
  batch.sums[0] = bytes;
  packets[0] = count;
  tcpFlags[0] = 0;
  pending[0] = 0;
};

/**
 * Finds the runs among packets 0..count-1 for flows whose masks together are `union`, which asks for `need` (parse/need.ts).
 * @returns number of runs; their leaders are pendingSlots[0..].
 */
export const findRuns = (batch: PacketBatch, count: number, need: number, union: Uint32Array): number => {
  if ((need & WIDE) !== 0) {
    singleRuns(batch, count);
    return count;
  }
  single = false;
  batch.runBytes = batch.sums;
  return (need & NETWORK) === 0 ? linkRuns(batch, count, union) : networkRuns(batch, count, need, union);
};

const linkRuns = (batch: PacketBatch, count: number, union: Uint32Array): number => {
  const { view, start, headLength, length, sums } = batch;
  const aMask = union[DL_DST]! | 0;
  const bMask = union[DL_MIX]! | 0;
  const cMask = union[DL_SRC]! | 0;
  let runs = 0;
  let leader = 0;
  let proven = false;
  let a = 0;
  let b = 0;
  let c = 0;
  let type = 0;
  for (let slot = 0; slot < count; slot++) {
    const at = start[slot]!;
    if (headLength[slot]! < 14) {
      proven = false;
    } else {
      const a1 = view.getInt32(at);
      const b1 = view.getInt32(at + 4);
      const c1 = view.getInt32(at + 8);
      const type1 = view.getUint16(at + 12);
      if (proven && (((a ^ a1) & aMask) | ((b ^ b1) & bMask) | ((c ^ c1) & cMask) | (type ^ type1)) === 0) {
        packets[leader] = packets[leader]! + 1;
        sums[leader] = sums[leader]! + length[slot]!;
        continue;
      }
      a = a1;
      b = b1;
      c = c1;
      type = type1;
      proven = type >= FIRST_ETHERTYPE && type !== VLAN && type !== QINQ;
    }
    leader = slot;
    pending[runs++] = slot;
    packets[slot] = 1;
    sums[slot] = length[slot]!;
    tcpFlags[slot] = 0;
  }
  return runs;
};

const networkRuns = (batch: PacketBatch, count: number, need: number, union: Uint32Array): number => {
  const { view, start, headLength, length, sums } = batch;
  const addresses = (need & ADDRESSES) !== 0;
  const aMask = union[DL_DST]! | 0;
  const bMask = union[DL_MIX]! | 0;
  const cMask = union[DL_SRC]! | 0;
  const misc = union[MISC]! | 0;
  // Type, version and length of the header, TOS; fragment fields, TTL, protocol.
  const firstMask = 0xffffff00 | (misc >>> 24);
  const lifeMask = 0xffff00ff | ((misc >>> 8) & 0xff00);
  const sourceMask = union[NW_SRC]! | 0;
  const destinationMask = union[NW_DST]! | 0;
  const portsMask = union[TP]! | 0;
  const flagsMask = misc & 0xfff;
  let runs = 0;
  let leader = 0;
  let proven = false;
  let tcp = false;
  let head = 0;
  let bytes = 0;
  let first = 0;
  let total = 0;
  let life = 0;
  let source = 0;
  let destination = 0;
  let ports = 0;
  let flags = 0;
  let before = 0;
  for (let slot = 0; slot < count; slot++) {
    const at = start[slot]!;
    const head1 = headLength[slot]!;
    const bytes1 = length[slot]!;
    if (head1 < 42) {
      proven = false;
    } else {
      const first1 = view.getInt32(at + 12);
      const total1 = view.getUint16(at + 16);
      const life1 = view.getInt32(at + 20);
      const source1 = view.getInt32(at + 26);
      const destination1 = view.getInt32(at + 30);
      const ports1 = view.getInt32(at + 34);
      if (
        proven &&
        (((first ^ first1) & firstMask) |
          ((life ^ life1) & lifeMask) |
          ((source ^ source1) & sourceMask) |
          ((destination ^ destination1) & destinationMask) |
          ((ports ^ ports1) & portsMask) |
          (total ^ total1) |
          (bytes ^ bytes1) |
          (head ^ head1)) ===
          0
      ) {
        const flags1 = tcp ? view.getUint16(at + 46) & 0xfff : 0;
        if (
          ((flags ^ flags1) & flagsMask) === 0 &&
          (!addresses ||
            (((view.getInt32(at) ^ view.getInt32(before)) & aMask) |
              ((view.getInt32(at + 4) ^ view.getInt32(before + 4)) & bMask) |
              ((view.getInt32(at + 8) ^ view.getInt32(before + 8)) & cMask)) ===
              0)
        ) {
          packets[leader] = packets[leader]! + 1;
          sums[leader] = sums[leader]! + bytes1;
          tcpFlags[leader] = tcpFlags[leader]! | flags1;
          continue;
        }
      }
      const protocol = life1 & 0xff;
      tcp = protocol === TCP;
      proven = first1 >>> 8 === IPV4_PLAIN && (life1 & 0x3fff0000) === 0 && (protocol === UDP || (tcp && head1 >= 54));
      flags = proven && tcp ? view.getUint16(at + 46) & 0xfff : 0;
      head = head1;
      bytes = bytes1;
      first = first1;
      total = total1;
      life = life1;
      source = source1;
      destination = destination1;
      ports = ports1;
      before = at;
    }
    leader = slot;
    pending[runs++] = slot;
    packets[slot] = 1;
    sums[slot] = bytes1;
    tcpFlags[slot] = 0;
  }
  return runs;
};
