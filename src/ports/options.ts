/** Reading the options of a port: small checked readers, shared by all port types. */
import { isAbsolute, join } from 'node:path';
import { UNIX_PATH_MAX } from '#contract/os.ts';
import type { PortConfig } from './port.ts';

type Options = PortConfig['options'];

/** Options of every port, read elsewhere. */
const COMMON = ['n_rxq', 'pmd-rxq-affinity', 'mtu_request'];

/** Who may use a listening socket. */
export interface SocketOwner {
  /** Numeric; -1 leaves one as it is. */
  readonly uid: number;
  readonly gid: number;
}

/** @throws Error that names an option which the port type does not have. */
export function refuseUnknown({ name, options }: PortConfig, own: readonly string[]): void {
  for (const key of Object.keys(options)) {
    if (!own.includes(key) && !COMMON.includes(key)) {
      throw new Error(`option ${key} of port ${name} is not known; known are ${[...own, ...COMMON].join(', ')}`);
    }
  }
}

/** A socket's path, from `rundir` on where it is relative. @throws Error when it is too long for a socket. */
export function socketPath(name: string, path: string, rundir: string): string {
  const full = isAbsolute(path) ? path : join(rundir, path);
  const bytes = Buffer.byteLength(full);
  if (bytes > UNIX_PATH_MAX) {
    throw new Error(`the socket path of port ${name} is ${bytes} bytes long, at most ${UNIX_PATH_MAX} fit: ${full}`);
  }
  return full;
}

/** @throws Error that names the option and its values. */
export function choice<const T extends string>(options: Options, key: string, values: readonly T[], otherwise: T): T {
  const value = options[key];
  if (value === undefined) return otherwise;
  const found = values.find((v) => v === value);
  if (found === undefined) throw new Error(`option ${key} is "${value}"; it takes ${values.join(' or ')}`);
  return found;
}

/** @throws Error that names the option and its range. */
export function integer(options: Options, key: string, low: number, high: number, otherwise: number): number {
  const text = options[key];
  if (text === undefined) return otherwise;
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= low && value <= high)) throw new Error(`option ${key} is "${text}"; it takes ${low} to ${high}`);
  return value;
}

/** `socket-mode`: permission bits of a listening socket; undefined: the umask's. @throws Error */
export const socketMode = (options: Options): number | undefined => permissions(options, 'socket-mode');

/** Permission bits of a file; undefined where nothing is said. @throws Error */
export function permissions(options: Options, key: string): number | undefined {
  const text = options[key];
  if (text === undefined) return undefined;
  if (!/^0?[0-7]{3}$/.test(text))
    throw new Error(`option ${key} is "${text}"; it takes octal permissions such as 0660`);
  return Number.parseInt(text, 8);
}

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Bytes, as a number with or without K, M or G (powers of 1024); undefined where nothing is said. @throws Error */
export function bytes(options: Options, key: string): number | undefined {
  const text = options[key];
  if (text === undefined) return undefined;
  const found = /^(\d{1,15})([KMG]?)(i?B)?$/i.exec(text);
  if (!found) throw new Error(`option ${key} is "${text}"; it takes bytes, or a number with K, M or G such as 64M`);
  return Number(found[1]) * UNITS[found[2]!.toUpperCase()]!;
}

/** `socket-owner`: uid:gid of a listening socket. @throws Error */
export const socketOwner = (options: Options): SocketOwner | undefined => fileOwner(options, 'socket-owner');

/** uid:gid of a file; undefined where nothing is said. @throws Error */
export function fileOwner(options: Options, key: string): SocketOwner | undefined {
  const text = options[key];
  if (text === undefined) return undefined;
  const found = /^(\d*):(\d*)$/.exec(text);
  if (!found) throw new Error(`option ${key} is "${text}"; it takes numbers as uid:gid, either may be empty`);
  const id = (part: string) => (part === '' ? -1 : Number(part));
  return { uid: id(found[1]!), gid: id(found[2]!) };
}
