/**
 * The one table of match fields: names of ovs-fields(7), OXM/NXM numbers, widths, masks, prerequisites, where each field
 * lies in the OpenFlow key (key.ts), and how it is written. Parser, printer, actions, the OpenFlow codec, the API schema
 * and the documentation read this table.
 *
 * Fields that lie on the same bits (nw_src and arp_spa, tcp_src and udp_src) differ in prerequisite and name only.
 */

/** Some bits of one key word: `(row[word] >>> shift) & (2 ** bits - 1)`. */
export interface Piece {
  readonly word: number;
  readonly shift: number;
  readonly bits: number;
}

/** An OXM or NXM header without length and mask flag; `experimenter` is 0 unless the class is 0xffff. */
export interface OxmHeader {
  readonly name: string;
  readonly oxmClass: number;
  readonly number: number;
  readonly experimenter: number;
}

export type FieldFormat = 'decimal' | 'hex' | 'mac' | 'ipv4' | 'ipv6' | 'port' | 'frag' | 'tcp_flags' | 'tunnel_flags';

export type PrerequisiteName =
  | 'none'
  | 'vlan'
  | 'ipv4'
  | 'ipv6'
  | 'ip'
  | 'arp'
  | 'tcp'
  | 'udp'
  | 'sctp'
  | 'icmp'
  | 'icmp6'
  | 'nd'
  | 'nd_solicit'
  | 'nd_advert';

export interface Field {
  /** Place in {@link fields}. */
  readonly index: number;
  readonly name: string;
  readonly aliases: readonly string[];
  /** Width of the value, as matched and set. */
  readonly bits: number;
  /**
   * Width that `field[a..b]` may address: less than `bits` for vlan_vid, whose bit 12 says "present"; more for arp_op and
   * port numbers, whose upper bits are always 0 in the key.
   */
  readonly subfieldBits: number;
  /** Bytes of the value in an OXM entry. */
  readonly bytes: number;
  /** Most significant first; their bits add up to `bits`. */
  readonly pieces: readonly Piece[];
  /** Ones where the value counts; only nw_tos leaves bits out (ECN). */
  readonly fullMask: bigint;
  readonly maskable: boolean;
  readonly prerequisite: PrerequisiteName;
  readonly writable: boolean;
  readonly format: FieldFormat;
  readonly nxm: OxmHeader | undefined;
  readonly oxm: OxmHeader | undefined;
}

const OXM_OPENFLOW_BASIC = 0x8000;
const OXM_PACKET_REGS = 0x8001;
const OXM_EXPERIMENTER = 0xffff;
const ONF_EXPERIMENTER = 0x4f4e4600;

const header = (name: string, oxmClass: number, number: number, experimenter = 0): OxmHeader => ({
  name,
  oxmClass,
  number,
  experimenter,
});
const nxmOf = (suffix: string, number: number) => header(`NXM_OF_${suffix}`, 0, number);
const nxmNx = (suffix: string, number: number) => header(`NXM_NX_${suffix}`, 1, number);
const oxmOf = (suffix: string, number: number) => header(`OXM_OF_${suffix}`, OXM_OPENFLOW_BASIC, number);
const onf = (suffix: string, number: number) =>
  header(`ONFOXM_ET_${suffix}`, OXM_EXPERIMENTER, number, ONF_EXPERIMENTER);

/** [word, shift, bits] */
type At = readonly [number, number, number];

interface Row {
  readonly aliases?: readonly string[];
  readonly at: readonly At[];
  readonly subfieldBits?: number;
  readonly bytes?: number;
  readonly fullMask?: bigint;
  readonly mask?: boolean;
  readonly needs?: PrerequisiteName;
  readonly readOnly?: boolean;
  readonly nxm?: OxmHeader;
  readonly oxm?: OxmHeader;
}

const rows: [string, FieldFormat, Row][] = [];
const add = (name: string, format: FieldFormat, row: Row) => rows.push([name, format, row]);

const word = (at: number): At => [at, 0, 32];
const IPV6_SRC: At[] = [word(12), word(13), word(14), word(8)];
const IPV6_DST: At[] = [word(15), word(16), word(17), word(9)];
const ND_TARGET: At[] = [word(19), word(20), word(21), word(22)];
const FIRST_MAC: At[] = [word(23), [24, 16, 16]];
const SECOND_MAC: At[] = [[24, 0, 16], word(25)];
const REG0 = 50;

