/**
 * Tunnel ports: their options (ovs-vswitchd.conf.db(5), Interface options of tunnels), and which of them a decapsulated packet
 * belongs to.
 */
import { TNL_GENEVE, TNL_GRE, TNL_VXLAN } from '#contract/actions.ts';
import { W_TUN_DST, W_TUN_ID, W_TUN_IPV6_DST, W_TUN_IPV6_SRC, W_TUN_SRC } from '#contract/flow-key.ts';
import { type PortSpec, RequestError } from './api.ts';
import { type IpAddress, ipv4, ipv6, isUnspecified, parseIp, sameIp } from './ip-address.ts';
import { parseUnsigned } from './text.ts';

export type TunnelType = 'vxlan' | 'geneve' | 'gre';

interface Protocol {
  readonly kind: number;
  /** Default UDP port; 0: none. */
  readonly port: number;
  /** Bits of a key. */
  readonly keyBits: number;
  /** Name of the datapath port that all tunnels of one UDP port share, as Open vSwitch calls it. */
  readonly datapathName: (port: number) => string;
}

export const TUNNELS: Readonly<Record<TunnelType, Protocol>> = {
  vxlan: { kind: TNL_VXLAN, port: 4789, keyBits: 24, datapathName: (port) => `vxlan_sys_${port}` },
  geneve: { kind: TNL_GENEVE, port: 6081, keyBits: 24, datapathName: (port) => `genev_sys_${port}` },
  gre: { kind: TNL_GRE, port: 0, keyBits: 32, datapathName: () => 'gre_sys' },
};

export const isTunnelType = (type: string): type is TunnelType => Object.hasOwn(TUNNELS, type);

/** Settings of a tunnel port. */
export interface Tunnel {
  readonly type: TunnelType;
  /** UDP port; 0 for GRE. */
  readonly dstPort: number;
  readonly remote: IpAddress | 'flow';
  /** Undefined: any, and the route's own for what is sent. */
  readonly local: IpAddress | 'flow' | undefined;
  /** Undefined: no key. */
  readonly inKey: bigint | 'flow' | undefined;
  readonly outKey: bigint | 'flow' | undefined;
  /** -1: that of the packet inside. */
  readonly tos: number;
  readonly ttl: number;
  readonly dontFragment: boolean;
  readonly checksum: boolean;
}

const INHERIT = -1;
const DEFAULT_TTL = 64;
const KNOWN = ['remote_ip', 'local_ip', 'key', 'in_key', 'out_key', 'dst_port', 'tos', 'ttl', 'df_default', 'csum'];
const COMMON = ['n_rxq', 'pmd-rxq-affinity', 'mtu_request'];

const bad = (key: string, message: string, hint = ''): RequestError =>
  new RequestError('bad_value', message, { field: `options.${key}`, hint });

