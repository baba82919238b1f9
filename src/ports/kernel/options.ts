/** Settings of kernel ports: what their options mean, checked. */
import { isIPv4, isIPv6, SocketAddress } from 'node:net';
import { choice, integer, refuseUnknown } from '../options.ts';
import type { PortConfig } from '../port.ts';
import type { Cidr } from './rtnetlink.ts';

/** Longest name of an interface in bytes (IFNAMSIZ less its NUL). */
const NAME_MAX = 15;
/** Queues of a TAP device that are of use; the kernel has 256. */
const MAX_QUEUES = 16;

/** The interface that a port means: option `ifname`, else the port's own name. @throws Error */
export function interfaceName({ name, options }: PortConfig): string {
  const wanted = options['ifname'] ?? name;
  const bytes = Buffer.byteLength(wanted);
  if (bytes === 0 || bytes > NAME_MAX) {
    const fix = options['ifname'] === undefined ? '; name one with option ifname' : '';
    throw new Error(`port ${name}: "${wanted}" has ${bytes} bytes, names of interfaces have 1 to ${NAME_MAX}${fix}`);
  }
  if (!/^[^\s/:%]+$/.test(wanted) || wanted === '.' || wanted === '..')
    throw new Error(`port ${name}: "${wanted}" is no name for an interface: leave out spaces and / : %`);
  return wanted;
}

/** Bytes of an IPv6 address. */
function ipv6Bytes(text: string): Uint8Array {
  // Node writes the address in its shortest form; what it left out are zeros.
  const shortest = new SocketAddress({ address: text, family: 'ipv6' }).address;
  const [head = '', tail] = shortest.split('::');
  const groups = (part: string): number[] =>
    part.split(':').flatMap((group) => {
      if (group === '') return [];
      if (!group.includes('.')) return [Number.parseInt(group, 16)];
      const [a, b, c, d] = group.split('.').map(Number);
      return [(a! << 8) | b!, (c! << 8) | d!];
    });
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const all = [...before, ...new Array<number>(8 - before.length - after.length).fill(0), ...after];
  return Uint8Array.from(all.flatMap((group) => [group >>> 8, group & 255]));
}

/** `10.0.0.1/24` or `fd00::1/64`. @throws Error that names the option. */
export function parseCidr(option: string, text: string): Cidr {
  const [address = '', length = ''] = text.split('/');
  const most = isIPv4(address) ? 32 : isIPv6(address) ? 128 : -1;
  if (most < 0 || !/^\d{1,3}$/.test(length) || Number(length) > most || text.split('/').length !== 2)
    throw new Error(`option ${option}: "${text}" is no address with its prefix length, such as 10.0.0.1/24`);
  const bytes = most === 32 ? Uint8Array.from(address.split('.'), Number) : ipv6Bytes(address);
  return { address: bytes, prefix: Number(length) };
}

export interface TapSettings {
  readonly ifname: string;
  /** Empty: the kernel's choice. */
  readonly mac: string;
  readonly addresses: readonly Cidr[];
  readonly queues: number;
  /** Checksums and segmentation are left to whoever receives. */
  readonly offload: boolean;
}

/** @throws Error that names the option at fault and the fix. */
export function tapSettings(config: PortConfig): TapSettings {
  const { options } = config;
  refuseUnknown(config, ['ifname', 'mac', 'address', 'offload']);
  const mac = options['mac'] ?? '';
  if (mac !== '' && (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(mac) || Number.parseInt(mac.slice(0, 2), 16) % 2 === 1))
    throw new Error(`option mac is "${mac}"; it takes a unicast Ethernet address such as 02:00:00:00:00:01`);
  return {
    ifname: interfaceName(config),
    mac,
    addresses: (options['address'] ?? '')
      .split(',')
      .filter((text) => text.trim() !== '')
      .map((text) => parseCidr('address', text.trim())),
    queues: integer(options, 'n_rxq', 1, MAX_QUEUES, 1),
    offload: choice(options, 'offload', ['on', 'off'], 'on') === 'on',
  };
}
