/**
 * Reads a match in ovs-ofctl(8) syntax. Strict: what Open vSwitch drops or rewrites with a changed meaning (a field
 * without its prerequisite, a field given twice, dl_vlan=4096, nw_tos with ECN bits) is an error that names the fix.
 * Host bits under a mask are cleared, as there.
 */
import { ETH_ARP, ETH_IPV6, ETH_RARP, VLAN_PRESENT } from '#contract/flow-key.ts';
import { RequestError } from './api.ts';
import { parseFieldValue } from './field-parse.ts';
import { type Field, fieldOf, findField, isUnsupportedField } from './fields.ts';
import { fieldWrites, type WordWrite } from './key.ts';
import { isLaterFragment, type Match, matchedEthType, matchedProtocol, newMatch, prerequisites } from './match.ts';
import { noPortNames, type PortNames } from './ofp-port.ts';
import { clip, parseUnsigned, splitTerms, type Term } from './text.ts';

const ETH_TYPE = fieldOf('eth_type');
const NW_PROTO = fieldOf('nw_proto');
const ARP_OP = fieldOf('arp_op');
const IP_FRAG = fieldOf('ip_frag');
const VLAN_TCI = fieldOf('vlan_tci');

/** Protocol words: dl_type and nw_proto that they stand for. */
export const protocolWords: ReadonlyMap<string, readonly [ethType: number, protocol: number]> = new Map([
  ['eth', [-1, -1]],
  ['ip', [0x0800, -1]],
  ['ipv6', [0x86dd, -1]],
  ['icmp', [0x0800, 1]],
  ['icmp6', [0x86dd, 58]],
  ['tcp', [0x0800, 6]],
  ['tcp6', [0x86dd, 6]],
  ['udp', [0x0800, 17]],
  ['udp6', [0x86dd, 17]],
  ['sctp', [0x0800, 132]],
  ['sctp6', [0x86dd, 132]],
  ['arp', [0x0806, -1]],
  ['rarp', [0x8035, -1]],
  ['mpls', [0x8847, -1]],
  ['mplsm', [0x8848, -1]],
]);

/** Fields whose meaning depends on the protocol that the match names. */
const TRANSPORT: Readonly<Record<string, readonly [string, string]>> = {
  6: ['tcp_src', 'tcp_dst'],
  17: ['udp_src', 'udp_dst'],
  132: ['sctp_src', 'sctp_dst'],
  1: ['icmp_type', 'icmp_code'],
  58: ['icmpv6_type', 'icmpv6_code'],
};

/** True for a word that {@link MatchParser.take} reads. */
export const isMatchTerm = (key: string): boolean =>
  protocolWords.has(key) || key === 'tp_src' || key === 'tp_dst' || !!findField(key) || isUnsupportedField(key);

const ranks = new Map<string, number>();

/** Fields that others depend on come first: the protocol, fragments, then the type of an ICMP message and its code. */
function rank(key: string): number {
  let known = ranks.get(key);
  if (known === undefined) ranks.set(key, (known = rankOf(key)));
  return known;
}

function rankOf(key: string): number {
  const field = findField(key);
  if (field === NW_PROTO || field === ARP_OP || field === IP_FRAG) return 0;
  if (/^icmp.*_type$/.test(field?.name ?? key)) return 1;
  return /^icmp.*_code$/.test(field?.name ?? key) ? 2 : 3;
}

export class MatchParser {
  readonly #match: Match;
  readonly #names: PortNames;
  readonly #later: { key: string; value: string }[] = [];
  readonly #seen: Field[] = [];

  /** @param into is overwritten and returned by `finish`: one for a whole list of flows spares an allocation each. */
  constructor(names: PortNames = noPortNames, into: Match = newMatch()) {
    into.values.fill(0);
    into.masks.fill(0);
    this.#match = into;
    this.#names = names;
  }

  /** Takes one term of a match. Whatever depends on the protocol waits for {@link finish}. */
  take({ key, value }: Term): void {
    const words = protocolWords.get(key);
    if (words) {
      if (value) throw new RequestError('bad_syntax', `${key} takes no value`, { field: key });
      if (words[0] >= 0) this.#merge(key, ETH_TYPE, BigInt(words[0]));
      if (words[1] >= 0) this.#merge(key, NW_PROTO, BigInt(words[1]));
      return;
    }
    const field = findField(key);
    if (!field && !isMatchTerm(key))
      throw new RequestError('unknown_keyword', `unknown keyword ${clip(key)}`, { field: clip(key) });
    if (!field && isUnsupportedField(key))
      throw new RequestError('unsupported', `${key} is not supported yet`, { field: key });
    if (!value) throw new RequestError('bad_syntax', `field ${key} missing value`, { field: key });
    if (field === ETH_TYPE) this.#field(key, ETH_TYPE, value);
    else this.#later.push({ key, value });
  }