// Metadata of the pipeline.
add('tun_id', 'hex', {
  aliases: ['tunnel_id'],
  at: [word(32), word(33)],
  mask: true,
  nxm: nxmNx('TUN_ID', 16),
  oxm: oxmOf('TUNNEL_ID', 38),
});
add('tun_src', 'ipv4', { at: [word(34)], mask: true, nxm: nxmNx('TUN_IPV4_SRC', 31) });
add('tun_dst', 'ipv4', { at: [word(35)], mask: true, nxm: nxmNx('TUN_IPV4_DST', 32) });
add('tun_ipv6_src', 'ipv6', {
  at: [word(36), word(37), word(38), word(39)],
  mask: true,
  nxm: nxmNx('TUN_IPV6_SRC', 109),
});
add('tun_ipv6_dst', 'ipv6', {
  at: [word(40), word(41), word(42), word(43)],
  mask: true,
  nxm: nxmNx('TUN_IPV6_DST', 110),
});
add('tun_tos', 'decimal', { at: [[44, 24, 8]], readOnly: true });
add('tun_ttl', 'decimal', { at: [[44, 16, 8]], readOnly: true });
add('tun_flags', 'tunnel_flags', { at: [[44, 0, 1]], bytes: 2, mask: true, nxm: nxmNx('TUN_FLAGS', 104) });
add('in_port', 'port', { at: [[0, 0, 16]], nxm: nxmOf('IN_PORT', 0) });
add('in_port_oxm', 'port', { at: [[0, 0, 16]], subfieldBits: 32, bytes: 4, oxm: oxmOf('IN_PORT', 0) });
add('pkt_mark', 'hex', { at: [word(66)], mask: true, nxm: nxmNx('PKT_MARK', 33) });
add('actset_output', 'port', {
  at: [[67, 0, 16]],
  subfieldBits: 32,
  bytes: 4,
  readOnly: true,
  oxm: onf('ACTSET_OUTPUT', 43),
});
add('metadata', 'hex', { at: [word(48), word(49)], mask: true, oxm: oxmOf('METADATA', 2) });
for (let n = 0; n < 16; n++) add(`reg${n}`, 'hex', { at: [word(REG0 + n)], mask: true, nxm: nxmNx(`REG${n}`, n) });
for (let n = 0; n < 8; n++) {
  add(`xreg${n}`, 'hex', {
    at: [word(REG0 + 2 * n), word(REG0 + 2 * n + 1)],
    mask: true,
    oxm: header(`OXM_OF_PKT_REG${n}`, OXM_PACKET_REGS, n),
  });
}
for (let n = 0; n < 4; n++) {
  const at = [0, 1, 2, 3].map((i) => word(REG0 + 4 * n + i));
  add(`xxreg${n}`, 'hex', { at, mask: true, nxm: nxmNx(`XXREG${n}`, 111 + n) });
}

// Ethernet and VLAN.
add('eth_src', 'mac', {
  aliases: ['dl_src'],
  at: [[3, 0, 16], word(4)],
  mask: true,
  nxm: nxmOf('ETH_SRC', 2),
  oxm: oxmOf('ETH_SRC', 4),
});
add('eth_dst', 'mac', {
  aliases: ['dl_dst'],
  at: [word(2), [3, 16, 16]],
  mask: true,
  nxm: nxmOf('ETH_DST', 1),
  oxm: oxmOf('ETH_DST', 3),
});
add('eth_type', 'hex', {
  aliases: ['dl_type'],
  at: [[7, 16, 16]],
  readOnly: true,
  nxm: nxmOf('ETH_TYPE', 3),
  oxm: oxmOf('ETH_TYPE', 5),
});
add('vlan_tci', 'hex', { at: [[5, 0, 16]], mask: true, nxm: nxmOf('VLAN_TCI', 4) });
add('dl_vlan', 'decimal', { at: [[5, 0, 12]], readOnly: true });
add('vlan_vid', 'decimal', {
  at: [[5, 0, 13]],
  subfieldBits: 12,
  mask: true,
  needs: 'vlan',
  oxm: oxmOf('VLAN_VID', 6),
});
add('dl_vlan_pcp', 'decimal', { at: [[5, 13, 3]], readOnly: true });
add('vlan_pcp', 'decimal', { at: [[5, 13, 3]], needs: 'vlan', oxm: oxmOf('VLAN_PCP', 7) });

// IP and ARP.
const address = (name: string, alias: string, at: number, needs: 'ipv4' | 'arp', nxm: OxmHeader, oxm: OxmHeader) =>
  add(name, 'ipv4', { aliases: alias ? [alias] : [], at: [word(at)], mask: true, needs, nxm, oxm });
