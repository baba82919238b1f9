/**
 * Port type `system`: an interface that the host has already, such as a veth end or a network card.
 *
 * The interface may come, go, go down and come back: while it is there and up, a backend moves its frames; else the port says
 * what it waits for. Its MTU is followed, and set where mtu_request asks for one.
 */
import { refuseUnknown } from '../options.ts';
import type { PortConfig, PortHost, PortSession, PortState, PortStatus } from '../port.ts';
import type { Backend, OpenBackend } from './backend.ts';
import { type InterfaceMonitor, linkFacts, setLink } from './interfaces.ts';
import { interfaceName } from './options.ts';
import type { Link } from './rtnetlink.ts';

/** Interfaces that failed to open are tried again. */
const RETRY_MS = 2000;
/** How often losses that the kernel counts are told. */
const REFRESH_MS = 1000;

/** Ways to reach an interface, best first, by the name of their options. */
export interface SystemBackends {
  /** Options that the backends read. */
  readonly options: readonly string[];
  /** Checks those options. @throws Error */
  check(options: PortConfig['options']): void;
  /** What is to be tried for these options, in this order. */
  choose(options: PortConfig['options']): readonly OpenBackend[];
}

export class SystemSession implements PortSession {
  readonly portNo: number;
  readonly #host: PortHost;
  readonly #monitor: InterfaceMonitor;
  readonly #backends: SystemBackends;
  readonly #name: string;
  #options: PortConfig['options'];
  /** 0: the interface's own. */
  #mtu: number;
  #link: Link | undefined;
  #backend: Backend | undefined;
  #backendIndex = 0;
  #attachedMtu = 0;
  #error = '';
  /** Why better backends than the one in use could not be had. */
  #passedOver = '';
  #stopWatch: (() => void) | undefined;
  #retry: NodeJS.Timeout | undefined;
  #refresh: NodeJS.Timeout | undefined;
  #told = '';
  #work: Promise<void> = Promise.resolve();
  #stopped = false;

  /** @throws Error naming the option at fault. */
  constructor(config: PortConfig, host: PortHost, monitor: InterfaceMonitor, backends: SystemBackends) {
    this.portNo = config.portNo;
    this.#host = host;
    this.#monitor = monitor;
    this.#backends = backends;
    refuseUnknown(config, ['ifname', ...backends.options]);
    backends.check(config.options);
    this.#name = interfaceName(config);
    this.#options = config.options;
    this.#mtu = config.mtu;
  }

  async start(): Promise<void> {
    const { stop, link } = this.#monitor.watch(this.#name, (now) => this.#changed(now));
    this.#stopWatch = stop;
    this.#link = link;
    await this.#follow();
    this.#refresh = setInterval(() => this.#tell(), REFRESH_MS);
    this.#refresh.unref();
  }

  async reconfigure(options: Readonly<Record<string, string>>): Promise<boolean> {
    const keys = new Set([...Object.keys(options), ...Object.keys(this.#options)]);
    keys.delete('pmd-rxq-affinity');
    for (const key of keys) if (options[key] !== this.#options[key]) return false;
    this.#options = options;
    return true;
  }

  async setMtu(mtu: number): Promise<boolean> {
    this.#mtu = mtu;
    if (this.#link) this.#setMtu(this.#link);
    return true;
  }

  /** No guest memory here. */
  fault(): void {}

  status(): PortStatus {
    const link = this.#link;
    const facts: Record<string, string> = link ? linkFacts(link) : { ifname: this.#name };
    if (this.#backend) Object.assign(facts, { backend: this.#backend.name }, this.#backend.facts());
    if (this.#passedOver) facts['xdp_refused'] = this.#passedOver;
    const linkUp = this.#backend !== undefined && link?.up === true && link.running;
    return { state: this.#state(), lastError: this.#error, linkUp, facts };
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    clearInterval(this.#refresh);
    this.#stopWatch?.();
    await this.#work;
    await this.#close();
  }

  #state(): PortState {
    if (this.#backend) return 'up';
    return this.#link?.up ? 'error' : 'waiting-interface';
  }

  #changed(link: Link | undefined): void {
    this.#link = link;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#work = this.#work
      .then(() => this.#follow())
      .catch((error: Error) => {
        this.#error = error.message;
      })
      .then(() => this.#tell());
  }

  #tell(): void {
    const status = this.status();
    const text = JSON.stringify(status);
    if (text === this.#told) return;
    this.#told = text;
    this.#host.status(this.portNo, status);
  }

  /** Brings backend and attachment in line with the interface. */
  async #follow(): Promise<void> {
    const link = this.#link;
    if (this.#backend && (!link?.up || link.ifindex !== this.#backendIndex)) await this.#close();
    if (this.#stopped) return;
    if (!link) this.#error = `there is no interface ${this.#name}; it is used as soon as there is`;
    else if (!link.up) this.#error = `the interface ${this.#name} is down: ip link set ${this.#name} up`;
    if (!link?.up) return;
    this.#error = '';
    if (!this.#backend) {
      this.#setMtu(link);
      this.#open(link);
    }
    if (this.#backend && this.#attachedMtu !== link.mtu) {
      await this.#host.attach(this.portNo, this.#backend.attachment(link.mtu));
      this.#attachedMtu = link.mtu;
    }
  }

  /** An interface that cannot have the MTU is used with its own. */
  #setMtu(link: Link): void {
    if (this.#mtu === 0 || this.#mtu === link.mtu) return;
    try {
      setLink(link, { mtu: this.#mtu });
    } catch (error) {
      this.#error = `the MTU of ${this.#name} stays ${link.mtu}: ${(error as Error).message}`;
    }
  }

  #open(link: Link): void {
    const reasons: string[] = [];
    clearTimeout(this.#retry);
    for (const open of this.#backends.choose(this.#options)) {
      try {
        this.#backend = open({ portNo: this.portNo, link, options: this.#options });
        this.#backendIndex = link.ifindex;
        this.#passedOver = reasons.join('; ');
        return;
      } catch (error) {
        reasons.push((error as Error).message);
      }
    }
    this.#error = `the interface ${this.#name} cannot be used: ${reasons.join('; ')}`;
    this.#retry = setTimeout(() => this.#schedule(), RETRY_MS);
    this.#retry.unref();
  }

  async #close(): Promise<void> {
    const backend = this.#backend;
    this.#backend = undefined;
    this.#attachedMtu = 0;
    if (!backend) return;
    try {
      await this.#host.attach(this.portNo, undefined);
    } finally {
      backend.close();
    }
  }
}
