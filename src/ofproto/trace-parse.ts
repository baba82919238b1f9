/** Reads the packet of ofproto/trace: a flow in ovs-ofctl syntax, or a datapath key as dpctl/dump-flows prints it. */
import {
  ETH_IPV4,
  ETH_IPV6,
  ETH_QINQ,
  ETH_VLAN,
  KEY_WORDS,
  VLAN_PRESENT,
  W_IN_PORT,
  W_RECIRC_ID,
  W_TYPE,
  W_VLAN,
  W_VLAN_INNER,
} from '#contract/flow-key.ts';
import { RequestError } from './api.ts';
import { parseFieldValue } from './field-parse.ts';
import { fieldOf } from './fields.ts';
import { OF_KEY_WORDS, writeField } from './key.ts';
import { parseMatch } from './match-parse.ts';
import { noPortNames, type PortNames } from './ofp-port.ts';
import { clip, parseBounded, splitTerms, type Term } from './text.ts';

export interface TracePacket {
  /** `openflow`: OF_KEY_WORDS words with an OpenFlow port number; `odp`: KEY_WORDS words with a datapath port number. */
  readonly kind: 'openflow' | 'odp';
  readonly key: Uint32Array;
}

/**
 * @param portNumber datapath port of a name, for `in_port(p1)`.
 * @throws RequestError.
 */
export function parseTracePacket(
  text: string,
  names: PortNames = noPortNames,
  portNumber: (name: string) => number | undefined = () => undefined,
): TracePacket {
  const isOdp = splitTerms(text).some(
    ({ key, delimiter }) => delimiter === '(' && (key === 'in_port' || key === 'eth'),
  );
  return isOdp
    ? { kind: 'odp', key: parseOdpKey(text, portNumber) }
    : { kind: 'openflow', key: parseOpenFlowKey(text, names) };
}

function parseOpenFlowKey(text: string, names: PortNames): Uint32Array {
  const key = parseMatch(text, names).values;
  // A match knows no TPID, a packet with a tag has one.
  if (key[W_VLAN]! & VLAN_PRESENT && key[W_VLAN]! >>> 16 === 0) key[W_VLAN] = ((ETH_VLAN << 16) | key[W_VLAN]!) >>> 0;
  return key;
}

/** Members of the groups of a datapath key, and the fields that they are. */
const groups: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  eth: { src: 'eth_src', dst: 'eth_dst' },
  ipv4: { src: 'ip_src', dst: 'ip_dst', proto: 'nw_proto', tos: 'nw_tos', ttl: 'nw_ttl', frag: 'ip_frag' },
  ipv6: {
    src: 'ipv6_src',
    dst: 'ipv6_dst',
    label: 'ipv6_label',
    proto: 'nw_proto',
    tclass: 'nw_tos',
    hlimit: 'nw_ttl',
    frag: 'ip_frag',
  },
  arp: { sip: 'arp_spa', tip: 'arp_tpa', op: 'arp_op', sha: 'arp_sha', tha: 'arp_tha' },
  tcp: { src: 'tcp_src', dst: 'tcp_dst' },
  udp: { src: 'tcp_src', dst: 'tcp_dst' },
  sctp: { src: 'tcp_src', dst: 'tcp_dst' },
  icmp: { type: 'icmp_type', code: 'icmp_code' },
  icmpv6: { type: 'icmp_type', code: 'icmp_code' },
  nd: { target: 'nd_target', sll: 'nd_sll', tll: 'nd_tll' },
};
const PROTOCOLS: Readonly<Record<string, number>> = { tcp: 6, udp: 17, sctp: 132, icmp: 1, icmpv6: 58 };
const IGNORED = new Set([
  'packet_type',
  'skb_priority',
  'skb_mark',
  'dp_hash',
  'ct_state',
  'ct_zone',
  'ct_mark',
  'ct_label',
  'ufid',
]);

const fail = (message: string, field: string): never => {
  throw new RequestError('bad_syntax', message, { field: clip(field) });
};

function parseOdpKey(text: string, portNumber: (name: string) => number | undefined): Uint32Array {
  const row = new Uint32Array(OF_KEY_WORDS);
  parseOdpTerms(splitTerms(text), row, 0, portNumber);
  return row.slice(0, KEY_WORDS);
}

/** @param tags VLAN tags read so far; they are what encap() goes into. */
function parseOdpTerms(
  terms: readonly Term[],
  row: Uint32Array,
  tags: number,
  portNumber: (name: string) => number | undefined,
): void {
  let etherType = 0;
  for (const { key, value = '' } of terms) {
    if (Object.hasOwn(groups, key)) parseOdpGroup(key, value, row);
    else if (key === 'in_port') row[W_IN_PORT] = portNumber(value) ?? parseBounded(value, 'in_port', 0xffffffff);
    else if (key === 'recirc_id') row[W_RECIRC_ID] = parseBounded(value, 'recirc_id', 0xffffffff);
    else if (key === 'eth_type') {
      etherType = parseBounded(withoutMask(value), 'eth_type', 65535);
      writeField(row, fieldOf('eth_type'), BigInt(etherType));
    } else if (key === 'vlan') {
      if (tags === 2) fail('more than two VLAN tags', key);
      if (etherType !== ETH_VLAN && etherType !== ETH_QINQ)
        fail('vlan() needs eth_type(0x8100) or eth_type(0x88a8)', key);
      row[tags === 0 ? W_VLAN : W_VLAN_INNER] = parseTag(etherType, value);
      row[W_TYPE] = 0;
      tags++;
    } else if (key === 'encap') parseOdpTerms(splitTerms(value), row, tags, portNumber);
    else if (key === 'tcp_flags') {
      writeField(row, fieldOf('tcp_flags'), parseFieldValue(fieldOf('tcp_flags'), value, noPortNames).value);
    } else if (!IGNORED.has(key)) fail(`unknown datapath key field ${clip(key)}`, key);
  }
}

function parseOdpGroup(group: string, text: string, row: Uint32Array): void {
  for (const { key, value = '' } of splitTerms(text)) {
    const members = groups[group]!;
    if (!Object.hasOwn(members, key)) fail(`unknown member ${clip(key)} of ${group}()`, `${group}.${key}`);
    const field = fieldOf(members[key]!);
    const { value: bits } = parseFieldValue(field, withoutMask(value), noPortNames);
    writeField(row, field, bits, (1n << BigInt(field.bits)) - 1n);
  }
  const type = row[W_TYPE]! >>> 16;
  const protocol = PROTOCOLS[group];
  if (
    protocol !== undefined &&
    ((type !== ETH_IPV4 && type !== ETH_IPV6) || ((row[W_TYPE]! >>> 8) & 0xff) !== protocol)
  ) {
    fail(`${group}() needs ipv4() or ipv6() with proto=${protocol}`, group);
  }
}

const withoutMask = (text: string): string => text.split('/')[0]!;

function parseTag(tpid: number, text: string): number {
  let tci = VLAN_PRESENT;
  for (const { key, value = '' } of splitTerms(text)) {
    if (key === 'vid') tci |= parseBounded(withoutMask(value), 'vid', 4095);
    else if (key === 'pcp') tci |= parseBounded(withoutMask(value), 'pcp', 7) << 13;
    else if (key !== 'cfi') fail(`unknown member ${clip(key)} of vlan()`, `vlan.${key}`);
  }
  return ((tpid << 16) | tci) >>> 0;
}
