// hot
/**
 * Frames that the network helpers read and write in place, byte by byte in port memory: Ethernet II (RFC 894), ARP (RFC
 * 826), IPv4 (RFC 791), ICMP echo (RFC 792), UDP (RFC 768).
 */
export const ETH_BYTES = 14;
export const ARP_FRAME = 42;
export const IPV4_AT = 14;
export const L4_AT = 34;
export const UDP_PAYLOAD_AT = 42;
export const ICMP_PAYLOAD_AT = 42;
const TYPE_IPV4 = 0x0800;
const TYPE_ARP = 0x0806;
const PROTO_ICMP = 1;
const PROTO_UDP = 17;

/** What a frame is to the helpers. */
export const KIND_OTHER = 0;
export const KIND_ARP_REQUEST = 1;
export const KIND_ARP_REPLY = 2;
export const KIND_ECHO_REQUEST = 3;
export const KIND_ECHO_REPLY = 4;
export const KIND_UDP = 5;

export const get16 = (u8: Uint8Array, at: number): number => (u8[at]! << 8) | u8[at + 1]!;
export const get32 = (u8: Uint8Array, at: number): number =>
  ((u8[at]! << 24) | (u8[at + 1]! << 16) | (u8[at + 2]! << 8) | u8[at + 3]!) >>> 0;
export const put16 = (u8: Uint8Array, at: number, value: number): void => {
  u8[at] = value >>> 8;
  u8[at + 1] = value;
};
export const put32 = (u8: Uint8Array, at: number, value: number): void => {
  u8[at] = value >>> 24;
  u8[at + 1] = value >>> 16;
  u8[at + 2] = value >>> 8;
  u8[at + 3] = value;
};

/** Internet checksum (RFC 1071) of `length` bytes plus `start`; 0 over a range that holds a right one. */
export const checksum = (u8: Uint8Array, at: number, length: number, start: number): number => {
  let sum = start;
  const even = at + (length & ~1);
  for (let i = at; i < even; i += 2) sum += (u8[i]! << 8) | u8[i + 1]!;
  if (length & 1) sum += u8[even]! << 8;
  sum = (sum & 0xffff) + (sum >>> 16);
  sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
};

/** Sum of the pseudo header of a UDP datagram in the frame at `at`. */
const udpPseudo = (u8: Uint8Array, at: number, length: number): number =>
  get16(u8, at + 26) + get16(u8, at + 28) + get16(u8, at + 30) + get16(u8, at + 32) + PROTO_UDP + length;

/** Says what the frame is; anything but untagged ARP, option-free and unfragmented IPv4 is KIND_OTHER. */
export const kindOf = (u8: Uint8Array, at: number, length: number): number => {
  if (length < ARP_FRAME) return KIND_OTHER;
  const type = get16(u8, at + 12);
  if (type === TYPE_ARP) {
    const op = get16(u8, at + 20);
    return op === 1 ? KIND_ARP_REQUEST : op === 2 ? KIND_ARP_REPLY : KIND_OTHER;
  }
  if (type !== TYPE_IPV4 || u8[at + IPV4_AT] !== 0x45 || (get16(u8, at + 20) & 0x3fff) !== 0) return KIND_OTHER;
  const protocol = u8[at + 23]!;
  if (protocol === PROTO_UDP) return KIND_UDP;
  if (protocol !== PROTO_ICMP) return KIND_OTHER;
  const icmp = u8[at + L4_AT]!;
  return icmp === 8 ? KIND_ECHO_REQUEST : icmp === 0 ? KIND_ECHO_REPLY : KIND_OTHER;
};

const putMac = (u8: Uint8Array, at: number, mac: Uint8Array): void => {
  for (let i = 0; i < 6; i++) u8[at + i] = mac[i]!;
};

