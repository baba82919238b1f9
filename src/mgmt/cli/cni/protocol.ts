/**
 * The Container Network Interface, specification 1.1: what a runtime hands over (environment, configuration on standard
 * input), results, errors (sections 1, 2 and 5). Nothing here touches a network.
 */
import { isIP } from 'node:net';

/** Oldest first; results of those before 1.1.0 lack its fields. */
export const VERSIONS = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export const NEWEST = '1.1.0';

/** Well-known error codes (specification, "Error"), and from 100 on our own. */
export const CODE = {
  version: 1,
  field: 2,
  container: 3,
  environment: 4,
  io: 5,
  decode: 6,
  config: 7,
  later: 11,
  unavailable: 50,
  limited: 51,
  failed: 100,
  broken: 101,
} as const;

export class CniError extends Error {
  readonly code: number;
  readonly details: string;

  constructor(code: number, message: string, details = '') {
    super(message);
    this.code = code;
    this.details = details;
  }
}

export interface CniInterface {
  name: string;
  mac?: string;
  mtu?: number;
  /** Of a container's interface: where its namespace is. */
  sandbox?: string;
  /** Of a poll-mode interface: its unix socket. */
  socketPath?: string;
  pciID?: string;
}

export interface CniAddress {
  address: string;
  gateway?: string;
  interface?: number;
  version?: string;
}

export interface CniRoute {
  dst: string;
  gw?: string;
  mtu?: number;
  advmss?: number;
  priority?: number;
  table?: number;
  scope?: number;
}

export interface CniResult {
  cniVersion: string;
  interfaces?: CniInterface[];
  ips?: CniAddress[];
  routes?: CniRoute[];
  dns?: object;
}

export interface Attachment {
  readonly containerID: string;
  readonly ifname: string;
}

/** A plugin's configuration, checked. */
export interface Config {
  readonly cniVersion: string;
  readonly name: string;
  readonly bridge: string;
  readonly rundir: string;
  readonly portType: 'veth' | 'vhost-user';
  /** Who listens at a vhost-user socket: the switch (`server`) or the container (`client`). */
  readonly mode: 'server' | 'client';
  /** Folder in which each attachment gets its own for the socket; empty: `cni` in the rundir. */
  readonly socketDir: string;
  readonly socketMode: string;
  readonly socketOwner: string;
  /** 0: none. */
  readonly vlan: number;
  readonly mtu: number;
  readonly isolate: boolean;
  /** The bridge's own device gets the gateway's address. */
  readonly isGateway: boolean;
  readonly mac: string;
  /** Type of the IPAM plugin; empty: no addresses. */
  readonly ipam: string;
  readonly dns: object | undefined;
  readonly prevResult: CniResult | undefined;
  /** What the runtime says are all attachments (GC); undefined where it does not. */
  readonly valid: readonly Attachment[] | undefined;
}

export interface Environment {
  readonly command: string;
  readonly containerID: string;
  readonly netns: string;
  readonly ifname: string;
  readonly path: readonly string[];
  readonly args: ReadonlyMap<string, string>;
}

const COMMANDS = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'];

/** @throws CniError 4 that names the variables at fault. */
export function readEnvironment(env: NodeJS.ProcessEnv): Environment {
  const command = env.CNI_COMMAND ?? '';
  if (!COMMANDS.includes(command))
    throw new CniError(CODE.environment, `CNI_COMMAND must be one of ${COMMANDS.join(', ')}`);
  const perContainer = command === 'ADD' || command === 'DEL' || command === 'CHECK';
  const wrong: string[] = [];
  const { CNI_CONTAINERID: containerID = '', CNI_NETNS: netns = '', CNI_IFNAME: ifname = '' } = env;
  if (perContainer) {
    if (!/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(containerID)) wrong.push('CNI_CONTAINERID');
    if (!/^[^/:\s]{1,15}$/.test(ifname) || ifname === '.' || ifname === '..') wrong.push('CNI_IFNAME');
    // Of a container that is gone, the namespace may be gone too.
    if (netns === '' && command !== 'DEL') wrong.push('CNI_NETNS');
  }
  if (wrong.length > 0) throw new CniError(CODE.environment, `${wrong.join(', ')}: missing or not valid`);
  const pairs = (env.CNI_ARGS ?? '').split(';').filter((pair) => pair !== '');
  const args = new Map(pairs.map((pair) => [pair.split('=')[0]!, pair.slice(pair.indexOf('=') + 1)]));
  return { command, containerID, netns, ifname, path: (env.CNI_PATH ?? '').split(':').filter(Boolean), args };
}

type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** @throws CniError 6 when the input is no JSON object. */
export function decode(input: string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(input);
  } catch (error) {
    throw new CniError(CODE.decode, `the network configuration is not JSON: ${(error as Error).message}`);
  }
  if (!isFields(value)) throw new CniError(CODE.decode, 'the network configuration is not a JSON object');
  return value;
}

/** Fields that runtimes add, and those that say something to others. */
const COMMON = ['cniVersion', 'cniVersions', 'name', 'type', 'args', 'ipam', 'dns', 'capabilities', 'runtimeConfig'];
const RUNTIME = ['prevResult', 'disableCheck', 'disableGC', 'cni.dev/valid-attachments', 'cni.dev/attachments'];
const OWN = [
  ...['bridge', 'rundir', 'portType', 'mode', 'socketDir', 'socketMode', 'socketOwner'],
  ...['vlan', 'mtu', 'mac', 'isolate', 'isGateway'],
];

const wrong = (key: string, value: unknown, takes: string): CniError =>
  new CniError(CODE.config, `${key} is ${JSON.stringify(value)}; it takes ${takes}`);

