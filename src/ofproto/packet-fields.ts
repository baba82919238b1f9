/** Which fields the packet in translation has, and what they hold; whatever tells is looked at (ovs-fields(7), prerequisites). */
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
  W_TP,
  W_TYPE,
} from '#contract/flow-key.ts';
import type { LegacySetName } from './actions.ts';
import type { PrerequisiteName } from './fields.ts';
import { markSubfield, readSubfield, type Subfield } from './key.ts';
import { WORDS } from './subtable.ts';
import type { Translator } from './translate.ts';

const scratch = new Uint32Array(WORDS);

export const isIp = (x: Translator): boolean => {
  x.state.look(W_TYPE, 0xffff0000);
  const type = x.state.flow[W_TYPE]! >>> 16;
  return type === ETH_IPV4 || type === ETH_IPV6;
};

/** Whether the packet has ports of one of these protocols: later fragments have none. */
export const hasTransport = (x: Translator, ...protocols: number[]): boolean => {
  if (!isIp(x)) return false;
  x.state.look(W_TYPE, 0xff00 | FRAG_LATER);
  const word = x.state.flow[W_TYPE]!;
  return protocols.includes((word >>> 8) & 0xff) && (word & FRAG_LATER) === 0;
};

const isNd = (x: Translator, first: number, second: number): boolean => {
  if (!hasField(x, 'icmp6')) return false;
  x.state.look(W_TP, 0xffffffff);
  const type = x.state.flow[W_TP]! >>> 16;
  return type === first || type === second;
};

/** Whether the packet has fields of this kind; what tells is looked at. */
export function hasField(x: Translator, needs: PrerequisiteName): boolean {
  switch (needs) {
    case 'none':
      return true;
    case 'vlan':
      return x.state.hasTag();
    case 'ip':
      return isIp(x);
    case 'ipv4':
      return isIp(x) && x.state.flow[W_TYPE]! >>> 16 === ETH_IPV4;
    case 'ipv6':
      return isIp(x) && x.state.flow[W_TYPE]! >>> 16 === ETH_IPV6;
    case 'arp':
      x.state.look(W_TYPE, 0xffff0000);
      return [ETH_ARP, ETH_RARP].includes(x.state.flow[W_TYPE]! >>> 16);
    case 'tcp':
      return hasTransport(x, IPPROTO_TCP);
    case 'udp':
      return hasTransport(x, IPPROTO_UDP);
    case 'sctp':
      return hasTransport(x, IPPROTO_SCTP);
    case 'icmp':
      return hasTransport(x, IPPROTO_ICMP) && x.state.flow[W_TYPE]! >>> 16 === ETH_IPV4;
    case 'icmp6':
      return hasTransport(x, IPPROTO_ICMPV6) && x.state.flow[W_TYPE]! >>> 16 === ETH_IPV6;
    case 'nd':
      return isNd(x, 135, 136);
    case 'nd_solicit':
      return isNd(x, 135, 135);
    case 'nd_advert':
      return isNd(x, 136, 136);
  }
}

export function hasLegacyField(x: Translator, name: LegacySetName): boolean {
  switch (name) {
    case 'mod_dl_src':
    case 'mod_dl_dst':
      return true;
    case 'mod_nw_src':
    case 'mod_nw_dst':
      return hasField(x, 'ipv4');
    case 'mod_nw_tos':
    case 'mod_nw_ecn':
    case 'mod_nw_ttl':
      return isIp(x);
    case 'mod_tp_src':
    case 'mod_tp_dst':
      return hasTransport(x, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP);
  }
}

/** Notes that a subfield of the packet matters. */
export function lookAtPart(x: Translator, part: Subfield): void {
  scratch.fill(0);
  markSubfield(scratch, part);
  for (const { word } of part.field.pieces) if (scratch[word] !== 0) x.state.look(word, scratch[word]!);
}

/** Value of a subfield, which is looked at. */
export function readPart(x: Translator, part: Subfield): bigint {
  lookAtPart(x, part);
  return readSubfield(x.state.flow, part);
}
