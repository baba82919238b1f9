/**
 * Port types `tap` and `internal`: a device of the host that is the other end of the port (tun(4)).
 *
 * The device is made with the port and goes with it, however the process ends. What others change about it is followed: its
 * MTU bounds what is sent to it; when it is deleted, it is made again.
 */
import { close, OsError, tapOffload, tapOpen } from '#contract/os.ts';
import type { PortConfig, PortHost, PortSession, PortStatus } from '../port.ts';
import { addAddress, findLink, type InterfaceMonitor, linkFacts, setLink } from './interfaces.ts';
import { type TapSettings, tapSettings } from './options.ts';
import type { Link } from './rtnetlink.ts';
import { TAP_KIND, type TapAttachment } from './tap-attachment.ts';
import { takesDatagrams } from './version.ts';

/** TUN_F_CSUM, TSO4, TSO6, TSO_ECN, and USO4, USO6 (linux/if_tun.h): the device may leave these to whoever receives. */
const OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08 | (takesDatagrams() ? 0x20 | 0x40 : 0);
const RETRY_MS = 1000;

export class TapSession implements PortSession {
  readonly portNo: number;
  readonly #config: PortConfig;
  readonly #host: PortHost;
  readonly #monitor: InterfaceMonitor;
  #settings: TapSettings;
  #mtu: number;
  #fds: number[] = [];
  #link: Link | undefined;
  /** What workers have: index and MTU. */
  #attached = '';
  #error = '';
  /** The device lies in another network namespace, where it cannot be seen from here. */
  #moved = false;
  #stopWatch: (() => void) | undefined;
  #retry: NodeJS.Timeout | undefined;
  #work: Promise<void> = Promise.resolve();
  #stopped = false;

  /** @throws Error naming the option at fault. */
  constructor(config: PortConfig, host: PortHost, monitor: InterfaceMonitor) {
    this.portNo = config.portNo;
    this.#config = config;
    this.#host = host;
    this.#monitor = monitor;
    this.#settings = tapSettings(config);
    this.#mtu = config.mtu;
  }

  async start(): Promise<void> {
    const { ifname } = this.#settings;
    try {
      this.#create();
      const { stop, link } = this.#monitor.watch(ifname, (now) => this.#changed(now));
      this.#stopWatch = stop;
      this.#link = link;
    } catch (error) {
      this.#drop();
      throw new Error(`port ${this.#config.name}: ${reasonOf(ifname, error)}`, { cause: error });
    }
    await this.#attach();
  }

  async reconfigure(options: Readonly<Record<string, string>>): Promise<boolean> {
    const next = tapSettings({ ...this.#config, options });
    const { ifname, queues, offload, mac } = this.#settings;
    // An address that is not named any more would have to be guessed at: it may have been given by hand.
    const gone = this.#settings.addresses.length > next.addresses.length || (mac !== '' && next.mac === '');
    if (next.ifname !== ifname || next.queues !== queues || next.offload !== offload || gone) return false;
    this.#settings = next;
    if (this.#link) this.#dress(this.#link);
    return true;
  }

  async setMtu(mtu: number): Promise<boolean> {
    if (this.#link) setLink(this.#link, { mtu });
    this.#mtu = mtu;
    return true;
  }

  /** No guest memory here. */
  fault(): void {}

  status(): PortStatus {
    const link = this.#link;
    const facts: Record<string, string> = link
      ? { ...linkFacts(link), driver_name: 'tun', queues: String(this.#fds.length) }
      : { ifname: this.#settings.ifname };
    if (this.#moved) facts['netns'] = 'other';
    const linkUp = this.#moved || (link?.up === true && link.running);
    return { state: link || this.#moved ? 'up' : 'error', lastError: this.#error, linkUp, facts };
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#stopWatch?.();
    await this.#work;
    await this.#host.attach(this.portNo, undefined);
    this.#drop();
  }

  /** @throws OsError */
  #create(): void {
    const { ifname, queues, offload } = this.#settings;
    for (let i = 0; i < queues; i++) {
      const fd = tapOpen(ifname, i === 0, queues > 1);
      this.#fds.push(fd);
      tapOffload(fd, offload ? OFFLOADS : 0);
    }
    const link = findLink(ifname);
    if (!link) throw new Error(`the device ${ifname} was deleted at once`);
    setLink(link, { mtu: this.#mtu });
    this.#dress(link);
    setLink(link, { up: true });
  }

  /** Address of the link and of the host on it. @throws OsError */
  #dress(link: Link): void {
    const { mac, addresses } = this.#settings;
    if (mac !== '' && mac.toLowerCase() !== link.mac) setLink(link, { mac });
    for (const address of addresses) addAddress(link, address);
  }

  /** A queue of a device that was deleted says EBADFD. */
  #exists(): boolean {
    try {
      for (const fd of this.#fds) tapOffload(fd, this.#settings.offload ? OFFLOADS : 0);
      return this.#fds.length > 0;
    } catch {
      return false;
    }
  }

  #changed(link: Link | undefined): void {
    if (this.#stopped) return;
    this.#work = this.#work
      .then(() => this.#follow(link))
      .catch((error: Error) => {
        this.#error = error.message;
      })
      .then(() => this.#host.status(this.portNo, this.status()));
  }

  async #follow(link: Link | undefined): Promise<void> {
    const before = this.#link;
    this.#link = link;
    this.#moved = link === undefined && (before !== undefined || this.#moved) && this.#exists();
    if (link) this.#error = '';
    if (link && this.#fds.length > 0) await this.#attach();
    if (link || !before || this.#moved) return;
    this.#error = `the device ${this.#settings.ifname} was deleted by somebody; it is made again`;
    this.#attached = '';
    await this.#host.attach(this.portNo, undefined);
    this.#drop();
    this.#makeAgain();
  }

  #makeAgain(): void {
    if (this.#stopped) return;
    try {
      this.#create();
      this.#error = '';
    } catch (error) {
      this.#drop();
      this.#error = reasonOf(this.#settings.ifname, error);
      this.#retry = setTimeout(() => this.#makeAgain(), RETRY_MS);
      this.#retry.unref();
      this.#host.status(this.portNo, this.status());
    }
  }

  async #attach(): Promise<void> {
    const mtu = this.#link?.mtu ?? this.#mtu;
    const attached = `${this.#link?.ifindex} ${mtu}`;
    if (attached === this.#attached) return;
    const attachment: TapAttachment = {
      kind: TAP_KIND,
      portNo: this.portNo,
      rxQueues: this.#fds.map((_, queue) => queue),
      fds: this.#fds,
      mtu,
    };
    await this.#host.attach(this.portNo, attachment);
    this.#attached = attached;
  }

  #drop(): void {
    for (const fd of this.#fds) close(fd);
    this.#fds = [];
  }
}

/** What went wrong with a device, and what would help. */
function reasonOf(ifname: string, error: unknown): string {
  const { message } = error as Error;
  const code = error instanceof OsError ? error.code : '';
  if (code === 'EPERM' || code === 'EACCES')
    return `the device ${ifname} cannot be made: ${message}; the data plane needs CAP_NET_ADMIN`;
  if (code === 'EBUSY' || code === 'EEXIST' || code === 'EINVAL')
    return `the device ${ifname} cannot be made: ${message}; an interface of that name may be there already`;
  if (code === 'ENOENT') return `the device ${ifname} cannot be made: ${message}; /dev/net/tun is needed`;
  return `the device ${ifname} cannot be made: ${message}`;
}
