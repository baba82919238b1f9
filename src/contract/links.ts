/**
 * Kernel network devices, as far as attaching containers needs them: veth pairs, addresses, routes. Done by ip(8) of
 * iproute2, one process a step; nothing here is on a packet's way.
 *
 * Every step may be repeated: what is there already is left, what is gone already is no error.
 */
import { execFile } from 'node:child_process';

/** Longest name of a network device in bytes (IFNAMSIZ less its NUL). */
export const DEVICE_NAME_MAX = 15;

const STEP_TIMEOUT_MS = 20_000;

/** A pair of devices: what one sends, the other receives. */
export interface VethPair {
  /** Stays here, a port of the switch. */
  readonly host: string;
  /** Goes into the container. */
  readonly peer: string;
  /** Ethernet address of `peer`; empty: the kernel's choice. */
  readonly mac: string;
  readonly mtu: number;
  /** Text by which `list` finds the pair again (`ip link … alias`). */
  readonly alias: string;
}

export interface Route {
  /** CIDR, or `default`. */
  readonly to: string;
  /** Empty: on the link. */
  readonly via: string;
  /** Further words of ip-route(8): `mtu 1400`, `table 100`, … */
  readonly more?: readonly string[];
}

export interface DeviceSettings {
  /** CIDR addresses to have; others stay. */
  readonly addresses: readonly string[];
  /** 0: as it is. */
  readonly mtu: number;
  readonly mac?: string;
  readonly routes?: readonly Route[];
}

/** What `ip -j address show` tells of a device, as far as it is read here. */
export interface DeviceState {
  readonly name: string;
  readonly mac: string;
  readonly mtu: number;
  readonly up: boolean;
  /** CIDR. */
  readonly addresses: readonly string[];
}

export interface Links {
  exists(name: string): Promise<boolean>;
  /** Makes a pair with its host end up, unless the host end is there. @throws Error with ip's own words. */
  addVeth(pair: VethPair): Promise<void>;
  /** Deletes a device, and with one end of a pair the other. */
  remove(name: string): Promise<void>;
  /** Host ends of pairs with this alias. */
  list(alias: string): Promise<string[]>;
}

interface ShownDevice {
  readonly ifname: string;
  readonly address?: string;
  readonly mtu: number;
  readonly flags: readonly string[];
  readonly ifalias?: string;
  readonly addr_info?: readonly { readonly local: string; readonly prefixlen: number }[];
}

export class IpLinks implements Links {
  /** Path of the network namespace to work in; empty: this process's. */
  readonly #netns: string;

  constructor(netns = '') {
    this.#netns = netns;
  }

  /** By ip(8): /sys may be that of another namespace. */
  async exists(name: string): Promise<boolean> {
    return (await this.show(name)) !== undefined;
  }

  async addVeth({ host, peer, mac, mtu, alias }: VethPair): Promise<void> {
    if (!(await this.exists(host))) {
      const address = mac === '' ? [] : ['address', mac];
      const end = ['mtu', String(mtu)];
      await this.ip(['link', 'add', host, ...end, 'type', 'veth', 'peer', 'name', peer, ...address, ...end]);
    }
    try {
      await this.ip(['link', 'set', 'dev', host, 'alias', alias]);
      await this.ip(['link', 'set', 'dev', host, 'up']);
    } catch (error) {
      await this.remove(host);
      throw error;
    }
  }

  async remove(name: string): Promise<void> {
    await this.ip(['link', 'delete', 'dev', name]).catch((error: Error) => {
      if (!/Cannot find device/.test(error.message)) throw error;
    });
  }

  /** Brings a device up with these settings. @throws Error */
  async configure(name: string, { addresses, mtu, mac, routes }: DeviceSettings): Promise<void> {
    if (mac) await this.ip(['link', 'set', 'dev', name, 'address', mac]);
    await this.ip(['link', 'set', 'dev', name, ...(mtu > 0 ? ['mtu', String(mtu)] : []), 'up']);
    for (const address of addresses) {
      // A fresh IPv6 address is of no use for a second while it is checked for duplicates; an IPAM gave this one out.
      const more = address.includes(':') ? ['nodad'] : ['broadcast', '+'];
      await this.ip(['address', 'replace', address, 'dev', name, ...(prefixOf(address) > 30 ? [] : more)]);
    }
    for (const { to, via, more } of routes ?? []) {
      const family = (to === 'default' ? via : to).includes(':') ? '-6' : '-4';
      await this.ip([family, 'route', 'replace', to, ...(via ? ['via', via] : []), 'dev', name, ...(more ?? [])]);
    }
  }

  async list(alias: string): Promise<string[]> {
    const devices = JSON.parse((await this.ip(['-j', 'link', 'show', 'type', 'veth'])) || '[]') as ShownDevice[];
    return devices.filter((device) => device.ifalias === alias).map((device) => device.ifname);
  }

  /** A device's state; undefined without such a device. */
  async show(name: string): Promise<DeviceState | undefined> {
    let text: string;
    try {
      text = await this.ip(['-j', 'address', 'show', 'dev', name]);
    } catch (error) {
      if (/does not exist/.test((error as Error).message)) return undefined;
      throw error;
    }
    const [device] = JSON.parse(text) as ShownDevice[];
    if (!device) return undefined;
    return {
      name: device.ifname,
      mac: device.address ?? '',
      mtu: device.mtu,
      up: device.flags.includes('UP'),
      addresses: (device.addr_info ?? []).map(({ local, prefixlen }) => `${local}/${prefixlen}`),
    };
  }

  /** Moves a device into another namespace under a new name. */
  async move(name: string, netns: string, newName: string): Promise<void> {
    await this.ip(['link', 'set', 'dev', name, 'netns', netns, 'name', newName]);
  }

  /** Runs ip(8): its output. @throws Error with what it said. */
  ip(args: readonly string[]): Promise<string> {
    const [file, words] = this.#netns === '' ? ['ip', args] : ['nsenter', [`--net=${this.#netns}`, 'ip', ...args]];
    return new Promise((done, failed) => {
      execFile(file, words, { timeout: STEP_TIMEOUT_MS, encoding: 'utf8' }, (error, stdout, stderr) => {
        if (!error) return done(stdout);
        const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
        const why = missing ? `${file} is not installed (package ${PACKAGES[file]})` : stderr.trim() || error.message;
        failed(new Error(`ip ${args.join(' ')}: ${why.replace(/^(RTNETLINK answers|Error): /, '')}`));
      });
    });
  }
}

const PACKAGES: Readonly<Record<string, string>> = { ip: 'iproute2', nsenter: 'util-linux' };

const prefixOf = (cidr: string): number => (cidr.includes(':') ? 0 : Number(cidr.split('/')[1] ?? 32));
