/**
 * Prints megaflows as `ovs-appctl dpctl/dump-flows` does: the key in datapath terms and the datapath actions.
 *
 * Values are printed under their masks, since a megaflow holds no other bits of the packet that made it.
 */
import {
  ACTION_CLONE,
  ACTION_DEC_TTL,
  ACTION_DROP,
  ACTION_OUTPUT,
  ACTION_POP_VLAN,
  ACTION_PUSH_VLAN,
  ACTION_SET,
  ACTION_TNL_POP,
  ACTION_TNL_PUSH,
} from '#contract/actions.ts';
import {
  ETH_ARP,
  ETH_IPV4,
  ETH_IPV6,
  ETH_RARP,
  ETH_VLAN,
  KEY_WORDS,
  VLAN_PRESENT,
  W_TYPE,
  W_VLAN,
  W_VLAN_INNER,
} from '#contract/flow-key.ts';
import { formatIpv4, formatIpv6, formatMac, formatTcpFlags } from './field-format.ts';
import { fragWords } from './field-parse.ts';
import { fieldOf } from './fields.ts';
import { OF_KEY_WORDS, readField } from './key.ts';
import { formatPush, formatTunnel } from './odp-tunnel.ts';
import { hex } from './text.ts';

/** Key and mask of a megaflow, KEY_WORDS each. */
export interface OdpFlow {
  readonly key: Uint32Array;
  readonly mask: Uint32Array;
}

export interface OdpOptions {
  /** Name of a datapath port, to be printed instead of its number. */
  readonly portName?: (port: number) => string | undefined;
}

type Row = { readonly value: Uint32Array; readonly mask: Uint32Array };

/** How one member of a group (`ipv4(src=…)`) is printed. */
interface Member {
  readonly label: string;
  readonly field: string;
  readonly style: 'mac' | 'ipv4' | 'ipv6' | 'decimal' | 'hex' | 'frag';
}

const member = (label: string, field: string, style: Member['style']): Member => ({ label, field, style });

const ETH = [member('src', 'eth_src', 'mac'), member('dst', 'eth_dst', 'mac')];
const IPV4 = [
  member('src', 'ip_src', 'ipv4'),
  member('dst', 'ip_dst', 'ipv4'),
  member('proto', 'nw_proto', 'decimal'),
  member('tos', 'nw_tos', 'hex'),
  member('ttl', 'nw_ttl', 'decimal'),
  member('frag', 'ip_frag', 'frag'),
];
const IPV6 = [
  member('src', 'ipv6_src', 'ipv6'),
  member('dst', 'ipv6_dst', 'ipv6'),
  member('label', 'ipv6_label', 'hex'),
  member('proto', 'nw_proto', 'decimal'),
  member('tclass', 'nw_tos', 'hex'),
  member('hlimit', 'nw_ttl', 'decimal'),
  member('frag', 'ip_frag', 'frag'),
];
const ARP = [
  member('sip', 'arp_spa', 'ipv4'),
  member('tip', 'arp_tpa', 'ipv4'),
  member('op', 'arp_op', 'decimal'),
  member('sha', 'arp_sha', 'mac'),
  member('tha', 'arp_tha', 'mac'),
];
const PORTS = [member('src', 'tcp_src', 'decimal'), member('dst', 'tcp_dst', 'decimal')];
const ICMP = [member('type', 'icmp_type', 'decimal'), member('code', 'icmp_code', 'decimal')];
const ND = [member('target', 'nd_target', 'ipv6'), member('sll', 'nd_sll', 'mac'), member('tll', 'nd_tll', 'mac')];

const formats: Readonly<Record<Member['style'], (value: bigint) => string>> = {
  mac: formatMac,
  ipv4: formatIpv4,
  ipv6: formatIpv6,
  decimal: String,
  hex,
  frag: String,
};

function formatMember({ label, field, style }: Member, row: Row): string | undefined {
  const { bits } = fieldOf(field);
  const mask = readField(row.mask, fieldOf(field));
  if (mask === 0n) return undefined;
  const value = readField(row.value, fieldOf(field));
  if (style === 'frag')
    return `${label}=${fragWords.find(([, v, m]) => v === value && m === mask)?.[0] ?? `${hex(value)}/${hex(mask)}`}`;
  const format = formats[style];
  const whole = mask === (1n << BigInt(bits)) - 1n;
  return `${label}=${format(value)}${whole ? '' : `/${style === 'decimal' ? hex(mask) : format(mask)}`}`;
}

