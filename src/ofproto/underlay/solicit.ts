/** Asking for a neighbour's Ethernet address: ARP (RFC 826) and neighbour solicitation (RFC 4861 section 4.3). */
import {
  ETH_ARP,
  ETH_IPV6,
  IPPROTO_ICMPV6,
  W_DL_DST,
  W_DL_MIX,
  W_DL_SRC,
  W_IPV6_DST,
  W_IPV6_SRC,
  W_ND_TARGET,
  W_NW_DST,
  W_NW_MISC,
  W_NW_SRC,
  W_SHA,
  W_SHA_THA,
  W_TP,
  W_TYPE,
} from '#contract/flow-key.ts';
import { type IpAddress, ipBytes, ipWords } from '../ip-address.ts';
import { OF_KEY_WORDS } from '../key.ts';

export interface Solicitation {
  readonly frame: Uint8Array;
  /** Its OpenFlow key, without in_port. */
  readonly key: Uint32Array;
}

export const macBytes = (mac: number): number[] =>
  Array.from({ length: 6 }, (_, i) => Math.floor(mac / 2 ** (40 - 8 * i)) % 256);

/** Ethernet addresses of a key. */
export function setMacs(key: Uint32Array, source: number, destination: number): void {
  key[W_DL_DST] = Math.floor(destination / 0x10000);
  key[W_DL_MIX] = ((destination % 0x10000) << 16) | Math.floor(source / 0x1_0000_0000);
  key[W_DL_SRC] = source % 0x1_0000_0000;
}

/** Source and destination of an IP packet in a key. */
export function setIps(key: Uint32Array, source: IpAddress, destination: IpAddress): void {
  const from = ipWords(source);
  const to = ipWords(destination);
  key[W_NW_SRC] = from.at(-1)!;
  key[W_NW_DST] = to.at(-1)!;
  if (source.family === 4) return;
  key.set(from.slice(0, 3), W_IPV6_SRC);
  key.set(to.slice(0, 3), W_IPV6_DST);
}

/** Ones' complement sum of bytes as big-endian words, folded (RFC 1071). */
export function onesSum(bytes: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

export function solicit(mac: number, source: IpAddress, target: IpAddress): Solicitation {
  return target.family === 4 ? arpRequest(mac, source, target) : neighbourSolicitation(mac, source, target);
}

function arpRequest(mac: number, source: IpAddress, target: IpAddress): Solicitation {
  const everyone = 0xffff_ffff_ffff;
  const key = new Uint32Array(OF_KEY_WORDS);
  setMacs(key, mac, everyone);
  key[W_TYPE] = ((ETH_ARP << 16) | (1 << 8)) >>> 0;
  key[W_NW_SRC] = Number(source.value);
  key[W_NW_DST] = Number(target.value);
  setFirstMac(key, mac);
  const arp = [0, 1, 8, 0, 6, 4, 0, 1, ...macBytes(mac), ...ipBytes(source), ...macBytes(0), ...ipBytes(target)];
  return { frame: Uint8Array.from([...macBytes(everyone), ...macBytes(mac), 8, 6, ...arp]), key };
}

function setFirstMac(key: Uint32Array, mac: number): void {
  key[W_SHA] = Math.floor(mac / 0x10000);
  key[W_SHA_THA] = (mac % 0x10000) << 16;
}

const SOLICIT = 135;
/** ff02::1:ff00:0/104 (RFC 4291 section 2.7.1). */
const SOLICITED_NODE = 0xff02_0000_0000_0000_0000_0001_ff00_0000n;

function neighbourSolicitation(mac: number, source: IpAddress, target: IpAddress): Solicitation {
  const low = target.value & 0xffffffn;
  const group: IpAddress = { family: 6, value: SOLICITED_NODE | low };
  const groupMac = 0x3333_ff00_0000 + Number(low);
  const key = new Uint32Array(OF_KEY_WORDS);
  setMacs(key, mac, groupMac);
  key[W_TYPE] = ((ETH_IPV6 << 16) | (IPPROTO_ICMPV6 << 8)) >>> 0;
  setIps(key, source, group);
  key[W_NW_MISC] = 255 << 16;
  key[W_TP] = SOLICIT << 16;
  key.set(ipWords(target), W_ND_TARGET);
  setFirstMac(key, mac);
  const message = [SOLICIT, 0, 0, 0, 0, 0, 0, 0, ...ipBytes(target), 1, 1, ...macBytes(mac)];
  const pseudo = [...ipBytes(source), ...ipBytes(group), 0, 0, 0, message.length, 0, 0, 0, IPPROTO_ICMPV6];
  const checksum = ~onesSum([...pseudo, ...message]) & 0xffff;
  message[2] = checksum >>> 8;
  message[3] = checksum & 255;
  const ip = [0x60, 0, 0, 0, 0, message.length, IPPROTO_ICMPV6, 255, ...ipBytes(source), ...ipBytes(group)];
  return { frame: Uint8Array.from([...macBytes(groupMac), ...macBytes(mac), 0x86, 0xdd, ...ip, ...message]), key };
}