function text<T extends string>(fields: Fields, key: string, otherwise: T, test: RegExp, takes: string): T {
  const value = fields[key] ?? otherwise;
  if (value === otherwise) return otherwise;
  if (typeof value !== 'string' || !test.test(value)) throw wrong(key, value, takes);
  return value as T;
}

function whole(fields: Fields, key: string, otherwise: number, low: number, high: number): number {
  const value = fields[key] ?? otherwise;
  if (value === otherwise) return otherwise;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < low || value > high)
    throw wrong(key, value, `a number from ${low} to ${high}`);
  return value;
}

function flag(fields: Fields, key: string): boolean {
  const value = fields[key] ?? false;
  if (typeof value !== 'boolean') throw wrong(key, value, 'true or false');
  return value;
}

const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
const PATH = /^\//;

/** The version asked for. @throws CniError 1 */
export function versionOf(fields: Fields): string {
  const version = fields['cniVersion'] ?? '0.3.0';
  if (VERSIONS.some((known) => known === version)) return version as string;
  throw new CniError(
    CODE.version,
    `incompatible CNI version ${JSON.stringify(version)}`,
    `known: ${VERSIONS.join(', ')}`,
  );
}

/** @throws CniError 1, 2 or 7 that names the field and what it takes. */
export function readConfig(fields: Fields, { args }: Pick<Environment, 'args'>): Config {
  const cniVersion = versionOf(fields);
  for (const [key, value] of Object.entries(fields)) {
    if (COMMON.includes(key) || RUNTIME.includes(key) || OWN.includes(key) || key.startsWith('cni.dev/')) continue;
    throw new CniError(
      CODE.field,
      `unsupported field ${key}: ${JSON.stringify(value)}`,
      `own fields: ${OWN.join(', ')}`,
    );
  }
  const name = text(fields, 'name', '', /^[A-Za-z0-9][A-Za-z0-9_.-]*$/, 'letters, digits, _ . -');
  if (name === '') throw new CniError(CODE.config, 'name is missing: the name of the network');
  const ipam = isFields(fields['ipam']) ? text(fields['ipam'], 'type', '', /^[^/]+$/, "a plugin's file name") : '';
  const runtime = isFields(fields['runtimeConfig']) ? fields['runtimeConfig'] : {};
  const given = fields['cni.dev/valid-attachments'] ?? fields['cni.dev/attachments'];
  const mac = runtime['mac'] ?? args.get('MAC') ?? fields['mac'];
  return {
    cniVersion,
    name,
    bridge: text(fields, 'bridge', 'br0', /^[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,62}$/, "a bridge's name"),
    rundir: text(fields, 'rundir', '', PATH, 'an absolute path'),
    portType: text(fields, 'portType', 'veth', /^(veth|vhost-user)$/, 'veth or vhost-user'),
    mode: text(fields, 'mode', 'server', /^(server|client)$/, 'server or client'),
    socketDir: text(fields, 'socketDir', '', PATH, 'an absolute path'),
    socketMode: text(fields, 'socketMode', '', /^0?[0-7]{3}$/, 'octal permissions such as "0660"'),
    socketOwner: text(fields, 'socketOwner', '', /^\d*:\d*$/, 'numbers as "uid:gid"'),
    vlan: whole(fields, 'vlan', 0, 1, 4094),
    mtu: whole(fields, 'mtu', 1500, 68, 65_535),
    isolate: flag(fields, 'isolate'),
    isGateway: flag(fields, 'isGateway'),
    mac: text({ mac }, 'mac', '', MAC, 'an Ethernet address').toLowerCase(),
    ipam,
    dns: isFields(fields['dns']) ? fields['dns'] : undefined,
    prevResult: isFields(fields['prevResult']) ? (fields['prevResult'] as unknown as CniResult) : undefined,
    valid: given === undefined ? undefined : attachments(given),
  };
}

function attachments(value: unknown): Attachment[] {
  const entries = Array.isArray(value) ? value : [undefined];
  return entries.map((entry) => {
    if (isFields(entry) && typeof entry['containerID'] === 'string' && typeof entry['ifname'] === 'string')
      return { containerID: entry['containerID'], ifname: entry['ifname'] };
    throw wrong('cni.dev/valid-attachments', value, 'a list of {containerID, ifname}');
  });
}

/** The result in the form of its version. */
export function formatResult(result: CniResult): object {
  const { cniVersion } = result;
  const atLeast = (version: (typeof VERSIONS)[number]): boolean =>
    VERSIONS.indexOf(cniVersion as typeof version) >= VERSIONS.indexOf(version);
  const interfaces = (result.interfaces ?? []).map(({ mtu, socketPath, pciID, ...rest }) => ({
    ...rest,
    ...(atLeast('1.1.0') ? defined({ mtu, socketPath, pciID }) : {}),
  }));
  const ips = (result.ips ?? []).map(({ version: _, ...rest }) => ({
    ...(atLeast('1.0.0') ? {} : { version: isIP(rest.address.split('/')[0]!) === 6 ? '6' : '4' }),
    ...rest,
  }));
  const routes = (result.routes ?? []).map(({ dst, gw, ...more }) => ({
    ...defined({ dst, gw }),
    ...(atLeast('1.1.0') ? more : {}),
  }));
  return { cniVersion, interfaces, ips, routes, dns: result.dns ?? {} };
}

const defined = (fields: object): object =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));

export const formatError = (cniVersion: string, { code, message, details }: CniError): object => ({
  cniVersion,
  code,
  msg: message,
  ...(details ? { details } : {}),
});
