/**
 * Reads a datapath flow key, `in_port(1),eth(src=…,dst=…),eth_type(0x0800),ipv4(…)`, as dpctl/dump-flows prints it, into the
 * words of ovs-ofctl. Masks are dropped: what is meant is one packet.
 */
import { RequestError } from './api.ts';
import { clip } from './text.ts';

/** Group and member of a datapath key → match field; an empty name is read over. */
const fields: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  eth: { src: 'dl_src', dst: 'dl_dst' },
  vlan: { vid: 'dl_vlan', pcp: 'dl_vlan_pcp', cfi: '' },
  ipv4: { src: 'nw_src', dst: 'nw_dst', proto: 'nw_proto', tos: 'nw_tos', ttl: 'nw_ttl', frag: 'nw_frag' },
  ipv6: {
    src: 'ipv6_src',
    dst: 'ipv6_dst',
    label: 'ipv6_label',
    proto: 'nw_proto',
    tclass: 'nw_tos',
    hlimit: 'nw_ttl',
    frag: 'nw_frag',
  },
  arp: { sip: 'arp_spa', tip: 'arp_tpa', op: 'arp_op', sha: 'arp_sha', tha: 'arp_tha' },
  tcp: { src: 'tcp_src', dst: 'tcp_dst' },
  udp: { src: 'udp_src', dst: 'udp_dst' },
  sctp: { src: 'sctp_src', dst: 'sctp_dst' },
  icmp: { type: 'icmp_type', code: 'icmp_code' },
  icmpv6: { type: 'icmpv6_type', code: 'icmpv6_code' },
  nd: { target: 'nd_target', sll: 'nd_sll', tll: 'nd_tll' },
};
const IGNORED = new Set([
  'recirc_id',
  'packet_type',
  'skb_priority',
  'skb_mark',
  'dp_hash',
  'tcp_flags',
  'ct_state',
  'ct_zone',
  'ct_mark',
  'ct_label',
]);

export const isOdpKey = (text: string): boolean => /^\s*\w+\(/.test(text);

/**
 * @param ofportOf OpenFlow number of a datapath port of the bridge, by number or name.
 * @returns a match in ovs-ofctl syntax. @throws RequestError.
 */
export function odpToMatch(text: string, ofportOf: (port: string) => number | undefined): string {
  const terms: string[] = [];
  let type = '';
  const read = (part: string): void => {
    for (const [, name = '', value = ''] of part.matchAll(
      /(\w+)\(((?:[^()]|\([^()]*\)|\((?:[^()]|\([^()]*\))*\))*)\)/g,
    )) {
      if (name === 'in_port') {
        const port = ofportOf(value);
        if (port === undefined)
          throw new RequestError('no_such_port', `no datapath port ${clip(value)} on this bridge`, {
            field: 'in_port',
            status: 404,
          });
        terms.push(`in_port=${port}`);
      } else if (name === 'eth_type') type = value.split('/')[0]!;
      else if (name === 'encap') read(value);
      else if (fields[name] !== undefined) readMembers(name, value, terms);
      else if (!IGNORED.has(name))
        throw new RequestError('bad_syntax', `unknown part ${clip(name)} of a datapath key`, { field: name });
    }
  };
  read(text);
  if (type !== '') terms.push(`dl_type=${type}`);
  return terms.join(',');
}

function readMembers(name: string, value: string, terms: string[]): void {
  for (const member of value.split(',').filter(Boolean)) {
    const [key = '', text = ''] = member.split('=');
    const field = fields[name]![key];
    if (field === undefined)
      throw new RequestError('bad_syntax', `unknown member ${clip(key)} of ${name}`, { field: name });
    if (field === 'nw_tos')
      terms.push(`nw_tos=${Number(text.split('/')[0]) & 0xfc}`, `nw_ecn=${Number(text.split('/')[0]) & 3}`);
    else if (field !== '') terms.push(`${field}=${text.split('/')[0]}`);
  }
}
