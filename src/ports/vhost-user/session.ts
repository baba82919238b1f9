/**
 * Main-thread half of a vhost-user port: socket, connection, device, and what the port says about itself.
 *
 * Connections live one after the other. Each has a device of its own; the next is accepted only when the one before has
 * let go of everything. After a fault the port says `error` until a guest is up again.
 */
import { peerCredentials } from '#contract/os.ts';
import type { PortConfig, PortHost, PortSession, PortState, PortStatus } from '#ports/port.ts';
import { Endpoint } from '../socket/endpoint.ts';
import { Connection } from './connection.ts';
import { type DeviceHost, VhostUserDevice } from './device.ts';
import { parseOptions, type Settings } from './options.ts';

/** How often workers' findings about rings are read. */
const CHECK_MS = 100;

/** What holds for ports whose options say nothing, asked when a guest connects. */
export interface Defaults {
  /** other_config:vhost-iommu-support. */
  readonly iommu?: () => boolean;
}

export class VhostUserSession implements PortSession {
  readonly portNo: number;
  readonly #config: PortConfig;
  readonly #host: PortHost;
  readonly #rundir: string;
  readonly #defaults: Defaults;
  #settings: Settings;
  /** Ethernet payload of frames for the guest, in bytes. */
  #mtu: number;
  #endpoint: Endpoint | undefined;
  #connection: Connection | undefined;
  #device: VhostUserDevice | undefined;
  #peer = '';
  #error = '';
  #faulted = false;
  #timer: NodeJS.Timeout | undefined;
  /** Resolves when the connection that ends now has let go of everything. */
  #ending: Promise<void> = Promise.resolve();
  #told = '';

  /** @throws Error naming the option at fault. */
  constructor(config: PortConfig, host: PortHost, rundir: string, defaults: Defaults = {}) {
    this.portNo = config.portNo;
    this.#config = config;
    this.#host = host;
    this.#rundir = rundir;
    this.#defaults = defaults;
    this.#settings = parseOptions(config, rundir);
    this.#mtu = config.mtu;
  }

  async start(): Promise<void> {
    this.#open();
    this.#timer = setInterval(() => this.check(), CHECK_MS);
    this.#timer.unref();
    this.#tell();
  }

  async reconfigure(options: Readonly<Record<string, string>>): Promise<boolean> {
    const next = parseOptions({ ...this.#config, options }, this.#rundir);
    const { offloads, packed, iommu } = next;
    if (JSON.stringify(next) !== JSON.stringify({ ...this.#settings, offloads, packed, iommu })) return false;
    // Features stand for as long as a connection does: the next one is offered others.
    this.#settings = next;
    this.#tell();
    return true;
  }

  async setMtu(mtu: number): Promise<boolean> {
    this.#mtu = mtu;
    await this.#device?.setMtu(mtu);
    this.#tell();
    return true;
  }

  fault(reason: string): void {
    this.#faulted = true;
    this.#error = reason;
    if (this.#connection) this.#connection.end(reason);
    else this.#tell();
  }

  /** Closes the connection when a worker found a ring that makes no sense, and tidies up. Runs by itself every 100 ms. */
  check(): void {
    const broken = this.#device?.broken();
    if (broken !== undefined) this.fault(`the guest broke a ring: ${broken}`);
    else this.#device?.tidy().catch((error: Error) => this.fault(error.message));
  }

  status(): PortStatus {
    const device = this.#device;
    const facts: Record<string, string> = {
      mode: this.#settings.mode,
      status: this.#connection ? 'connected' : 'disconnected',
      socket: this.#settings.path,
      mtu: String(this.#mtu),
      offloads_offered: this.#settings.offloads.join(',').toLowerCase() || 'none',
    };
    if (this.#connection && this.#peer) facts['peer_pid'] = this.#peer;
    if (device) Object.assign(facts, device.facts());
    const state = this.#state();
    const lastError = state === 'up' ? '' : this.#error || device?.memoryError || device?.ringError || '';
    return { state, lastError, linkUp: state === 'up', facts };
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#endpoint?.stop();
    this.#endpoint = undefined;
    this.#connection?.end('');
    await this.#ending;
  }

  #state(): PortState {
    const device = this.#device;
    if (device?.up) return 'up';
    if (this.#faulted) return 'error';
    if (!this.#connection || !device) return this.#settings.mode === 'client' ? 'connecting' : 'waiting-socket';
    if (device.memoryError) return 'no-shared-memory';
    return device.hasMemory ? 'rings-stopped' : 'negotiating';
  }

  #open(): void {
    const endpoint = new Endpoint(
      this.#settings,
      (fd) => this.#connected(fd),
      (reason) => this.#trouble(reason),
    );
    endpoint.start();
    this.#endpoint = endpoint;
  }

  #trouble(reason: string): void {
    if (!this.#faulted) this.#error = reason;
    this.#tell();
  }

  #connected(fd: number): void {
    const host: DeviceHost = {
      portNo: this.portNo,
      mtu: this.#mtu,
      settings: this.#settings,
      iommu: this.#settings.iommu ?? this.#defaults.iommu?.() ?? false,
      rundir: this.#rundir,
      attach: (attachment) => this.#host.attach(this.portNo, attachment),
      barrier: async () => this.#host.barrier?.(),
    };
    const device = new VhostUserDevice(host);
    this.#device = device;
    this.#peer = peerOf(fd);
    if (!this.#faulted) this.#error = '';
    /** The message being obeyed; the device is closed after it. */
    let turn: Promise<unknown> = Promise.resolve();
    this.#connection = new Connection(
      fd,
      (message, fds) => {
        const work = device.handle(message, fds).finally(() => this.#progress(device));
        turn = work.catch(() => undefined);
        return work;
      },
      (reason) => {
        this.#connection = undefined;
        device.abandon();
        if (reason) {
          this.#faulted = true;
          this.#error = reason;
        }
        this.#ending = turn
          .then(() => device.close())
          .catch((error: Error) => this.#trouble(error.message))
          .then(() => this.#released(device, reason !== ''));
      },
    );
    this.#tell();
  }

  #released(device: VhostUserDevice, faulty: boolean): void {
    if (this.#device === device) this.#device = undefined;
    this.#endpoint?.released(faulty);
    this.#tell();
  }

  #progress(device: VhostUserDevice): void {
    if (this.#device !== device) return;
    if (device.up) {
      this.#faulted = false;
      this.#error = '';
      this.#endpoint?.healthy();
    }
    this.#tell();
  }

  #tell(): void {
    const status = this.status();
    const text = JSON.stringify(status);
    if (text === this.#told) return;
    this.#told = text;
    this.#host.status(this.portNo, status);
  }
}

const peerOf = (fd: number): string => {
  try {
    return String(peerCredentials(fd).pid);
  } catch {
    return '';
  }
};