/** `name(member=…,member=…)`, or nothing when no member is masked. */
function formatGroup(name: string, members: readonly Member[], row: Row): string[] {
  const parts = members.map((one) => formatMember(one, row)).filter((text) => text !== undefined);
  return parts.length === 0 ? [] : [`${name}(${parts.join(',')})`];
}

const row = (value: Uint32Array, mask: Uint32Array): Row => ({ value: wide(value), mask: wide(mask) });

/** A datapath row with room for the fields of OpenFlow. */
function wide(words: Uint32Array): Uint32Array {
  const all = new Uint32Array(OF_KEY_WORDS);
  all.set(words);
  return all;
}

/** `recirc_id(0),in_port(1),packet_type(ns=0,id=0),eth(…),eth_type(0x0800),ipv4(…)` */
export function formatOdpKey(flow: OdpFlow, options: OdpOptions = {}): string {
  const { key, mask } = flow;
  const fields = row(key, mask);
  const head = [
    `recirc_id(${hex(key[1]!)})`,
    ...formatTunnel(fields.value, fields.mask),
    `in_port(${portText(key[0]!, options)})`,
    'packet_type(ns=0,id=0)',
  ];
  const outer = formatGroup('eth', ETH, fields);
  return [...head, ...outer, ...formatTags(key, mask, formatPayload(fields))].join(',');
}

const portText = (port: number, { portName }: OdpOptions): string => portName?.(port) ?? String(port);

function formatTags(key: Uint32Array, mask: Uint32Array, payload: readonly string[]): string[] {
  const inner = formatTag(key[W_VLAN_INNER]!, mask[W_VLAN_INNER]!, payload);
  return formatTag(key[W_VLAN]!, mask[W_VLAN]!, inner);
}

function formatTag(word: number, mask: number, payload: readonly string[]): string[] {
  if ((word & mask & VLAN_PRESENT) === 0) return [...payload];
  const parts: string[] = [];
  const vid = mask & 0xfff;
  const pcp = (mask >>> 13) & 7;
  if (vid) parts.push(`vid=${word & vid}${vid === 0xfff ? '' : `/${hex(vid)}`}`);
  if (pcp) parts.push(`pcp=${(word >>> 13) & pcp}${pcp === 7 ? '' : `/${hex(pcp)}`}`);
  return [
    `eth_type(${fourHex(word >>> 16 || ETH_VLAN)})`,
    `vlan(${parts.join(',')})`,
    ...(payload.length ? [`encap(${payload.join(',')})`] : []),
  ];
}

const fourHex = (value: number): string => `0x${value.toString(16).padStart(4, '0')}`;

/** eth_type and all that depends on it. */
function formatPayload(fields: Row): string[] {
  const typeMask = fields.mask[W_TYPE]! >>> 16;
  if (typeMask === 0) return [];
  const type = fields.value[W_TYPE]! >>> 16;
  const protocol = (fields.value[W_TYPE]! >>> 8) & (fields.mask[W_TYPE]! >>> 8) & 0xff;
  const parts = [`eth_type(${fourHex(type)}${typeMask === 0xffff ? '' : `/${fourHex(typeMask)}`})`];
  if (type === ETH_IPV4) parts.push(...formatGroup('ipv4', IPV4, fields));
  else if (type === ETH_IPV6) parts.push(...formatGroup('ipv6', IPV6, fields));
  else if (type === ETH_ARP || type === ETH_RARP) parts.push(...formatGroup('arp', ARP, fields));
  if (type === ETH_IPV4 || type === ETH_IPV6) parts.push(...formatTransport(type, protocol, fields));
  return parts;
}

function formatTransport(type: number, protocol: number, fields: Row): string[] {
  const name = transportName(type, protocol);
  if (name === undefined) return [];
  if (name === 'icmp') return formatGroup(name, ICMP, fields);
  if (name === 'icmpv6') return [...formatGroup(name, ICMP, fields), ...formatGroup('nd', ND, fields)];
  const parts = formatGroup(name, PORTS, fields);
  if (name !== 'tcp') return parts;
  const flags = fieldOf('tcp_flags');
  const mask = readField(fields.mask, flags);
  if (mask) parts.push(`tcp_flags(${formatTcpFlags(readField(fields.value, flags), mask, flags.fullMask)})`);
  return parts;
}

