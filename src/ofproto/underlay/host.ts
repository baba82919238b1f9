/** What the host knows of networks: its routes, addresses and neighbours, as far as they can be read without a wait. */
import { readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { macNumber } from '../field-parse.ts';
import { type IpAddress, parseIp } from '../ip-address.ts';

export interface HostRoute {
  readonly prefix: IpAddress;
  readonly length: number;
  readonly device: string;
  readonly gateway: IpAddress | undefined;
  readonly metric: number;
}

export interface HostAddress {
  readonly device: string;
  readonly ip: IpAddress;
  readonly length: number;
}

export interface HostNetwork {
  routes(): readonly HostRoute[];
  addresses(): readonly HostAddress[];
  /** Address of a neighbour at a device, as a 48-bit number. */
  neighbour(device: string, ip: IpAddress): number | undefined;
}

/** RTF_UP and RTF_REJECT of linux/route.h. */
const UP = 1;
const REJECT = 0x200;

const lines = (file: string): string[] => {
  try {
    return readFileSync(file, 'latin1').split('\n');
  } catch {
    return [];
  }
};

/** Eight hex digits in the byte order of a little-endian machine. */
const littleWord = (text: string): bigint => BigInt(`0x${text.match(/../g)!.reverse().join('')}`);

const ones = (mask: bigint): number => mask.toString(2).replaceAll('0', '').length;

/** proc_net(5): Iface Destination Gateway Flags RefCnt Use Metric Mask … */
export function parseRoutes4(text: readonly string[]): HostRoute[] {
  return text.slice(1).flatMap((line) => {
    const [device, destination, gateway, flags, , , metric, mask] = line.split('\t').map((part) => part.trim());
    if (mask === undefined || (Number.parseInt(flags!, 16) & (UP | REJECT)) !== UP) return [];
    const via = littleWord(gateway!);
    return [
      {
        prefix: { family: 4, value: littleWord(destination!) } as const,
        length: ones(littleWord(mask)),
        device: device!,
        gateway: via === 0n ? undefined : ({ family: 4, value: via } as const),
        metric: Number(metric),
      },
    ];
  });
}

/** proc_net(5): destination, its length, source, its length, gateway, metric, references, use, flags, device; all in hex. */
export function parseRoutes6(text: readonly string[]): HostRoute[] {
  return text.flatMap((line) => {
    const parts = line.trim().split(/\s+/);
    if (parts.length < 10 || (Number.parseInt(parts[8]!, 16) & (UP | REJECT)) !== UP || parts[9] === 'lo') return [];
    const via = BigInt(`0x${parts[4]}`);
    return [
      {
        prefix: { family: 6, value: BigInt(`0x${parts[0]}`) } as const,
        length: Number.parseInt(parts[1]!, 16),
        device: parts[9]!,
        gateway: via === 0n ? undefined : ({ family: 6, value: via } as const),
        metric: Number.parseInt(parts[5]!, 16),
      },
    ];
  });
}

export const linuxHost: HostNetwork = {
  routes: () => [...parseRoutes4(lines('/proc/net/route')), ...parseRoutes6(lines('/proc/net/ipv6_route'))],
  addresses: () =>
    Object.entries(networkInterfaces()).flatMap(([device, list]) =>
      (list ?? []).flatMap(({ address, cidr }) => {
        const ip = parseIp(address);
        return ip === undefined || cidr === null ? [] : [{ device, ip, length: Number(cidr.split('/')[1]) }];
      }),
    ),
  neighbour: (device, ip) => {
    // IP, hardware type, flags (2: complete), hardware address, mask, device; the kernel tells of IPv4 only.
    if (ip.family !== 4) return undefined;
    for (const line of lines('/proc/net/arp').slice(1)) {
      const [text, , flags, mac, , at] = line.split(/\s+/);
      if (at !== device || (Number.parseInt(flags ?? '0', 16) & 2) === 0) continue;
      if (parseIp(text!)?.value === ip.value) return Number(macNumber(mac!));
    }
    return undefined;
  },
};
