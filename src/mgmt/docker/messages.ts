/**
 * Messages of Docker's network plugins (libnetwork docs/remote.md, moby libnetwork/drivers/remote/api). Every request is a
 * POST of a JSON object to `/NetworkDriver.<Method>`; a reply with `Err` is a failure.
 */
import { RequestError } from '#ofproto/api.ts';

export const PLUGIN_TYPE = 'application/vnd.docker.plugins.v1.1+json';

export type Body = Readonly<Record<string, unknown>>;

/** One address pool of a network. */
export interface Pool {
  /** CIDR. */
  readonly pool: string;
  /** CIDR; empty: none. */
  readonly gateway: string;
  /** Names → addresses that the pool leaves alone. */
  readonly aux: Readonly<Record<string, string>>;
}

/** Docker's labels under which it hands options over. */
export const LABEL = {
  generic: 'com.docker.network.generic',
  internal: 'com.docker.network.internal',
  portMap: 'com.docker.network.portmap',
  mac: 'com.docker.network.endpoint.macaddress',
} as const;

const bad = (field: string, message: string): RequestError => new RequestError('bad_value', message, { field });

const isObject = (value: unknown): value is Body =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A member that must be a text. @throws RequestError that names it. */
export function text(body: Body, name: string): string {
  const value = body[name];
  if (typeof value !== 'string' || value === '') throw bad(name, `${name} is missing`);
  return value;
}

/** An id of Docker's: letters and digits, so that it can be part of names. @throws RequestError */
export function identity(body: Body, name: string): string {
  const value = text(body, name);
  if (!/^[A-Za-z0-9]{12,128}$/.test(value))
    throw bad(name, `${name} "${value}" is no id: 12 to 128 letters and digits`);
  return value;
}

/** A member that is a text or absent. @throws RequestError */
export function optionalText(body: Body, name: string): string {
  const value = body[name] ?? '';
  if (typeof value !== 'string') throw bad(name, `${name} is not a text`);
  return value;
}

/** A member that is an object or absent. @throws RequestError */
export function object(body: Body, name: string): Body {
  const value = body[name] ?? {};
  if (!isObject(value)) throw bad(name, `${name} is not an object`);
  return value;
}

/** `IPv4Data` or `IPv6Data`. @throws RequestError */
export function pools(body: Body, name: string): Pool[] {
  const value = body[name] ?? [];
  if (!Array.isArray(value)) throw bad(name, `${name} is not a list`);
  return value.map((entry, at) => {
    if (!isObject(entry)) throw bad(`${name}[${at}]`, `${name}[${at}] is not an object`);
    const aux = object(entry, 'AuxAddresses');
    return {
      pool: optionalText(entry, 'Pool'),
      gateway: optionalText(entry, 'Gateway'),
      aux: Object.fromEntries(Object.entries(aux).map(([key, address]) => [key, String(address)])),
    };
  });
}

export interface JoinReply {
  readonly InterfaceName: { readonly SrcName: string; readonly DstPrefix: string };
  readonly Gateway: string;
  readonly GatewayIPv6: string;
  readonly StaticRoutes: readonly object[];
  /** Docker gives the container no way out of its own (docker_gwbridge). */
  readonly DisableGatewayService: boolean;
}