function transportName(type: number, protocol: number): string | undefined {
  if (protocol === 6) return 'tcp';
  if (protocol === 17) return 'udp';
  if (protocol === 132) return 'sctp';
  if (protocol === 1 && type === ETH_IPV4) return 'icmp';
  return protocol === 58 && type === ETH_IPV6 ? 'icmpv6' : undefined;
}

/**
 * Datapath actions of a megaflow: `set(eth(dst=…)),push_vlan(vid=5,pcp=0),2`, or `drop`.
 * The flow says which protocol the words of a set belong to.
 */
export function formatOdpActions(program: ArrayLike<number>, flow: OdpFlow, options: OdpOptions = {}): string {
  const out: string[] = [];
  let sets = row(new Uint32Array(KEY_WORDS), new Uint32Array(KEY_WORDS));
  const flush = (): void => {
    out.push(...formatSets(sets, flow));
    sets = row(new Uint32Array(KEY_WORDS), new Uint32Array(KEY_WORDS));
  };
  for (let at = 0; at < program.length; ) {
    const op = program[at]! >>> 16;
    const size = program[at]! & 0xffff;
    const operand = program[at + 1]!;
    if (op === ACTION_SET) {
      const mask = program[at + 3]!;
      sets.value[operand] = ((sets.value[operand]! & ~mask) | program[at + 2]!) >>> 0;
      sets.mask[operand] = (sets.mask[operand]! | mask) >>> 0;
    } else if (op === ACTION_CLONE) {
      flush();
      const part = Array.prototype.slice.call(program, at + 2, at + 2 + operand) as number[];
      const text = formatOdpActions(part, flow, options);
      at += operand;
      // The last part needs no copy, and is told without.
      out.push(at + size < program.length ? `clone(${text})` : text);
    } else if (op === ACTION_TNL_PUSH) {
      flush();
      out.push(formatPush(program, at, (port) => portText(port, options)));
    } else {
      flush();
      out.push(formatOdpAction(op, operand, options));
    }
    at += size || program.length;
  }
  flush();
  return out.join(',') || 'drop';
}

function formatOdpAction(op: number, operand: number, options: OdpOptions): string {
  switch (op) {
    case ACTION_OUTPUT:
      return portText(operand, options);
    case ACTION_DROP:
      return 'drop';
    case ACTION_PUSH_VLAN: {
      const tpid = operand >>> 16;
      return `push_vlan(${tpid === ETH_VLAN ? '' : `tpid=${fourHex(tpid)},`}vid=${operand & 0xfff},pcp=${(operand >>> 13) & 7})`;
    }
    case ACTION_POP_VLAN:
      return 'pop_vlan';
    case ACTION_DEC_TTL:
      return 'dec_ttl';
    case ACTION_TNL_POP:
      return `tnl_pop(${portText(operand, options)})`;
    default:
      return `unknown(${op})`;
  }
}

function formatSets(sets: Row, flow: OdpFlow): string[] {
  const type = flow.key[W_TYPE]! >>> 16;
  const protocol = (flow.key[W_TYPE]! >>> 8) & 0xff;
  const groups = formatGroup('eth', ETH, sets);
  const tag = sets.mask[W_VLAN]! & 0xffff;
  if (tag)
    groups.push(
      `vlan(vid=${sets.value[W_VLAN]! & 0xfff}/${hex(tag & 0xfff)},pcp=${(sets.value[W_VLAN]! >>> 13) & 7}/${hex(tag >>> 13)})`,
    );
  if (type === ETH_IPV4) groups.push(...formatGroup('ipv4', IPV4, sets));
  else if (type === ETH_IPV6) groups.push(...formatGroup('ipv6', IPV6, sets));
  else if (type === ETH_ARP || type === ETH_RARP) groups.push(...formatGroup('arp', ARP, sets));
  if (type === ETH_IPV4 || type === ETH_IPV6) groups.push(...formatTransport(type, protocol, sets));
  return groups.map((group) => `set(${group})`);
}
