/**
 * A match: values and masks over the OpenFlow key (key.ts). Values lie within their masks, so that two matches are the
 * same flow key exactly when their words are equal.
 */
import {
  ETH_ARP,
  ETH_IPV4,
  ETH_IPV6,
  ETH_RARP,
  FRAG_LATER,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  VLAN_PRESENT,
  W_TP,
  W_TYPE,
  W_VLAN,
} from '#contract/flow-key.ts';
import type { Field, PrerequisiteName } from './fields.ts';
import { fieldWrites, OF_KEY_WORDS, readField } from './key.ts';

export interface Match {
  /** OF_KEY_WORDS words. */
  readonly values: Uint32Array;
  readonly masks: Uint32Array;
}

/** A match on everything. */
export function newMatch(): Match {
  // One buffer for both: a large table is read in half the allocations.
  const words = new ArrayBuffer(OF_KEY_WORDS * 8);
  return {
    values: new Uint32Array(words, 0, OF_KEY_WORDS),
    masks: new Uint32Array(words, OF_KEY_WORDS * 4, OF_KEY_WORDS),
  };
}

export const cloneMatch = (match: Match): Match => ({ values: match.values.slice(), masks: match.masks.slice() });

/** Matches the bits `mask` of a field; bits of `value` outside of it are dropped, earlier bits of the field are kept. */
export function setMatch(match: Match, field: Field, value: bigint, mask: bigint = field.fullMask): void {
  for (const write of fieldWrites(field, value & mask, mask & field.fullMask)) {
    match.values[write.word] = ((match.values[write.word]! & ~write.mask) | write.value) >>> 0;
    match.masks[write.word] = (match.masks[write.word]! | write.mask) >>> 0;
  }
}

/** Value and mask of a field in a match; mask 0n = not matched. */
export const getMatch = (match: Match, field: Field): { value: bigint; mask: bigint } => ({
  value: readField(match.values, field) & field.fullMask,
  mask: readField(match.masks, field) & field.fullMask,
});

/** Whether a key of OF_KEY_WORDS words is matched. */
export function matchesKey(match: Match, key: Uint32Array): boolean {
  const { values, masks } = match;
  for (let i = 0; i < OF_KEY_WORDS; i++) {
    if (((key[i]! ^ values[i]!) & masks[i]!) !== 0) return false;
  }
  return true;
}

/** The same match, bit for bit (strict flow_mods). */
export function sameMatch(a: Match, b: Match): boolean {
  for (let i = 0; i < OF_KEY_WORDS; i++) {
    if (a.values[i] !== b.values[i] || a.masks[i] !== b.masks[i]) return false;
  }
  return true;
}

/** Whether every packet of `specific` is one of `general` (loose flow_mods and dump filters). */
export function coversMatch(general: Match, specific: Match): boolean {
  for (let i = 0; i < OF_KEY_WORDS; i++) {
    const mask = general.masks[i]!;
    if ((mask & ~specific.masks[i]!) !== 0 || ((general.values[i]! ^ specific.values[i]!) & mask) !== 0) return false;
  }
  return true;
}

/** Whether some packet could be matched by both (check_overlap). */
export function matchesOverlap(a: Match, b: Match): boolean {
  for (let i = 0; i < OF_KEY_WORDS; i++) {
    if (((a.values[i]! ^ b.values[i]!) & a.masks[i]! & b.masks[i]!) !== 0) return false;
  }
  return true;
}

/** A text that is equal exactly for equal matches: for Map keys. */
export function matchId(match: Match): string {
  let id = '';
  for (let i = 0; i < OF_KEY_WORDS; i++) {
    if (match.masks[i] !== 0) id += `${i}:${match.values[i]!.toString(36)}/${match.masks[i]!.toString(36)};`;
  }
  return id;
}

/** dl_type that the match fixes, or -1. */
export const matchedEthType = ({ values, masks }: Match): number =>
  masks[W_TYPE]! >>> 16 === 0xffff ? values[W_TYPE]! >>> 16 : -1;

/** nw_proto (or ARP opcode) that the match fixes, or -1. */
export const matchedProtocol = ({ values, masks }: Match): number =>
  ((masks[W_TYPE]! >>> 8) & 0xff) === 0xff ? (values[W_TYPE]! >>> 8) & 0xff : -1;

const isIpProtocol = (match: Match, protocol: number): boolean => {
  const type = matchedEthType(match);
  return (type === ETH_IPV4 || type === ETH_IPV6) && matchedProtocol(match) === protocol && !isLaterFragment(match);
};
/** A later fragment carries no transport header. */
export const isLaterFragment = ({ values, masks }: Match): boolean =>
  (values[W_TYPE]! & masks[W_TYPE]! & FRAG_LATER) !== 0;
const isIcmp6 = (match: Match): boolean => matchedEthType(match) === ETH_IPV6 && isIpProtocol(match, IPPROTO_ICMPV6);
const isNd = (match: Match, types: readonly number[]): boolean => {
  const value = match.values[W_TP]!;
  return isIcmp6(match) && match.masks[W_TP] === 0x00ff00ff && (value & 0xff) === 0 && types.includes(value >>> 16);
};

interface Prerequisite {
  /** What to add to a match, for messages. */
  readonly fix: string;
  readonly holds: (match: Match) => boolean;
}

/** Prerequisites of ovs-fields(7), with what puts a match right. */
export const prerequisites: Readonly<Record<PrerequisiteName, Prerequisite>> = {
  none: { fix: '', holds: () => true },
  vlan: {
    fix: 'a VLAN tag (dl_vlan, vlan_vid or vlan_tci=0x1000/0x1000)',
    holds: ({ values, masks }) => (values[W_VLAN]! & masks[W_VLAN]! & VLAN_PRESENT) !== 0,
  },
  ipv4: { fix: 'ip', holds: (match) => matchedEthType(match) === ETH_IPV4 },
  ipv6: { fix: 'ipv6', holds: (match) => matchedEthType(match) === ETH_IPV6 },
  ip: { fix: 'ip or ipv6', holds: (match) => [ETH_IPV4, ETH_IPV6].includes(matchedEthType(match)) },
  arp: { fix: 'arp or rarp', holds: (match) => [ETH_ARP, ETH_RARP].includes(matchedEthType(match)) },
  tcp: { fix: 'tcp or tcp6', holds: (match) => isIpProtocol(match, IPPROTO_TCP) },
  udp: { fix: 'udp or udp6', holds: (match) => isIpProtocol(match, IPPROTO_UDP) },
  sctp: { fix: 'sctp or sctp6', holds: (match) => isIpProtocol(match, IPPROTO_SCTP) },
  icmp: { fix: 'icmp', holds: (match) => matchedEthType(match) === ETH_IPV4 && isIpProtocol(match, IPPROTO_ICMP) },
  icmp6: { fix: 'icmp6', holds: isIcmp6 },
  nd: { fix: 'icmp6, icmp_type=135 or 136, icmp_code=0', holds: (match) => isNd(match, [135, 136]) },
  nd_solicit: { fix: 'icmp6, icmp_type=135, icmp_code=0', holds: (match) => isNd(match, [135]) },
  nd_advert: { fix: 'icmp6, icmp_type=136, icmp_code=0', holds: (match) => isNd(match, [136]) },
};