address('ip_src', 'nw_src', 8, 'ipv4', nxmOf('IP_SRC', 7), oxmOf('IPV4_SRC', 11));
address('ip_dst', 'nw_dst', 9, 'ipv4', nxmOf('IP_DST', 8), oxmOf('IPV4_DST', 12));
add('ipv6_src', 'ipv6', {
  at: IPV6_SRC,
  mask: true,
  needs: 'ipv6',
  nxm: nxmNx('IPV6_SRC', 19),
  oxm: oxmOf('IPV6_SRC', 26),
});
add('ipv6_dst', 'ipv6', {
  at: IPV6_DST,
  mask: true,
  needs: 'ipv6',
  nxm: nxmNx('IPV6_DST', 20),
  oxm: oxmOf('IPV6_DST', 27),
});
add('ipv6_label', 'hex', {
  at: [[18, 0, 20]],
  bytes: 4,
  mask: true,
  needs: 'ipv6',
  nxm: nxmNx('IPV6_LABEL', 27),
  oxm: oxmOf('IPV6_FLABEL', 28),
});
add('nw_proto', 'decimal', {
  aliases: ['ip_proto'],
  at: [[7, 8, 8]],
  needs: 'ip',
  readOnly: true,
  nxm: nxmOf('IP_PROTO', 6),
  oxm: oxmOf('IP_PROTO', 10),
});
add('nw_ttl', 'decimal', { at: [[11, 16, 8]], needs: 'ip', nxm: nxmNx('IP_TTL', 29) });
add('ip_frag', 'frag', {
  aliases: ['nw_frag'],
  at: [[7, 0, 2]],
  mask: true,
  needs: 'ip',
  readOnly: true,
  nxm: nxmNx('IP_FRAG', 26),
});
add('nw_tos', 'decimal', { at: [[11, 24, 8]], fullMask: 0xfcn, needs: 'ip', nxm: nxmOf('IP_TOS', 5) });
add('ip_dscp', 'decimal', { at: [[11, 26, 6]], needs: 'ip', oxm: oxmOf('IP_DSCP', 8) });
add('nw_ecn', 'decimal', {
  aliases: ['ip_ecn'],
  at: [[11, 24, 2]],
  needs: 'ip',
  nxm: nxmNx('IP_ECN', 28),
  oxm: oxmOf('IP_ECN', 9),
});
add('arp_op', 'decimal', {
  at: [[7, 8, 8]],
  subfieldBits: 16,
  bytes: 2,
  needs: 'arp',
  nxm: nxmOf('ARP_OP', 15),
  oxm: oxmOf('ARP_OP', 21),
});
address('arp_spa', '', 8, 'arp', nxmOf('ARP_SPA', 16), oxmOf('ARP_SPA', 22));
address('arp_tpa', '', 9, 'arp', nxmOf('ARP_TPA', 17), oxmOf('ARP_TPA', 23));
add('arp_sha', 'mac', {
  at: FIRST_MAC,
  mask: true,
  needs: 'arp',
  nxm: nxmNx('ARP_SHA', 17),
  oxm: oxmOf('ARP_SHA', 24),
});
add('arp_tha', 'mac', {
  at: SECOND_MAC,
  mask: true,
  needs: 'arp',
  nxm: nxmNx('ARP_THA', 18),
  oxm: oxmOf('ARP_THA', 25),
});

// Transport.
const port = (name: string, shift: number, needs: 'tcp' | 'udp' | 'sctp', oxm: OxmHeader, nxm?: OxmHeader) =>
  add(name, 'decimal', { at: [[10, shift, 16]], mask: true, needs, oxm, ...(nxm ? { nxm } : {}) });
