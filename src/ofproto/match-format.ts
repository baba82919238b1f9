/** Prints a match as `ovs-ofctl dump-flows` does: its order of fields, its protocol words, its short forms. */
import { ETH_ARP, ETH_IPV4, ETH_IPV6, ETH_RARP, VLAN_PRESENT, W_VLAN } from '#contract/flow-key.ts';
import { formatFieldValue } from './field-format.ts';
import { type Field, fieldOf, fields } from './fields.ts';
import { hasField, OF_KEY_WORDS } from './key.ts';
import { getMatch, type Match, matchedEthType, matchedProtocol } from './match.ts';
import { protocolWords } from './match-parse.ts';
import type { PortNames } from './ofp-port.ts';

const protocolWord = (ethType: number, protocol: number): string | undefined => {
  for (const [word, [type, proto]] of protocolWords) {
    if (type >= 0 && type === ethType && proto === protocol) return word;
  }
  return undefined;
};

/** The masks printed last: one flow after another matches the same fields. */
const lastMasks = new Uint32Array(OF_KEY_WORDS);
/** By index of a field: 1 where `lastMasks` has a bit of it. */
const lastFields = new Uint8Array(fields.length);

function fieldsIn(masks: Uint32Array): Uint8Array {
  let same = true;
  for (let i = 0; i < OF_KEY_WORDS && same; i++) same = masks[i] === lastMasks[i];
  if (!same) {
    lastMasks.set(masks);
    for (const field of fields) lastFields[field.index] = hasField(masks, field) ? 1 : 0;
  }
  return lastFields;
}

const METADATA = ['pkt_mark', 'actset_output'].map(fieldOf);
const REGISTERS = Array.from({ length: 16 }, (_, n) => `reg${n}`);
const TUNNEL = ['tun_id', 'tun_src', 'tun_dst', 'tun_ipv6_src', 'tun_ipv6_dst', 'tun_tos', 'tun_ttl', 'tun_flags'];
const AFTER_PROTOCOL = [...REGISTERS, ...TUNNEL, 'metadata', 'in_port'].map(fieldOf);

/** Canonical text; empty for a match on everything. */
export function formatMatch(match: Match, names?: PortNames): string {
  const present = fieldsIn(match.masks);
  const out: string[] = [];
  const put = (name: string, as = name): void => {
    const field = fieldOf(name);
    if (present[field.index] === 1) putField(field, name, as);
  };
  const putField = (field: Field, name: string, as: string): void => {
    const { value, mask } = getMatch(match, field);
    if (mask === 0n) return;
    if (name === 'ipv6_label') {
      const five = (bits: bigint) => `0x${bits.toString(16).padStart(5, '0')}`;
      out.push(`${as}=${five(value)}${mask === field.fullMask ? '' : `/${five(mask)}`}`);
    } else if (field.format === 'decimal' && mask !== field.fullMask) {
      out.push(`${as}=0x${value.toString(16)}/0x${mask.toString(16)}`);
    } else {
      out.push(`${as}=${formatFieldValue(field, value, mask, names)}`);
    }
  };

  for (const field of METADATA) if (present[field.index] === 1) putField(field, field.name, field.name);
  const type = matchedEthType(match);
  const protocol = matchedProtocol(match);
  const whole = protocolWord(type, protocol);
  const word = whole ?? protocolWord(type, -1);
  if (word) out.push(word);
  for (const field of AFTER_PROTOCOL) if (present[field.index] === 1) putField(field, field.name, field.name);
  formatVlan(match, out);
  put('dl_src');
  put('dl_dst');
  if (!word && type >= 0) out.push(`dl_type=0x${type.toString(16).padStart(4, '0')}`);
  if (type === ETH_ARP || type === ETH_RARP) {
    for (const name of ['arp_spa', 'arp_tpa', 'arp_op', 'arp_sha', 'arp_tha']) put(name);
  } else if (type === ETH_IPV4 || type === ETH_IPV6) {
    for (const name of type === ETH_IPV4 ? ['nw_src', 'nw_dst'] : ['ipv6_src', 'ipv6_dst', 'ipv6_label']) put(name);
    if (!whole) put('nw_proto');
    for (const name of ['nw_tos', 'nw_ecn', 'nw_ttl', 'nw_frag']) put(name);
    formatTransport(type, protocol, put);
  }
  return out.join(',');
}

/** dl_vlan and dl_vlan_pcp where they say it all, else vlan_tci. */
function formatVlan(match: Match, out: string[]): void {
  const mask = match.masks[W_VLAN]! & 0xffff;
  const value = match.values[W_VLAN]! & 0xffff;
  if (mask === 0) return;
  const vid = mask & 0x0fff;
  const pcp = mask & 0xe000;
  const whole = (vid === 0 || vid === 0x0fff) && (pcp === 0 || pcp === 0xe000) && (vid | pcp) !== 0;
  const four = (bits: number) => `0x${bits.toString(16).padStart(4, '0')}`;
  if (value & mask & VLAN_PRESENT && whole) {
    if (vid) out.push(`dl_vlan=${value & 0x0fff}`);
    if (pcp) out.push(`dl_vlan_pcp=${value >>> 13}`);
  } else {
    out.push(`vlan_tci=${four(value)}${mask === 0xffff ? '' : `/${four(mask)}`}`);
  }
}

function formatTransport(type: number, protocol: number, put: (name: string, as?: string) => void): void {
  if (protocol === 6 || protocol === 17 || protocol === 132) {
    put('tcp_src', 'tp_src');
    put('tcp_dst', 'tp_dst');
    if (protocol === 6) put('tcp_flags');
  } else if (type === ETH_IPV4 && protocol === 1) {
    put('icmp_type');
    put('icmp_code');
  } else if (type === ETH_IPV6 && protocol === 58) {
    put('icmp_type');
    put('icmp_code');
    put('nd_target');
    put('nd_sll');
    put('nd_tll');
  }
}