/** Writes an ARP message. `tha` of a request may be all zero; it is sent to everybody. @returns its bytes, padded to 60. */
export const writeArp = (
  u8: Uint8Array,
  at: number,
  op: number,
  sha: Uint8Array,
  spa: number,
  tha: Uint8Array,
  tpa: number,
): number => {
  for (let i = 0; i < 6; i++) u8[at + i] = op === 1 ? 0xff : tha[i]!;
  putMac(u8, at + 6, sha);
  put16(u8, at + 12, TYPE_ARP);
  put16(u8, at + 14, 1);
  put16(u8, at + 16, TYPE_IPV4);
  put16(u8, at + 18, 0x0604);
  put16(u8, at + 20, op);
  putMac(u8, at + 22, sha);
  put32(u8, at + 28, spa);
  putMac(u8, at + 32, tha);
  put32(u8, at + 38, tpa);
  for (let i = ARP_FRAME; i < 60; i++) u8[at + i] = 0;
  return 60;
};

const writeIpv4 = (
  u8: Uint8Array,
  at: number,
  src: Uint8Array,
  dst: Uint8Array,
  from: number,
  to: number,
  protocol: number,
  length: number,
): void => {
  putMac(u8, at, dst);
  putMac(u8, at + 6, src);
  put16(u8, at + 12, TYPE_IPV4);
  put16(u8, at + 14, 0x4500);
  put16(u8, at + 16, length - ETH_BYTES);
  put32(u8, at + 18, 0x4000);
  put16(u8, at + 22, 0x4000 | protocol);
  put16(u8, at + 24, 0);
  put32(u8, at + 26, from);
  put32(u8, at + 30, to);
  put16(u8, at + 24, checksum(u8, at + IPV4_AT, 20, 0));
};

/** Writes an ICMP echo request around the payload that stands at ICMP_PAYLOAD_AT. @param length of the frame. */
export const writeEcho = (
  u8: Uint8Array,
  at: number,
  src: Uint8Array,
  dst: Uint8Array,
  from: number,
  to: number,
  id: number,
  sequence: number,
  length: number,
): void => {
  writeIpv4(u8, at, src, dst, from, to, PROTO_ICMP, length);
  put32(u8, at + L4_AT, 0x08000000);
  put16(u8, at + L4_AT + 4, id);
  put16(u8, at + L4_AT + 6, sequence);
  put16(u8, at + L4_AT + 2, checksum(u8, at + L4_AT, length - L4_AT, 0));
};

/**
 * Turns an echo request into its reply, in place. @returns false when its checksum or length is wrong. The checksum follows
 * by the difference of the type (RFC 1624).
 */
export const turnEcho = (u8: Uint8Array, at: number, length: number): boolean => {
  const bytes = get16(u8, at + 16) - 20;
  if (bytes < 8 || L4_AT + bytes > length || checksum(u8, at + L4_AT, bytes, 0) !== 0) return false;
  for (let i = 0; i < 6; i++) {
    const byte = u8[at + i]!;
    u8[at + i] = u8[at + 6 + i]!;
    u8[at + 6 + i] = byte;
  }
  const from = get32(u8, at + 26);
  put32(u8, at + 26, get32(u8, at + 30));
  put32(u8, at + 30, from);
  u8[at + L4_AT] = 0;
  const sum = get16(u8, at + L4_AT + 2) + 0x0800;
  put16(u8, at + L4_AT + 2, (sum & 0xffff) + (sum >>> 16));
  return true;
};

/** Writes a UDP datagram around the payload that stands at UDP_PAYLOAD_AT. @param length of the frame. */
export const writeUdp = (
  u8: Uint8Array,
  at: number,
  src: Uint8Array,
  dst: Uint8Array,
  from: number,
  to: number,
  sport: number,
  dport: number,
  length: number,
): void => {
  writeIpv4(u8, at, src, dst, from, to, PROTO_UDP, length);
  put16(u8, at + L4_AT, sport);
  put16(u8, at + L4_AT + 2, dport);
  put16(u8, at + L4_AT + 4, length - L4_AT);
  put16(u8, at + L4_AT + 6, 0);
  const sum = checksum(u8, at + L4_AT, length - L4_AT, udpPseudo(u8, at, length - L4_AT));
  put16(u8, at + L4_AT + 6, sum === 0 ? 0xffff : sum);
};
