/**
 * Packets for tests, written out header by header, with correct lengths and checksums; and a naive verifier.
 *
 * `packet(eth({…}), vlan({…}), ipv4({…}), udp({…}), payload)`: each layer is a function that is given the bytes after it and
 * the layer before it, so that types, lengths and checksums fill themselves in unless a field is given. Nothing here is
 * shared with the product, which is what makes it an oracle. Addresses are text ('10.0.0.1', 'fd00::1', '02:00:…:01').
 */
import { isIPv6 } from 'node:net';

/** What a layer tells those around it. */
export interface Context {
  /** Ethernet type by which the layer below announces this one. */
  etherType?: number;
  /** IP protocol number by which IP announces this layer. */
  protocol?: number;
}

/** Addresses of the IP header around a transport layer, for the pseudo header. */
export interface IpAround {
  src: Uint8Array;
  dst: Uint8Array;
}

export interface Layer extends Context {
  /** Builds header and payload; `next` is the first layer inside, `around` the innermost IP header outside. */
  build(inside: Uint8Array, next: Context, around: IpAround | undefined): Uint8Array;
  /** Set by IP layers. */
  around?: IpAround;
}

// Addresses

export const mac = (text: string): Uint8Array => Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16));
export const ip4 = (text: string): Uint8Array => Uint8Array.from(text.split('.'), Number);

export function ip6(text: string): Uint8Array {
  if (!isIPv6(text)) throw new RangeError(`${text} is not an IPv6 address`);
  const words = (part: string): number[] => (part ? part.split(':').map((word) => Number.parseInt(word, 16)) : []);
  const [head, tail] = text.split('::');
  const left = words(head!);
  const right = tail === undefined ? [] : words(tail);
  const all = [...left, ...new Array(8 - left.length - right.length).fill(0), ...right];
  return Uint8Array.from(all.flatMap((word) => [word >> 8, word & 255]));
}

// Checksums (RFC 1071)

export function onesSum(bytes: Uint8Array, start = 0): number {
  let sum = start;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

export const checksum = (bytes: Uint8Array, start = 0): number => ~onesSum(bytes, start) & 0xffff;

/** Sum of the pseudo header of TCP, UDP (RFC 768, RFC 9293) and their IPv6 kin (RFC 8200 section 8.1). */
export const pseudoSum = (around: IpAround, protocol: number, length: number): number =>
  onesSum(concat(around.src, around.dst, u32(length), u32(protocol)));

const CRC32C = Uint32Array.from({ length: 256 }, (_, i) => {
  let c = i;
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  return c;
});

/** CRC32c, the checksum of SCTP (RFC 9260 appendix A). */
export function crc32c(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) c = CRC32C[(c ^ byte) & 255]! ^ (c >>> 8);
  return ~c >>> 0;
}

// Bytes