  /** The whole match. */
  finish(): Match {
    this.#later.sort((a, b) => rank(a.key) - rank(b.key));
    for (const { key, value } of this.#later) this.#field(key, this.#resolve(key), value);
    return this.#match;
  }

  #resolve(key: string): Field {
    const type = matchedEthType(this.#match);
    const protocol = matchedProtocol(this.#match);
    const named = findField(key);
    if (type === ETH_ARP || type === ETH_RARP) {
      if (named === NW_PROTO) return ARP_OP;
      if (key === 'nw_src' || key === 'nw_dst') return fieldOf(key === 'nw_src' ? 'arp_spa' : 'arp_tpa');
    }
    if (type === ETH_IPV6 && protocol === 58 && /^icmp_(type|code)$/.test(key))
      return fieldOf(key.replace('icmp', 'icmpv6'));
    if (named) return named;
    const isIcmpMismatch = (type === ETH_IPV6) === (protocol === 1);
    const pair =
      prerequisites.ip.holds(this.#match) &&
      !((protocol === 1 || protocol === 58) && isIcmpMismatch) &&
      TRANSPORT[protocol];
    if (!pair) throw missingPrerequisite(key, 'tcp, udp or sctp (tcp6, udp6 or sctp6)');
    return fieldOf(pair[key === 'tp_src' ? 0 : 1]);
  }

  #field(key: string, field: Field, text: string): void {
    if (this.#seen.includes(field)) throw new RequestError('duplicate_field', `${key} is given twice`, { field: key });
    this.#seen.push(field);
    const { value, mask } =
      field.name === 'dl_vlan' ? parseDlVlan(text, field, this.#names) : parseFieldValue(field, text, this.#names, key);
    if (mask === 0n) return;
    const { fix, holds } = prerequisites[field.prerequisite];
    if (field.prerequisite !== 'vlan' && !holds(this.#match)) {
      throw missingPrerequisite(key, isLaterFragment(this.#match) ? `${fix} without ip_frag=later` : fix);
    }
    switch (field.name) {
      case 'nw_tos':
        if (value & 3n) {
          const hint = `nw_tos=${value & 0xfcn},nw_ecn=${value & 3n}`;
          throw new RequestError('bad_value', `${key}=${text} has ECN bits`, { field: key, hint });
        }
        return this.#merge(key, field, value, mask);
      case 'dl_vlan':
        if (value === 0xffffn) return this.#merge(key, VLAN_TCI, 0n);
        return this.#merge(key, VLAN_TCI, value | BigInt(VLAN_PRESENT), 0x1fffn);
      case 'dl_vlan_pcp':
      case 'vlan_pcp':
        return this.#merge(key, VLAN_TCI, (value << 13n) | BigInt(VLAN_PRESENT), 0xf000n);
      case 'vlan_vid':
        return this.#vlanVid(key, text, value, mask);
      default:
        return this.#merge(key, field, value, mask);
    }
  }

  /** OXM_OF_VLAN_VID: 0 = no tag; with bit 12 (0x1000) a tag of that VLAN (ovs-fields(7), vlan_vid). */
  #vlanVid(key: string, text: string, value: bigint, mask: bigint): void {
    if (mask !== 0x1fffn || text.includes('/') || value & BigInt(VLAN_PRESENT))
      return this.#merge(key, VLAN_TCI, value, mask);
    if (value === 0n) return this.#merge(key, VLAN_TCI, 0n, mask);
    const hint = `dl_vlan=${value} or vlan_vid=0x${(value | BigInt(VLAN_PRESENT)).toString(16)}`;
    throw new RequestError('bad_value', `${key}=${clip(text)} lacks the "present" bit 0x1000`, { field: key, hint });
  }

  #merge(key: string, field: Field, value: bigint, mask: bigint = field.fullMask): void {
    const writes = fieldWrites(field, value & mask, mask);
    for (const write of writes) {
      if (conflicts(this.#match, write)) {
        throw new RequestError('conflict', `${key} contradicts what the match says before`, { field: key });
      }
    }
    for (const { word, value: bits, mask: on } of writes) {
      this.#match.values[word] = (this.#match.values[word]! | bits) >>> 0;
      this.#match.masks[word] = (this.#match.masks[word]! | on) >>> 0;
    }
  }
}

const conflicts = ({ values, masks }: Match, { word, value, mask }: WordWrite): boolean =>
  ((values[word]! ^ value) & masks[word]! & mask) !== 0;

function parseDlVlan(text: string, field: Field, names: PortNames): { value: bigint; mask: bigint } {
  if (parseUnsigned(text) === 0xffffn) return { value: 0xffffn, mask: 0xffffn };
  return parseFieldValue(field, text, names);
}

function missingPrerequisite(key: string, fix: string): RequestError {
  return new RequestError('OFPBMC_BAD_PREREQ', `${clip(key)} needs ${fix} in the match`, {
    field: clip(key),
    hint: `add ${fix}`,
  });
}

/**
 * A whole match, without flow keys or actions.
 * @throws RequestError.
 */
export function parseMatch(text: string, names: PortNames = noPortNames): Match {
  const parser = new MatchParser(names);
  for (const term of splitTerms(text)) parser.take(term);
  return parser.finish();
}