/** @throws RequestError that names the option and the fix. */
export function parseTunnel(type: TunnelType, { name, options }: PortSpec): Tunnel {
  const { keyBits, port } = TUNNELS[type];
  const known = type === 'gre' ? KNOWN.filter((key) => key !== 'dst_port') : KNOWN;
  for (const key of Object.keys(options)) {
    if (!known.includes(key) && !COMMON.includes(key))
      throw new RequestError('unknown_option', `${type} port ${name} has no option ${key}`, {
        field: `options.${key}`,
        hint: `known options: ${known.join(', ')}`,
      });
  }
  const address = (key: string): IpAddress | 'flow' | undefined => {
    const text = options[key];
    if (text === undefined || text === 'flow') return text;
    const ip = parseIp(text);
    if (ip === undefined || isUnspecified(ip))
      throw bad(key, `${key}="${text}" of port ${name} is no address`, 'give an IPv4 or IPv6 address, or flow');
    return ip;
  };
  const number = (key: string, low: number, high: number, otherwise: number): number => {
    const text = options[key];
    if (text === undefined) return otherwise;
    const value = parseUnsigned(text);
    if (value === undefined || value < BigInt(low) || value > BigInt(high))
      throw bad(key, `${key}="${text}" of port ${name} is out of range`, `give ${low} to ${high}`);
    return Number(value);
  };
  const yes = (key: string, otherwise: boolean): boolean => {
    const text = options[key] ?? String(otherwise);
    if (text !== 'true' && text !== 'false')
      throw bad(key, `${key}="${text}" of port ${name} is neither true nor false`);
    return text === 'true';
  };
  const key = (own: string): bigint | 'flow' | undefined => {
    const from = options[own] === undefined ? 'key' : own;
    const text = options[from];
    if (text === undefined || text === 'flow') return text;
    const value = parseUnsigned(text);
    if (value === undefined || value >> BigInt(keyBits) !== 0n)
      throw bad(
        from,
        `${from}="${text}" of port ${name} is no ${type} key`,
        `give a number of ${keyBits} bits, or flow`,
      );
    return value;
  };
  const remote = address('remote_ip');
  if (remote === undefined)
    throw new RequestError('missing_option', `${type} port ${name} needs the option remote_ip`, {
      field: 'options.remote_ip',
      hint: "give the other end's address, or flow",
    });
  const local = address('local_ip');
  if (remote !== 'flow' && local !== undefined && local !== 'flow' && remote.family !== local.family)
    throw bad('local_ip', `remote_ip and local_ip of port ${name} are of different families`);
  if (local === 'flow' && remote !== 'flow')
    throw bad('local_ip', `local_ip=flow of port ${name} needs remote_ip=flow`, 'as in Open vSwitch');
  return {
    type,
    dstPort: port === 0 ? 0 : number('dst_port', 1, 65_535, port),
    remote,
    local,
    inKey: key('in_key'),
    outKey: key('out_key'),
    tos: options['tos'] === 'inherit' ? INHERIT : number('tos', 0, 255, 0),
    ttl: options['ttl'] === 'inherit' ? INHERIT : number('ttl', 0, 255, DEFAULT_TTL) || DEFAULT_TTL,
    dontFragment: yes('df_default', true),
    checksum: yes('csum', false),
  };
}

/** What of a tunnel a packet out of it shows. */
export interface TunnelKey {
  readonly id: bigint;
  readonly source: IpAddress;
  readonly destination: IpAddress;
}

/** The tunnel words of a key. */
export function tunnelKey(key: ArrayLike<number>): TunnelKey {
  const id = (BigInt(key[W_TUN_ID]!) << 32n) | BigInt(key[W_TUN_ID + 1]!);
  if (key[W_TUN_SRC] !== 0 || key[W_TUN_DST] !== 0)
    return { id, source: ipv4(key[W_TUN_SRC]!), destination: ipv4(key[W_TUN_DST]!) };
  return { id, source: ipv6(key, W_TUN_IPV6_SRC), destination: ipv6(key, W_TUN_IPV6_DST) };
}

/**
 * How well a packet fits a port, as Open vSwitch ranks them: an own key before any, then an own remote address, then an own
 * local address before one not said before any by flow. -1: not at all.
 */
export function fitOf(tunnel: Tunnel, { id, source, destination }: TunnelKey): number {
  let fit = 0;
  if (tunnel.inKey !== 'flow') {
    if ((tunnel.inKey ?? 0n) !== id) return -1;
    fit += 6;
  }
  if (tunnel.remote !== 'flow') {
    if (!sameIp(tunnel.remote, source)) return -1;
    fit += 3;
  }
  if (tunnel.local === undefined) return fit + 1;
  if (tunnel.local === 'flow') return fit;
  return sameIp(tunnel.local, destination) ? fit + 2 : -1;
}

/** Whether two ports would want the same packets. */
export function sameTunnel(a: Tunnel, b: Tunnel): boolean {
  const text = ({ type, dstPort, remote, local, inKey }: Tunnel): string =>
    JSON.stringify(
      [type, dstPort, remote, local ?? null, inKey === 'flow' ? inKey : String(inKey ?? 0n)],
      (_, value) => (typeof value === 'bigint' ? String(value) : value),
    );
  return text(a) === text(b);
}