export const concat = (...parts: Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
export const u16 = (value: number): Uint8Array => Uint8Array.of(value >> 8, value);
export const u32 = (value: number): Uint8Array => Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
/** `length` bytes that depend on their place and on `seed`. */
export const filler = (length: number, seed = 0): Uint8Array => Uint8Array.from({ length }, (_, i) => i * 7 + seed);

const put16 = (bytes: Uint8Array, at: number, value: number): Uint8Array => {
  bytes[at] = value >> 8;
  bytes[at + 1] = value;
  return bytes;
};

/** Puts layers into each other; plain bytes are payload. Frames are not padded. */
export function packet(...parts: (Layer | Uint8Array)[]): Uint8Array {
  let bytes: Uint8Array = new Uint8Array(0);
  let next: Context = {};
  for (let i = parts.length - 1; i >= 0; i--) {
    const part = parts[i]!;
    if (part instanceof Uint8Array) {
      bytes = concat(part, bytes);
      continue;
    }
    const outside = parts.slice(0, i).findLast((other) => !(other instanceof Uint8Array) && other.around) as
      | Layer
      | undefined;
    bytes = part.build(bytes, next, outside?.around);
    next = part;
  }
  return bytes;
}

/** The frame with zero bytes behind it up to the least length of Ethernet without FCS. */
export const padded = (frame: Uint8Array, length = 60): Uint8Array =>
  frame.length >= length ? frame : concat(frame, new Uint8Array(length - frame.length));

// Link layer

export interface EthFields {
  src?: string;
  dst?: string;
  type?: number;
}

export const eth = ({ src = '02:00:00:00:00:01', dst = '02:00:00:00:00:02', type }: EthFields = {}): Layer => ({
  build: (inside, next) => concat(mac(dst), mac(src), u16(type ?? next.etherType ?? 0xffff), inside),
});

/** A tag: TPID 0x8100 (802.1Q), or 0x88a8 for the outer one of QinQ. */
export const vlan = (
  fields: { vid?: number; pcp?: number; cfi?: number; tpid?: number; type?: number } = {},
): Layer => ({
  etherType: fields.tpid ?? 0x8100,
  build: (inside, next) =>
    concat(
      u16(((fields.pcp ?? 0) << 13) | ((fields.cfi ?? 0) << 12) | (fields.vid ?? 0)),
      u16(fields.type ?? next.etherType ?? 0xffff),
      inside,
    ),
});

export const qinq = (outer: number, inner: number): Layer[] => [
  vlan({ tpid: 0x88a8, vid: outer }),
  vlan({ vid: inner }),
];

/** 802.3 with LLC: the length where Ethernet II has its type. */
export const llc = ({ src = '02:00:00:00:00:01', dst = '01:80:c2:00:00:00' }: EthFields = {}): Layer => ({
  build: (inside) => concat(mac(dst), mac(src), u16(inside.length + 3), Uint8Array.of(0x42, 0x42, 3), inside),
});

export interface ArpFields {
  op?: number;
  sha?: string;
  spa?: string;
  tha?: string;
  tpa?: string;
}

export const arp = (fields: ArpFields = {}): Layer => ({
  etherType: 0x0806,
  build: (inside) =>
    concat(
      Uint8Array.of(0, 1, 8, 0, 6, 4),
      u16(fields.op ?? 1),
      mac(fields.sha ?? '02:00:00:00:00:01'),
      ip4(fields.spa ?? '10.0.0.1'),
      mac(fields.tha ?? '00:00:00:00:00:00'),
      ip4(fields.tpa ?? '10.0.0.2'),
      inside,
    ),
});

// Network layer

export interface Ipv4Fields {
  src?: string;
  dst?: string;
  tos?: number;
  id?: number;
  ttl?: number;
  protocol?: number;
  /** Bytes of options; filled up with "end of options" to a multiple of 4. */
  options?: Uint8Array;
  dontFragment?: boolean;
  moreFragments?: boolean;
  /** Fragment offset in units of 8 bytes. */
  offset?: number;
  totalLength?: number;
  checksum?: number;
}

export function ipv4(fields: Ipv4Fields = {}): Layer {
  const around = { src: ip4(fields.src ?? '10.0.0.1'), dst: ip4(fields.dst ?? '10.0.0.2') };
  const options = fields.options ?? new Uint8Array(0);
  const words = 5 + Math.ceil(options.length / 4);
  return {
    etherType: 0x0800,
    protocol: 4,
    around,
    build: (inside, next) => {
      const flags = (fields.dontFragment ? 0x4000 : 0) | (fields.moreFragments ? 0x2000 : 0) | (fields.offset ?? 0);
      const header = new Uint8Array(words * 4);
      header[0] = 0x40 | words;
      header[1] = fields.tos ?? 0;
      put16(header, 2, fields.totalLength ?? header.length + inside.length);
      put16(header, 4, fields.id ?? 0x1234);
      put16(header, 6, flags);
      header[8] = fields.ttl ?? 64;
      header[9] = fields.protocol ?? next.protocol ?? 253;
      header.set(around.src, 12);
      header.set(around.dst, 16);
      header.set(options, 20);
      put16(header, 10, fields.checksum ?? checksum(header));
      return concat(header, inside);
    },
  };
}

export interface Ipv6Fields {
  src?: string;
  dst?: string;
  trafficClass?: number;
  label?: number;
  hopLimit?: number;
  nextHeader?: number;
  payloadLength?: number;
}

export function ipv6(fields: Ipv6Fields = {}): Layer {
  const around = { src: ip6(fields.src ?? 'fd00::1'), dst: ip6(fields.dst ?? 'fd00::2') };
  return {
    etherType: 0x86dd,
    protocol: 41,
    around,
    build: (inside, next) =>
      concat(
        u32((6 << 28) | ((fields.trafficClass ?? 0) << 20) | (fields.label ?? 0)),
        u16(fields.payloadLength ?? inside.length),
        Uint8Array.of(fields.nextHeader ?? next.protocol ?? 59, fields.hopLimit ?? 64),
        around.src,
        around.dst,
        inside,
      ),
  };
}

/** Hop-by-hop (0), routing (43) or destination options (60) header, filled with PadN to `bytes` (a multiple of 8). */
export const ipv6Options = (protocol: 0 | 43 | 60, bytes = 8): Layer => ({
  protocol,
  build: (inside, next) => {
    const header = new Uint8Array(bytes);
    header[0] = next.protocol ?? 59;
    header[1] = bytes / 8 - 1;
    if (protocol !== 43) {
      header[2] = 1;
      header[3] = bytes - 4;
    }
    return concat(header, inside);
  },
});

/** Fragment header (RFC 8200 section 4.5); `offset` in units of 8 bytes. */
export const ipv6Fragment = (
  fields: { offset?: number; more?: boolean; id?: number; nextHeader?: number } = {},
): Layer => ({
  protocol: 44,
  build: (inside, next) =>
    concat(
      Uint8Array.of(fields.nextHeader ?? next.protocol ?? 59, 0),
      u16(((fields.offset ?? 0) << 3) | (fields.more ? 1 : 0)),
      u32(fields.id ?? 1),
      inside,
    ),
});

/** Authentication header (RFC 4302) with `icv` bytes of check value. */
export const ipv6Auth = (icv = 12): Layer => ({
  protocol: 51,
  build: (inside, next) =>
    concat(Uint8Array.of(next.protocol ?? 59, (12 + icv) / 4 - 2, 0, 0), u32(1), u32(1), new Uint8Array(icv), inside),
});

// Transport layer

const sealed = (
  bytes: Uint8Array,
  at: number,
  protocol: number,
  around: IpAround | undefined,
  given?: number,
): Uint8Array => {
  if (given !== undefined || !around) return put16(bytes, at, given ?? 0);
  return put16(bytes, at, checksum(bytes, pseudoSum(around, protocol, bytes.length)));
};

export interface TcpFields {
  src?: number;
  dst?: number;
  seq?: number;
  ack?: number;
  /** Flag bits, FIN = 1 … NS = 0x100. */
  flags?: number;
  window?: number;
  options?: Uint8Array;
  checksum?: number;
}

export const tcp = (fields: TcpFields = {}): Layer => ({
  protocol: 6,
  build: (inside, _next, around) => {
    const options = fields.options ?? new Uint8Array(0);
    const words = 5 + Math.ceil(options.length / 4);
    const header = new Uint8Array(words * 4);
    put16(header, 0, fields.src ?? 1000);
    put16(header, 2, fields.dst ?? 2000);
    header.set(u32(fields.seq ?? 1), 4);
    header.set(u32(fields.ack ?? 0), 8);
    put16(header, 12, (words << 12) | (fields.flags ?? 0x10));
    put16(header, 14, fields.window ?? 65_535);
    header.set(options, 20);
    return sealed(concat(header, inside), 16, 6, around, fields.checksum);
  },
});

export interface PortFields {
  src?: number;
  dst?: number;
  checksum?: number;
}

export const udp = (fields: PortFields & { length?: number } = {}): Layer => ({
  protocol: 17,
  build: (inside, _next, around) => {
    const length = fields.length ?? 8 + inside.length;
    const bytes = sealed(
      concat(u16(fields.src ?? 1000), u16(fields.dst ?? 2000), u16(length), u16(0), inside),
      6,
      17,
      around,
      fields.checksum,
    );
    // 0 would say "no checksum" (RFC 768).
    return fields.checksum === undefined && bytes[6] === 0 && bytes[7] === 0 ? put16(bytes, 6, 0xffff) : bytes;
  },
});

export const sctp = (fields: PortFields & { tag?: number } = {}): Layer => ({
  protocol: 132,
  build: (inside) => {
    const bytes = concat(u16(fields.src ?? 1000), u16(fields.dst ?? 2000), u32(fields.tag ?? 1), u32(0), inside);
    const crc = fields.checksum ?? crc32c(bytes);
    new DataView(bytes.buffer).setUint32(8, crc, true);
    return bytes;
  },
});

export interface IcmpFields {
  type?: number;
  code?: number;
  id?: number;
  seq?: number;
  checksum?: number;
}

export const icmp = ({ type = 8, code = 0, id = 1, seq = 1, checksum: given }: IcmpFields = {}): Layer => ({
  protocol: 1,
  build: (inside) => {
    const bytes = concat(Uint8Array.of(type, code, 0, 0), u16(id), u16(seq), inside);
    return put16(bytes, 2, given ?? checksum(bytes));
  },
});

export const icmpv6 = ({ type = 128, code = 0, id = 1, seq = 1, checksum: given }: IcmpFields = {}): Layer => ({
  protocol: 58,
  build: (inside, _next, around) =>
    sealed(concat(Uint8Array.of(type, code, 0, 0), u16(id), u16(seq), inside), 2, 58, around, given),
});

export interface NdFields {
  /** 135 solicitation, 136 advertisement (RFC 4861 sections 4.3 and 4.4). */
  type?: 135 | 136;
  target?: string;
  flags?: number;
  /** Source (1) and target (2) link-layer address options. */
  sll?: string;
  tll?: string;
}

export const nd = ({ type = 135, target = 'fd00::2', flags = 0, sll, tll }: NdFields = {}): Layer => ({
  protocol: 58,
  build: (inside, _next, around) => {
    const option = (kind: number, text: string | undefined) =>
      text === undefined ? new Uint8Array(0) : concat(Uint8Array.of(kind, 1), mac(text));
    const bytes = concat(Uint8Array.of(type, 0, 0, 0), u32(flags), ip6(target), option(1, sll), option(2, tll), inside);
    return sealed(bytes, 2, 58, around);
  },
});

// Verification

/**
 * Checks every checksum and length that a frame has, following tags and IPv6 extension headers.
 * @returns undefined when all is well, else the first thing that is wrong. Fragments are checked up to their IP header.
 */
export function faultOf(frame: Uint8Array): string | undefined {
  const word = (at: number): number => (frame[at]! << 8) | frame[at + 1]!;
  let at = 12;
  while (word(at) === 0x8100 || word(at) === 0x88a8) at += 4;
  const type = word(at);
  at += 2;
  if (type === 0x0800) {
    const header = (frame[at]! & 15) * 4;
    const total = word(at + 2);
    if (at + total > frame.length) return `IPv4 total length ${total} exceeds the frame`;
    if (onesSum(frame.subarray(at, at + header)) !== 0xffff) return 'IPv4 header checksum';
    if ((word(at + 6) & 0x3fff) !== 0) return undefined;
    const around = { src: frame.subarray(at + 12, at + 16), dst: frame.subarray(at + 16, at + 20) };
    return transportFault(frame[at + 9]!, frame.subarray(at + header, at + total), around, false);
  }
  if (type !== 0x86dd) return undefined;
  const end = at + 40 + word(at + 4);
  if (end > frame.length) return 'IPv6 payload length exceeds the frame';
  const around = { src: frame.subarray(at + 8, at + 24), dst: frame.subarray(at + 24, at + 40) };
  let next = frame[at + 6]!;
  at += 40;
  while ([0, 43, 60, 51].includes(next)) {
    const bytes = next === 51 ? (frame[at + 1]! + 2) * 4 : (frame[at + 1]! + 1) * 8;
    next = frame[at]!;
    at += bytes;
  }
  return next === 44 ? undefined : transportFault(next, frame.subarray(at, end), around, true);
}

function transportFault(protocol: number, bytes: Uint8Array, around: IpAround, v6: boolean): string | undefined {
  const word = (at: number): number => (bytes[at]! << 8) | bytes[at + 1]!;
  const pseudo = (): boolean => onesSum(bytes, pseudoSum(around, protocol, bytes.length)) === 0xffff;
  switch (protocol) {
    case 1:
      return onesSum(bytes) === 0xffff ? undefined : 'ICMP checksum';
    case 6:
      return pseudo() ? undefined : 'TCP checksum';
    case 17:
      if (word(4) !== bytes.length) return `UDP length ${word(4)}, not ${bytes.length}`;
      if (word(6) === 0) return v6 ? 'UDP without a checksum over IPv6' : undefined;
      return pseudo() ? undefined : 'UDP checksum';
    case 58:
      return pseudo() ? undefined : 'ICMPv6 checksum';
    case 132: {
      const copy = bytes.slice();
      copy.fill(0, 8, 12);
      const crc = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true);
      return crc32c(copy) === crc ? undefined : 'SCTP checksum';
    }
    default:
      return undefined;
  }
}