port('tcp_src', 16, 'tcp', oxmOf('TCP_SRC', 13), nxmOf('TCP_SRC', 9));
port('tcp_dst', 0, 'tcp', oxmOf('TCP_DST', 14), nxmOf('TCP_DST', 10));
port('udp_src', 16, 'udp', oxmOf('UDP_SRC', 15), nxmOf('UDP_SRC', 11));
port('udp_dst', 0, 'udp', oxmOf('UDP_DST', 16), nxmOf('UDP_DST', 12));
port('sctp_src', 16, 'sctp', oxmOf('SCTP_SRC', 17));
port('sctp_dst', 0, 'sctp', oxmOf('SCTP_DST', 18));
add('tcp_flags', 'tcp_flags', {
  at: [[11, 0, 12]],
  mask: true,
  needs: 'tcp',
  readOnly: true,
  nxm: nxmNx('TCP_FLAGS', 34),
  oxm: onf('TCP_FLAGS', 42),
});
add('icmp_type', 'decimal', {
  at: [[10, 16, 8]],
  needs: 'icmp',
  nxm: nxmOf('ICMP_TYPE', 13),
  oxm: oxmOf('ICMPV4_TYPE', 19),
});
add('icmp_code', 'decimal', {
  at: [[10, 0, 8]],
  needs: 'icmp',
  nxm: nxmOf('ICMP_CODE', 14),
  oxm: oxmOf('ICMPV4_CODE', 20),
});
add('icmpv6_type', 'decimal', {
  at: [[10, 16, 8]],
  needs: 'icmp6',
  nxm: nxmNx('ICMPV6_TYPE', 21),
  oxm: oxmOf('ICMPV6_TYPE', 29),
});
add('icmpv6_code', 'decimal', {
  at: [[10, 0, 8]],
  needs: 'icmp6',
  nxm: nxmNx('ICMPV6_CODE', 22),
  oxm: oxmOf('ICMPV6_CODE', 30),
});
add('nd_target', 'ipv6', {
  at: ND_TARGET,
  mask: true,
  needs: 'nd',
  nxm: nxmNx('ND_TARGET', 23),
  oxm: oxmOf('IPV6_ND_TARGET', 31),
});
add('nd_sll', 'mac', {
  at: FIRST_MAC,
  mask: true,
  needs: 'nd_solicit',
  nxm: nxmNx('ND_SLL', 24),
  oxm: oxmOf('IPV6_ND_SLL', 32),
});
add('nd_tll', 'mac', {
  at: SECOND_MAC,
  mask: true,
  needs: 'nd_advert',
  nxm: nxmNx('ND_TLL', 25),
  oxm: oxmOf('IPV6_ND_TLL', 33),
});

function build([name, format, row]: [string, FieldFormat, Row], index: number): Field {
  const pieces = row.at.map(([at, shift, bits]) => ({ word: at, shift, bits }));
  const bits = pieces.reduce((sum, piece) => sum + piece.bits, 0);
  return {
    index,
    name,
    aliases: row.aliases ?? [],
    bits,
    subfieldBits: row.subfieldBits ?? bits,
    bytes: row.bytes ?? Math.ceil(bits / 8),
    pieces,
    fullMask: row.fullMask ?? (1n << BigInt(bits)) - 1n,
    maskable: row.mask ?? false,
    prerequisite: row.needs ?? 'none',
    writable: !row.readOnly,
    format,
    nxm: row.nxm,
    oxm: row.oxm,
  };
}

export const fields: readonly Field[] = rows.map(build);

const byName = new Map<string, Field>();
const byHeaderName = new Map<string, Field>();
for (const field of fields) {
  for (const name of [field.name, ...field.aliases]) byName.set(name, field);
  if (field.nxm) byHeaderName.set(field.nxm.name, field);
  if (field.oxm) byHeaderName.set(field.oxm.name, field);
}

/** Field of a name or alias of ovs-fields(7), or undefined. `tp_src` and `tp_dst` depend on the match: see match-parse.ts. */
export const findField = (name: string): Field | undefined => byName.get(name);

/** Field of an OXM or NXM name (`NXM_OF_ETH_SRC`), or undefined. */
export const findHeader = (name: string): Field | undefined => byHeaderName.get(name);

/** Field that is known to be there. */
export function fieldOf(name: string): Field {
  const field = byName.get(name);
  if (!field) throw new Error(`no field ${name}`);
  return field;
}

/** The name under which actions address bits of a field: NXM where there is one, else OXM, else its own. */
export const headerName = (field: Field): string => field.nxm?.name ?? field.oxm?.name ?? field.name;

/** Names of ovs-fields(7) that are recognised and refused. */
export function isUnsupportedField(name: string): boolean {
  return unsupported.test(name);
}
const unsupported =
  /^(conj_id|skb_priority|recirc_id|dp_hash|packet_type|ct_(state|zone|mark|label|nw_(src|dst|proto)|ipv6_(src|dst)|tp_(src|dst))|tun_(gbp_id|gbp_flags|erspan_(ver|idx|dir|hwid)|gtpu_(flags|msgtype))|tun_metadata([0-9]|[1-5][0-9]|6[0-3])|mpls_(label|tc|bos|ttl)|nsh_(flags|ttl|mdtype|np|spi|si|c[1-4])|nsp|nsi|nshc[1-4]|nd_reserved|nd_options_type)$/;
