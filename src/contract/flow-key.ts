/**
 * The datapath flow key: one row of 32-bit words that names everything a megaflow can match on.
 *
 * Every word holds its fields as numbers in host order (a /24 of `nw_dst` is the mask 0xffffff00 on NW_DST), so that a
 * mask, a prefix and a hash are plain integer work. A field that a packet does not have is 0, as in ovs-fields(7).
 * The row is written by the packet parser (data plane) and by the translator (control plane); both use this page only.
 *
 * | word | bits 31..0 |
 * |---|---|
 * | 0 | in_port: datapath port number |
 * | 1 | recirc_id |
 * | 2 | dl_dst bytes 0-3 |
 * | 3 | dl_dst bytes 4-5, dl_src bytes 0-1 |
 * | 4 | dl_src bytes 2-5 |
 * | 5 | outer VLAN: TPID 31..16, TCI 15..0 with bit 12 set when a tag is present; 0 without a tag |
 * | 6 | inner VLAN, the same |
 * | 7 | dl_type 31..16 (0x05ff for 802.3 frames without one), nw_proto or ARP opcode 15..8, nw_frag 7..0 |
 * | 8 | nw_src, arp_spa, or the last 4 bytes of ipv6_src |
 * | 9 | nw_dst, arp_tpa, or the last 4 bytes of ipv6_dst |
 * | 10 | tp_src 31..16, tp_dst 15..0; for ICMP the type and the code |
 * | 11 | nw_tos 31..24 (the whole byte: DSCP and ECN), nw_ttl 23..16, tcp_flags 11..0 |
 * | 12-14 | ipv6_src bytes 0-11 |
 * | 15-17 | ipv6_dst bytes 0-11 |
 * | 18 | ipv6_label 19..0 |
 * | 19-22 | nd_target |
 * | 23 | arp_sha or nd_sll bytes 0-3 |
 * | 24 | the same bytes 4-5, arp_tha or nd_tll bytes 0-1 |
 * | 25 | arp_tha or nd_tll bytes 2-5 |
 * | 26-31 | 0; kept for connection tracking |
 * | 32-33 | tun_id, high and low |
 * | 34 | tun_src |
 * | 35 | tun_dst |
 * | 36-39 | tun_ipv6_src |
 * | 40-43 | tun_ipv6_dst |
 * | 44 | tun_tos 31..24, tun_ttl 23..16, tun_flags 15..0 (TUN_*) |
 * | 45 | UDP ports of the tunnel: tun_tp_src 31..16, tun_tp_dst 15..0 |
 * | 46-47 | 0 |
 *
 * Words from W_TUNNEL on are written for packets that came out of a tunnel, whose in_port is a tunnel port; for others they
 * are no part of the key, and no mask of a megaflow covers them.
 */
export const KEY_WORDS = 48;

export const W_IN_PORT = 0;
export const W_RECIRC_ID = 1;
export const W_DL_DST = 2;
export const W_DL_MIX = 3;
export const W_DL_SRC = 4;
export const W_VLAN = 5;
export const W_VLAN_INNER = 6;
export const W_TYPE = 7;
export const W_NW_SRC = 8;
export const W_NW_DST = 9;
export const W_TP = 10;
export const W_NW_MISC = 11;
export const W_IPV6_SRC = 12;
export const W_IPV6_DST = 15;
export const W_IPV6_LABEL = 18;
export const W_ND_TARGET = 19;
export const W_SHA = 23;
export const W_SHA_THA = 24;
export const W_THA = 25;

/** First word of the tunnel a packet came by. */
export const W_TUNNEL = 32;
export const W_TUN_ID = 32;
export const W_TUN_SRC = 34;
export const W_TUN_DST = 35;
export const W_TUN_IPV6_SRC = 36;
export const W_TUN_IPV6_DST = 40;
export const W_TUN_MISC = 44;
export const W_TUN_TP = 45;

/** tun_flags (bit 0 as ovs-fields(7); the others as Open vSwitch keeps them): OAM, don't fragment, checksum, key present. */
export const TUN_OAM = 1;
export const TUN_DF = 2;
export const TUN_CSUM = 4;
export const TUN_KEY = 8;

/** Words 0..11: all that an IPv4 or a non-IP packet other than ARP fills. */
export const KEY_WORDS_SHORT = 12;

/** Set in the VLAN words when a tag is present (the CFI bit, as Open vSwitch uses it: ovs-fields(7), vlan_tci). */
export const VLAN_PRESENT = 0x1000;

/** `nw_frag` bits: a fragment of any kind, and one that is not the first (ovs-fields(7), ip_frag). */
export const FRAG_ANY = 1;
export const FRAG_LATER = 2;

/** `dl_type` of an 802.3 frame that carries none (OpenFlow: OFP_DL_TYPE_NOT_ETH_TYPE). */
export const DL_TYPE_NONE = 0x05ff;

export const ETH_IPV4 = 0x0800;
export const ETH_ARP = 0x0806;
export const ETH_RARP = 0x8035;
export const ETH_VLAN = 0x8100;
export const ETH_QINQ = 0x88a8;
export const ETH_IPV6 = 0x86dd;
export const ETH_MPLS = 0x8847;
export const ETH_MPLS_MCAST = 0x8848;

export const IPPROTO_ICMP = 1;
export const IPPROTO_IGMP = 2;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_ICMPV6 = 58;
export const IPPROTO_SCTP = 132;
