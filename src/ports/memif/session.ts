/**
 * Main-thread half of a memif port: its socket, its connection, and what the port says about itself.
 *
 * Connections live one after the other, each with a device of its own; the next comes up only when the one before has let
 * go of everything. After a fault the port says `error` until a peer is up again.
 */
import { peerCredentials } from '#contract/os.ts';
import type { PortConfig, PortHost, PortSession, PortState, PortStatus } from '#ports/port.ts';
import { Endpoint } from '../socket/endpoint.ts';
import { Channel, printable } from './channel.ts';
import { clientHandler } from './client.ts';
import { MemifDevice } from './device.ts';
import { listen } from './listener.ts';
import { parseOptions, type Settings } from './options.ts';
import { serverHandler } from './server.ts';
import { encodeAck, type Init } from './wire.ts';

/** How often workers' findings about rings are read. */
const CHECK_MS = 100;

export class MemifSession implements PortSession {
  readonly portNo: number;
  readonly #config: PortConfig;
  readonly #host: PortHost;
  readonly #rundir: string;
  readonly #settings: Settings;
  #endpoint: Endpoint | undefined;
  #unlisten: (() => void) | undefined;
  #channel: Channel | undefined;
  #device: MemifDevice | undefined;
  /** What the peer says of itself: process, program, interface. */
  #peer: Record<string, string> = {};
  #error = '';
  #faulted = false;
  #timer: NodeJS.Timeout | undefined;
  /** Resolves when the connection that ends now has let go of everything. */
  #ending: Promise<void> = Promise.resolve();
  #told = '';

  /** @throws Error naming the option at fault. */
  constructor(config: PortConfig, host: PortHost, rundir: string) {
    this.portNo = config.portNo;
    this.#config = config;
    this.#host = host;
    this.#rundir = rundir;
    this.#settings = parseOptions(config, rundir);
  }

  async start(): Promise<void> {
    const settings = this.#settings;
    if (settings.mode === 'server') {
      this.#unlisten = listen({
        name: this.#config.name,
        settings,
        take: (channel, init) => this.#take(channel, init),
        refused: (reason) => this.#trouble(`a client was refused: ${reason}${hintOf(reason)}`),
      });
    } else {
      const connected = (fd: number) => this.#connected(fd);
      this.#endpoint = new Endpoint(settings, connected, (reason) => this.#trouble(reason));
      this.#endpoint.start();
    }
    this.#timer = setInterval(() => this.check(), CHECK_MS);
    this.#timer.unref();
    this.#tell();
  }

  async reconfigure(options: Readonly<Record<string, string>>): Promise<boolean> {
    const next = parseOptions({ ...this.#config, options }, this.#rundir);
    return JSON.stringify(next) === JSON.stringify(this.#settings);
  }

  fault(reason: string): void {
    this.#faulted = true;
    this.#error = reason;
    if (this.#channel) this.#channel.end(reason);
    else this.#tell();
  }

  /** Closes the connection when a worker found a ring that makes no sense. Runs by itself every 100 ms. */
  check(): void {
    const broken = this.#device?.broken();
    if (broken !== undefined) this.fault(`the peer broke a ring: ${broken}`);
  }

  status(): PortStatus {
    const { mode, path, id } = this.#settings;
    const state = this.#state();
    const facts: Record<string, string> = {
      role: mode,
      status: this.#channel ? 'connected' : 'disconnected',
      socket: path,
      id: String(id),
      mtu: String(this.#config.mtu),
      ...(this.#channel ? this.#peer : {}),
      ...this.#device?.facts(),
    };
    return { state, lastError: state === 'up' ? '' : this.#error, linkUp: state === 'up', facts };
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#unlisten?.();
    this.#unlisten = undefined;
    this.#endpoint?.stop();
    this.#endpoint = undefined;
    this.#channel?.end('the port was removed');
    await this.#ending;
  }

  #state(): PortState {
    if (this.#device?.up) return 'up';
    if (this.#faulted) return 'error';
    if (this.#channel) return 'negotiating';
    return this.#settings.mode === 'client' ? 'connecting' : 'waiting-socket';
  }

  #trouble(reason: string): void {
    if (!this.#faulted) this.#error = reason;
    this.#tell();
  }

  /** Server: a client asks for this port. One that comes back may be here before the end of its last connection is known. */
  async #take(channel: Channel, init: Init): Promise<void> {
    this.#channel?.probe();
    if (!this.#channel) await this.#ending;
    if (this.#channel || !this.#unlisten) throw new Error('another client is connected');
    const device = this.#open(channel, { remote_app: printable(init.name) });
    channel.handOver(
      serverHandler({
        device,
        channel,
        name: this.#config.name,
        progress: (peer) => this.#progress(device, peer === undefined ? {} : { peer_name: printable(peer) }),
      }),
      (reason, byPeer) => this.#ended(device, reason, byPeer),
    );
    channel.send(encodeAck());
    this.#tell();
  }

  /** Client: the server was reached. */
  #connected(fd: number): void {
    const device = this.#newDevice();
    const channel: Channel = new Channel(
      fd,
      'server',
      clientHandler({
        device,
        channel: () => channel,
        settings: this.#settings,
        name: this.#config.name,
        progress: ({ app, peer }) =>
          this.#progress(device, {
            ...(app === undefined ? {} : { remote_app: printable(app) }),
            ...(peer === undefined ? {} : { peer_name: printable(peer) }),
          }),
      }),
      (reason, byPeer) => this.#ended(device, reason, byPeer),
    );
    this.#open(channel, {}, device);
    this.#tell();
  }

  #newDevice(): MemifDevice {
    return new MemifDevice({
      portNo: this.portNo,
      mtu: this.#config.mtu,
      settings: this.#settings,
      attach: (attachment) => this.#host.attach(this.portNo, attachment),
    });
  }

  #open(channel: Channel, peer: Record<string, string>, device = this.#newDevice()): MemifDevice {
    this.#channel = channel;
    this.#device = device;
    this.#peer = { ...pidOf(channel.fd), ...peer };
    return device;
  }

  #ended(device: MemifDevice, reason: string, byPeer: boolean): void {
    this.#channel = undefined;
    if (reason) {
      this.#faulted = !byPeer;
      this.#error = `${reason}${hintOf(reason)}`;
    }
    this.#ending = device
      .close()
      .catch((error: Error) => this.#trouble(error.message))
      .then(() => {
        if (this.#device === device) this.#device = undefined;
        this.#endpoint?.released(reason !== '' && !byPeer);
        this.#tell();
      });
  }

  #progress(device: MemifDevice, peer: Record<string, string>): void {
    if (this.#device !== device) return;
    Object.assign(this.#peer, peer);
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

/** What to do about a refusal, the own or the peer's. */
function hintOf(reason: string): string {
  if (/secret/i.test(reason)) return '; option secret must be the same on both sides';
  if (/\bid\b/i.test(reason)) return '; option id must be the same on both sides';
  return '';
}

function pidOf(fd: number): Record<string, string> {
  try {
    return { peer_pid: String(peerCredentials(fd).pid) };
  } catch {
    return {};
  }
}
