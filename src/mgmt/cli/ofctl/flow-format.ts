/** Orders flows as ovs-ofctl dump-flows --sort does. */
import type { FlowLineParts } from '#contract/flow-line.ts';

/** A Flow message of the API. */
export type FlowMessage = FlowLineParts;

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
