/** What `docker network create -o key=value` may say. */
import { DEVICE_NAME_MAX } from '#contract/links.ts';
import { RequestError } from '#ofproto/api.ts';
import { nearest } from '../options.ts';
import type { Body } from './messages.ts';

export interface NetworkOptions {
  /** Bridge to use, made when it is not there; empty: one of the network's own. */
  readonly bridge: string;
  /** VLAN of the containers and the gateway; 0: none. */
  readonly vlan: number;
  readonly mtu: number;
  /** Containers reach the gateway, but not each other. */
  readonly isolate: boolean;
  /** Beginning of the names of interfaces in containers. */
  readonly prefix: string;
}

const DEFAULT_MTU = 1500;

interface Reader {
  /** @throws RequestError */
  readonly read: (value: string, key: string) => Partial<NetworkOptions>;
}

const refuse = (key: string, value: string, takes: string): RequestError =>
  new RequestError('bad_value', `option ${key} is "${value}"; it takes ${takes}`, { field: `Options.${key}` });

function number(key: string, value: string, low: number, high: number): number {
  const found = /^\d{1,6}$/.test(value) ? Number(value) : Number.NaN;
  if (!(found >= low && found <= high)) throw refuse(key, value, `${low} to ${high}`);
  return found;
}

function bool(key: string, value: string): boolean {
  if (value !== 'true' && value !== 'false') throw refuse(key, value, 'true or false');
  return value === 'true';
}

const bridge: Reader['read'] = (value, key) => {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.:@-]*$/.test(value) || value.length > DEVICE_NAME_MAX)
    throw refuse(key, value, `a bridge name of up to ${DEVICE_NAME_MAX} letters, digits and _ . : @ -`);
  return { bridge: value };
};
const mtu: Reader['read'] = (value, key) => ({ mtu: number(key, value, 68, 65_535) });

/** Our own keys, and those of Docker's bridge driver that mean the same here. */
const READERS: Readonly<Record<string, Reader>> = {
  'ringway.bridge': { read: bridge },
  'ringway.vlan': { read: (value, key) => ({ vlan: number(key, value, 1, 4094) }) },
  'ringway.mtu': { read: mtu },
  'ringway.isolate': { read: (value, key) => ({ isolate: bool(key, value) }) },
  'com.docker.network.bridge.name': { read: bridge },
  'com.docker.network.driver.mtu': { read: mtu },
  'com.docker.network.bridge.enable_icc': { read: (value, key) => ({ isolate: !bool(key, value) }) },
  'com.docker.network.container_iface_prefix': {
    read: (value, key) => {
      if (!/^[A-Za-z][A-Za-z0-9_.-]{0,11}$/.test(value)) throw refuse(key, value, 'up to 12 letters and digits');
      return { prefix: value };
    },
  },
};

/** @param generic what Docker has under `com.docker.network.generic`. @throws RequestError that names the option. */
export function networkOptions(generic: Body): NetworkOptions {
  let options: NetworkOptions = { bridge: '', vlan: 0, mtu: DEFAULT_MTU, isolate: false, prefix: 'eth' };
  for (const [key, value] of Object.entries(generic)) {
    const reader = Object.hasOwn(READERS, key) ? READERS[key] : undefined;
    if (!reader) {
      const near = nearest(key, Object.keys(READERS));
      const help = near ? `did you mean ${near}?` : `known are ${Object.keys(READERS).join(', ')}`;
      throw new RequestError('unknown_option', `option ${key} is not known; ${help}`, { field: `Options.${key}` });
    }
    options = { ...options, ...reader.read(String(value), key) };
  }
  return options;
}
