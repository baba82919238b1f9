/** Flows as ovs-ofctl dump-flows prints them. */
import type { OfVersion } from './protocol.ts';

/** A Flow message of the API. */
export interface FlowMessage {
  readonly table: number;
  readonly priority: number;
  readonly cookie: string;
  readonly duration: number;
  readonly idleTimeout: number;
  readonly hardTimeout: number;
  readonly importance: number;
  readonly flags: readonly string[];
  readonly packets: number;
  readonly bytes: number;
  readonly idleAge: number;
  readonly hardAge: number;
  readonly match: string;
  readonly actions: string;
}

export interface FlowFormat {
  readonly version: OfVersion;
  readonly stats: boolean;
  /** A plain dump: with the ages and flags that its protocol version has. */
  readonly plain: boolean;
}

const DEFAULT_PRIORITY = 32_768;

/** One line without its end: ` cookie=0x0, duration=…, priority=5,ip actions=output:1`. */
export function formatFlow(flow: FlowMessage, { version, stats, plain }: FlowFormat): string {
  let out = ' ';
  if (stats || flow.cookie !== '0x0') out += `cookie=${flow.cookie}, `;
  if (stats) out += `duration=${flow.duration.toFixed(3)}s, `;
  if (stats || flow.table !== 0) out += `table=${flow.table}, `;
  if (stats) out += `n_packets=${flow.packets}, n_bytes=${flow.bytes}, `;
  if (flow.idleTimeout) out += `idle_timeout=${flow.idleTimeout}, `;
  if (flow.hardTimeout) out += `hard_timeout=${flow.hardTimeout}, `;
  if (flow.importance) out += `importance=${flow.importance}, `;
  const nicira = plain && version.number === 1;
  if (nicira) {
    out += `idle_age=${Math.floor(flow.idleAge)}, `;
    if (Math.floor(flow.hardAge) !== Math.floor(flow.duration)) out += `hard_age=${Math.floor(flow.hardAge)}, `;
  } else if (plain) {
    for (const flag of flow.flags) out += `${flag} `;
  }
  const priority = flow.priority === DEFAULT_PRIORITY ? '' : `priority=${flow.priority}`;
  const match = priority && flow.match ? `${priority},${flow.match}` : priority + flow.match;
  return `${out}${match}${match ? ' ' : ''}actions=${flow.actions}`;
}

/** Match fields that dump-flows can sort by, beside priority. */
const FIELDS = new Set(
  (
    'priority in_port dl_src dl_dst dl_type dl_vlan dl_vlan_pcp vlan_tci nw_src nw_dst nw_proto nw_tos nw_ecn nw_ttl ' +
    'tp_src tp_dst tcp_flags icmp_type icmp_code arp_op arp_spa arp_tpa arp_sha arp_tha ipv6_src ipv6_dst ipv6_label ' +
    'nd_target nd_sll nd_tll metadata tun_id pkt_mark eth_src eth_dst eth_type ip_src ip_dst tcp_src tcp_dst udp_src udp_dst'
  ).split(' '),
);
const ALIASES: Readonly<Record<string, string>> = {
  eth_src: 'dl_src',
  eth_dst: 'dl_dst',
  eth_type: 'dl_type',
  ip_src: 'nw_src',
  ip_dst: 'nw_dst',
  tcp_src: 'tp_src',
  udp_src: 'tp_src',
  tcp_dst: 'tp_dst',
  udp_dst: 'tp_dst',
};

export const isSortField = (name: string): boolean => FIELDS.has(name) || /^reg(\d|1[0-5])$/.test(name);

/** Sorts in place; flows without the field come last, also in reverse. */
export function sortFlows(flows: FlowMessage[], field: string, reverse: boolean): void {
  const name = ALIASES[field] ?? field;
  const keyOf = (flow: FlowMessage): number[] | undefined => {
    if (name === 'priority') return [flow.priority];
    const value = new RegExp(`(?:^|,)${name}=([^,/]+)`).exec(flow.match)?.[1];
    return value === undefined ? undefined : numbers(value);
  };
  const keys = new Map(flows.map((flow) => [flow, keyOf(flow)] as const));
  flows.sort((a, b) => {
    const x = keys.get(a);
    const y = keys.get(b);
    if (!x || !y) return x ? -1 : y ? 1 : b.priority - a.priority;
    const order = compare(x, y);
    return reverse ? -order : order;
  });
}

/** Numbers of a value in their order: parts of an address, or one number. */
function numbers(value: string): number[] {
  if (value === 'LOCAL') return [65534];
  if (/^0x/i.test(value) || /^\d+$/.test(value)) return [Number(value)];
  const base = value.includes(':') ? 16 : 10;
  return value.split(/[.:]/).map((part) => Number.parseInt(part || '0', base));
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let at = 0; at < Math.max(a.length, b.length); at++) {
    const order = (a[at] ?? 0) - (b[at] ?? 0);
    if (order !== 0) return order;
  }
  return 0;
}
