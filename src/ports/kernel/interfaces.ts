/**
 * The network interfaces of the host as ports see them: found by name, changed, and watched, so that one that vanishes and
 * comes back is noticed. All through rtnetlink, in the network namespace that the process was started in.
 *
 * The kernel answers a request before the call that sends it returns, so requests are made and answered without waiting.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { close, EAGAIN, errnoName, netlinkOpen, OsError, recvWithFds, sendWithFds, Watcher } from '#contract/os.ts';
import {
  type Cidr,
  decodeLink,
  encodeAddressAdd,
  encodeLinkDump,
  encodeLinkGet,
  encodeLinkSet,
  GROUP_LINK,
  type Link,
  type LinkChange,
  messagesOf,
  NETLINK_ROUTE,
  type NetlinkMessage,
  RTM_DELLINK,
  RTM_NEWLINK,
  resultOf,
} from './rtnetlink.ts';

/** Longer than any datagram that the kernel makes (32 KiB for dumps). */
const DATAGRAM_BYTES = 65_536;
const ENODEV = 19;
const NO_FDS = new Int32Array(0);

/** One request and all of its answer. @throws OsError with the kernel's errno. */
function request(what: string, make: (seq: number) => Uint8Array): NetlinkMessage[] {
  const fd = netlinkOpen(NETLINK_ROUTE, 0);
  try {
    const bytes = make(1);
    const sent = sendWithFds(fd, bytes, 0, bytes.length, null, 0);
    if (sent < 0) throw new OsError('rtnetlink', -sent, what);
    const answer: NetlinkMessage[] = [];
    for (;;) {
      const buffer = new Uint8Array(DATAGRAM_BYTES);
      const got = recvWithFds(fd, buffer, 0, buffer.length, NO_FDS);
      // A get without DUMP has no end of its own.
      if (got === -EAGAIN) return answer;
      if (got < 0) throw new OsError('rtnetlink', -got, what);
      for (const message of messagesOf(buffer.subarray(0, got))) {
        const result = resultOf(message);
        if (result === 0) return answer;
        if (result !== undefined) throw new OsError('rtnetlink', result, what);
        answer.push(message);
      }
    }
  } finally {
    close(fd);
  }
}

const linksOf = (messages: readonly NetlinkMessage[]): Link[] =>
  messages.flatMap(({ type, body }) => (type === RTM_NEWLINK ? (decodeLink(body) ?? []) : []));

/** The interface of this name as it is now; undefined: there is none. */
export function findLink(name: string): Link | undefined {
  try {
    return linksOf(request(name, (seq) => encodeLinkGet(seq, name)))[0];
  } catch (error) {
    if ((error as OsError).errno === ENODEV) return undefined;
    throw error;
  }
}

/** @throws OsError: EPERM (no CAP_NET_ADMIN), ENODEV, EINVAL (an MTU that the device cannot have). */
export function setLink({ ifindex, name }: Link, change: LinkChange): void {
  request(name, (seq) => encodeLinkSet(seq, ifindex, change));
}

/** Gives an interface an address; one that it has already stays. @throws OsError */
export function addAddress({ ifindex, name }: Link, address: Cidr): void {
  request(name, (seq) => encodeAddressAdd(seq, ifindex, address));
}

const sysfs = (name: string, file: string): string => {
  try {
    return readFileSync(`/sys/class/net/${name}/${file}`, 'utf8').trim();
  } catch {
    // The interface, or what the file tells, is not there.
    return '';
  }
};

function driverOf({ name, kind }: Link): string {
  if (kind !== '') return kind;
  try {
    return basename(readlinkSync(`/sys/class/net/${name}/device/driver`));
  } catch {
    return '';
  }
}

/** What the status of a port says of its interface, by the names of ovs-vswitchd.conf.db(5) (Interface). */
export function linkFacts(link: Link): Record<string, string> {
  const facts: Record<string, string> = {
    ifindex: String(link.ifindex),
    mac: link.mac,
    mtu: String(link.mtu),
    admin_state: link.up ? 'up' : 'down',
    link_state: link.running ? 'up' : 'down',
  };
  const driver = driverOf(link);
  if (driver) facts['driver_name'] = driver;
  const speed = Number(sysfs(link.name, 'speed'));
  // In Mbit/s; -1 or nothing where the driver does not know.
  if (speed > 0) facts['link_speed'] = String(speed * 1_000_000);
  const duplex = sysfs(link.name, 'duplex');
  if (duplex === 'full' || duplex === 'half') facts['duplex'] = duplex;
  return facts;
}

interface Subscriber {
  readonly name: string;
  readonly changed: (link: Link | undefined) => void;
  told: string;
}

/** Watches interfaces by name. Open while anybody watches. */
export class InterfaceMonitor {
  readonly #links = new Map<number, Link>();
  readonly #subscribers = new Set<Subscriber>();
  readonly #watcher = new Watcher(() => this.#receive(), { unref: true });
  #fd = -1;

  /**
   * Calls `changed` when the interface of this name appears, changes or vanishes; not for how it is now, which is returned.
   * @returns what ends the watch, and the interface.
   */
  watch(name: string, changed: Subscriber['changed']): { stop: () => void; link: Link | undefined } {
    if (this.#fd < 0) {
      this.#fd = netlinkOpen(NETLINK_ROUTE, GROUP_LINK);
      this.#watcher.add(this.#fd);
      this.#readAll();
    }
    const link = this.#find(name);
    const subscriber: Subscriber = { name, changed, told: JSON.stringify(link) };
    this.#subscribers.add(subscriber);
    const stop = (): void => {
      this.#subscribers.delete(subscriber);
      if (this.#subscribers.size > 0 || this.#fd < 0) return;
      this.#watcher.remove(this.#fd);
      close(this.#fd);
      this.#fd = -1;
    };
    return { stop, link };
  }

  #find(name: string): Link | undefined {
    for (const link of this.#links.values()) if (link.name === name) return link;
    return undefined;
  }

  #readAll(): void {
    this.#links.clear();
    for (const link of linksOf(request('links', encodeLinkDump))) this.#links.set(link.ifindex, link);
  }

  #receive(): void {
    for (;;) {
      const buffer = new Uint8Array(DATAGRAM_BYTES);
      const got = recvWithFds(this.#fd, buffer, 0, buffer.length, NO_FDS);
      if (got === -EAGAIN) break;
      if (got < 0 && errnoName(got) === 'ENOBUFS') this.#readAll();
      else if (got < 0) break;
      else for (const message of messagesOf(buffer.subarray(0, got))) this.#take(message);
    }
    for (const subscriber of [...this.#subscribers]) {
      const link = this.#find(subscriber.name);
      const told = JSON.stringify(link);
      if (told === subscriber.told) continue;
      subscriber.told = told;
      subscriber.changed(link);
    }
  }

  #take({ type, body }: NetlinkMessage): void {
    const link = type === RTM_NEWLINK || type === RTM_DELLINK ? decodeLink(body) : undefined;
    if (!link) return;
    if (type === RTM_NEWLINK) this.#links.set(link.ifindex, link);
    else this.#links.delete(link.ifindex);
  }
}
