/**
 * The header that a tunnel puts before a packet, ready but for what differs from packet to packet (contract/actions.ts,
 * TNL_PUSH): VXLAN (RFC 7348), Geneve (RFC 8926) and GRE (RFC 2784, RFC 2890) over IPv4 or IPv6.
 */
import { type IpAddress, ipBytes } from './ip-address.ts';
import type { TunnelType } from './tunnel.ts';
import { macBytes, onesSum } from './underlay/solicit.ts';

export interface TunnelHeader {
  readonly type: TunnelType;
  readonly dstPort: number;
  readonly sourceMac: number;
  readonly destinationMac: number;
  readonly source: IpAddress;
  readonly destination: IpAddress;
  /** Undefined: none, which is 0 where the protocol cannot go without. */
  readonly key: bigint | undefined;
  readonly tos: number;
  readonly ttl: number;
  readonly dontFragment: boolean;
  readonly checksum: boolean;
  readonly oam: boolean;
}

/** Transparent Ethernet bridging. */
const TEB = [0x65, 0x58];

const vni = (key: bigint | undefined): number[] => {
  const id = Number((key ?? 0n) & 0xffffffn);
  return [id >>> 16, (id >>> 8) & 255, id & 255, 0];
};

function payload({ type, dstPort, key, checksum, oam }: TunnelHeader): number[] {
  const udp = [0, 0, dstPort >>> 8, dstPort & 255, 0, 0, 0, 0];
  if (type === 'vxlan') return [...udp, 8, 0, 0, 0, ...vni(key)];
  if (type === 'geneve') return [...udp, 0, oam ? 0x80 : 0, ...TEB, ...vni(key)];
  const word = Number((key ?? 0n) & 0xffffffffn);
  const keyBytes = key === undefined ? [] : [word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255];
  return [
    (checksum ? 0x80 : 0) | (key === undefined ? 0 : 0x20),
    0,
    ...TEB,
    ...(checksum ? [0, 0, 0, 0] : []),
    ...keyBytes,
  ];
}

export function tunnelHeader(header: TunnelHeader): Uint8Array {
  const { sourceMac, destinationMac, source, destination, tos, ttl, dontFragment } = header;
  const protocol = header.type === 'gre' ? 47 : 17;
  const macs = [...macBytes(destinationMac), ...macBytes(sourceMac)];
  const addresses = [...ipBytes(source), ...ipBytes(destination)];
  if (source.family === 6) {
    const ip = [0x60 | (tos >>> 4), (tos & 15) << 4, 0, 0, 0, 0, protocol, ttl];
    return Uint8Array.from([...macs, 0x86, 0xdd, ...ip, ...addresses, ...payload(header)]);
  }
  const ip = [0x45, tos, 0, 0, 0, 0, dontFragment ? 0x40 : 0, 0, ttl, protocol, 0, 0, ...addresses];
  const sum = onesSum(ip);
  ip[10] = sum >>> 8;
  ip[11] = sum & 255;
  return Uint8Array.from([...macs, 8, 0, ...ip, ...payload(header)]);
}
