/** Settings of a vhost-user port: what the options of its three types mean, checked. */
import { isAbsolute, join } from 'node:path';
import { UNIX_PATH_MAX } from '#contract/os.ts';
import type { PortConfig } from '#ports/port.ts';
import { MAX_VRINGS } from './wire.ts';

export const VHOST_USER_TYPES = ['vhost-user', 'dpdkvhostuser', 'dpdkvhostuserclient'] as const;

export interface Settings {
  /** `server`: the switch listens; `client`: the switch connects, again and again. */
  readonly mode: 'server' | 'client';
  readonly path: string;
  /** Offers checksum and segmentation offload to the guest. */
  readonly offload: boolean;
  /** Looks at a full ring again, at most (ovs-vswitchd.conf.db(5), tx-retries-max). */
  readonly retries: number;
  /** Queue pairs offered. */
  readonly queuePairs: number;
  /** Permission bits of a listening socket; undefined: the umask's. */
  readonly socketMode: number | undefined;
  /** Numeric owner and group of a listening socket; -1 leaves one as it is. */
  readonly socketOwner: { readonly uid: number; readonly gid: number } | undefined;
}

/** Options of every port, read elsewhere. */
const COMMON = ['n_rxq', 'pmd-rxq-affinity', 'mtu_request'];
const OWN = ['path', 'mode', 'vhost-server-path', 'offload', 'tx-retries-max', 'socket-mode', 'socket-owner'];

/** @param rundir where relative paths start. @throws Error that names the option at fault and the fix. */
export function parseOptions(config: PortConfig, rundir: string): Settings {
  const { type, name, options } = config;
  for (const key of Object.keys(options)) {
    if (!OWN.includes(key) && !COMMON.includes(key)) {
      throw new Error(`option ${key} of port ${name} is not known; known are ${[...OWN, ...COMMON].join(', ')}`);
    }
  }
  return {
    ...parseSocket(config, rundir),
    offload: choice(options, 'offload', ['on', 'off'], 'on') === 'on',
    retries: integer(options, 'tx-retries-max', 0, 32, 8),
    queuePairs: integer(options, 'n_rxq', 1, MAX_VRINGS / 2, MAX_VRINGS / 2),
    socketMode: type === 'dpdkvhostuserclient' ? undefined : parseMode(options['socket-mode']),
    socketOwner: parseOwner(options['socket-owner']),
  };
}

function parseSocket(config: PortConfig, rundir: string): { mode: Settings['mode']; path: string } {
  const { type, name, options } = config;
  const absolute = (path: string): string => {
    const full = isAbsolute(path) ? path : join(rundir, path);
    if (Buffer.byteLength(full) > UNIX_PATH_MAX) {
      throw new Error(
        `the socket path of port ${name} is ${Buffer.byteLength(full)} bytes long, at most ${UNIX_PATH_MAX} fit: ${full}`,
      );
    }
    return full;
  };
  if (type === 'dpdkvhostuserclient') {
    const path = options['vhost-server-path'];
    if (!path)
      throw new Error(`option vhost-server-path of port ${name} is missing: the socket that the guest listens on`);
    return { mode: 'client', path: absolute(path) };
  }
  if (options['vhost-server-path'] !== undefined) {
    throw new Error(`option vhost-server-path belongs to type dpdkvhostuserclient; port ${name} is of type ${type}`);
  }
  if (type === 'dpdkvhostuser') return { mode: 'server', path: absolute(options['path'] || name) };
  const mode = choice(options, 'mode', ['server', 'client'], 'server');
  if (mode === 'client' && !options['path']) {
    throw new Error(`option path of port ${name} is missing: the socket that the guest listens on`);
  }
  return { mode, path: absolute(options['path'] || `${name}.sock`) };
}

function choice<const T extends string>(
  options: PortConfig['options'],
  key: string,
  values: readonly T[],
  otherwise: T,
): T {
  const value = options[key];
  if (value === undefined) return otherwise;
  const found = values.find((v) => v === value);
  if (found === undefined) throw new Error(`option ${key} is "${value}"; it takes ${values.join(' or ')}`);
  return found;
}

function integer(options: PortConfig['options'], key: string, low: number, high: number, otherwise: number): number {
  const text = options[key];
  if (text === undefined) return otherwise;
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= low && value <= high)) throw new Error(`option ${key} is "${text}"; it takes ${low} to ${high}`);
  return value;
}

function parseMode(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^0?[0-7]{3}$/.test(text))
    throw new Error(`option socket-mode is "${text}"; it takes octal permissions such as 0660`);
  return Number.parseInt(text, 8);
}

function parseOwner(text: string | undefined): Settings['socketOwner'] {
  if (text === undefined) return undefined;
  const found = /^(\d*):(\d*)$/.exec(text);
  if (!found) throw new Error(`option socket-owner is "${text}"; it takes numbers as uid:gid, either may be empty`);
  const id = (part: string) => (part === '' ? -1 : Number(part));
  return { uid: id(found[1]!), gid: id(found[2]!) };
}
