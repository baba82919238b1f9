/**
 * Ports that the data plane does not move packets for one by one: patch ports, which exist in translation only, and tunnel
 * ports, of which all with one protocol and UDP port share a port of the data plane.
 */
import { PORT_COUNTERS, type PortCounter } from '#contract/catalogue.ts';
import { type PortSpec, RequestError } from './api.ts';
import type { Bridge } from './bridge.ts';
import type { Datapath, DatapathPort, DatapathPortConfig, PortStatistics } from './datapath.ts';
import type { OfPort } from './port.ts';
import { datapathConfig } from './specs.ts';
import { fitOf, isTunnelType, parseTunnel, sameTunnel, TUNNELS, type Tunnel, tunnelKey } from './tunnel.ts';

export const isVirtual = (type: string): boolean => type === 'patch' || isTunnelType(type);

/** A port of the data plane that tunnels share. */
export interface TunnelListener {
  readonly name: string;
  readonly dpPort: number;
  readonly tunnel: Tunnel;
  readonly users: number;
}

interface Place {
  readonly bridge: Bridge;
  readonly port: OfPort;
}

const PATCH_OPTIONS = ['peer'];

/** @throws RequestError that names the option. */
export function checkVirtual(spec: PortSpec): void {
  if (isTunnelType(spec.type)) {
    parseTunnel(spec.type, spec);
    return;
  }
  for (const key of Object.keys(spec.options)) {
    if (!PATCH_OPTIONS.includes(key))
      throw new RequestError('unknown_option', `patch port ${spec.name} has no option ${key}`, {
        field: `options.${key}`,
        hint: 'a patch port has the option peer',
      });
  }
}

export class VirtualPorts {
  readonly #datapath: Datapath;
  readonly #bridges: ReadonlyMap<string, Bridge>;
  /** By name. */
  readonly #listeners = new Map<
    string,
    { dpPort: number; config: DatapathPortConfig; tunnel: Tunnel; users: Place[] }
  >();

  constructor(datapath: Datapath, bridges: ReadonlyMap<string, Bridge>) {
    this.#datapath = datapath;
    this.#bridges = bridges;
  }

  /** Whether there is any tunnel: without one no packet has to be looked at for its sake. */
  get hasTunnels(): boolean {
    return this.#listeners.size > 0;
  }

  /** Sets up a port of a virtual type, whose settings `checkVirtual` found sound. @throws the data plane's own error */
  async add(bridge: Bridge, port: OfPort): Promise<void> {
    const { spec } = port;
    if (isTunnelType(spec.type)) await this.#listen(bridge, port, parseTunnel(spec.type, spec));
    this.resolve();
  }

  /** Takes a port of a virtual type down. */
  async remove(port: OfPort): Promise<void> {
    const { tunnel } = port;
    port.tunnel = undefined;
    port.peer = undefined;
    port.dpPort = 0;
    if (tunnel !== undefined) {
      const name = TUNNELS[tunnel.type].datapathName(tunnel.dstPort);
      const listener = this.#listeners.get(name);
      if (listener !== undefined) {
        listener.users = listener.users.filter((user) => user.port !== port);
        if (listener.users.length === 0) {
          this.#listeners.delete(name);
          if (this.#datapath.ports().some(({ portNo }) => portNo === listener.dpPort))
            await this.#datapath.deletePort(listener.dpPort);
        }
      }
    }
    this.resolve();
  }

  async #listen(bridge: Bridge, port: OfPort, tunnel: Tunnel): Promise<void> {
    const { type, dstPort } = tunnel;
    const name = TUNNELS[type].datapathName(dstPort);
    const options: Record<string, string> = dstPort === 0 ? {} : { dst_port: String(dstPort) };
    const config = datapathConfig({ ...port.spec, name, type, options, mtuRequest: 65_535 });
    let listener = this.#listeners.get(name);
    if (listener === undefined) {
      listener = { dpPort: 0, config, tunnel, users: [] };
      this.#listeners.set(name, listener);
    }
    port.tunnel = tunnel;
    listener.users.push({ bridge, port });
    try {
      if (listener.dpPort === 0) listener.dpPort = await this.#make(config);
      port.dpPort = listener.dpPort;
    } catch (error) {
      await this.remove(port);
      throw error;
    }
  }

  async #make(config: DatapathPortConfig): Promise<number> {
    const old = this.#datapath.ports().find(({ name }) => name === config.name);
    return old?.type === config.type ? old.portNo : this.#datapath.addPort(config);
  }

  /** A data plane that may not know the tunnels has come. */
  async connected(): Promise<void> {
    for (const listener of this.#listeners.values()) {
      listener.dpPort = await this.#make(listener.config);
      for (const { port } of listener.users) port.dpPort = listener.dpPort;
    }
    this.resolve();
  }

  /** Finds the peers of patch ports and says of all virtual ports how they are. */
  resolve(): void {
    for (const bridge of this.#bridges.values()) {
      for (const port of bridge.portList) {
        if (port.isPatch) this.#resolvePatch(bridge, port);
        else if (port.tunnel !== undefined) port.datapath = tunnelStatus(port, this.#twinOf(port));
      }
    }
  }

  #resolvePatch(bridge: Bridge, port: OfPort): void {
    const wanted = port.spec.options['peer'] ?? '';
    const found = this.#find(wanted);
    port.peer = undefined;
    let fault = '';
    if (wanted === '') fault = 'option peer is missing: give the name of the patch port at the other end';
    else if (wanted === port.name)
      fault = `port ${port.name} is its own peer: give the name of the patch port at the other end`;
    else if (found === undefined)
      fault = `there is no port ${wanted} yet: add it with type=patch and peer=${port.name}`;
    else if (!found.port.isPatch) fault = `peer ${wanted} is no patch port: set its type to patch`;
    else if (found.port.spec.options['peer'] !== port.name)
      fault = `peer ${wanted} has another peer: set its option peer to ${port.name}`;
    else if (found.bridge === bridge) fault = `peer ${wanted} is on the same bridge: a patch port joins two bridges`;
    else port.peer = found;
    port.datapath = status(port, fault);
  }

  #find(name: string): Place | undefined {
    for (const bridge of this.#bridges.values()) {
      const port = bridge.findPort(name);
      if (port !== undefined) return { bridge, port };
    }
    return undefined;
  }

  /** Another port that was there before and takes the same packets. */
  #twinOf(port: OfPort): OfPort | undefined {
    for (const { users } of this.#listeners.values()) {
      for (const { port: other } of users) {
        if (other === port) break;
        if (other.tunnel !== undefined && sameTunnel(other.tunnel, port.tunnel!)) return other;
      }
    }
    return undefined;
  }

  /** The port that a packet out of a tunnel came in at. @param key its tunnel words count. */
  receiver(dpPort: number, key: ArrayLike<number>): Place | undefined {
    for (const listener of this.#listeners.values()) {
      if (listener.dpPort !== dpPort) continue;
      const seen = tunnelKey(key);
      let best: Place | undefined;
      let most = -1;
      for (const place of listener.users) {
        const fit = fitOf(place.port.tunnel!, seen);
        if (fit > most) [best, most] = [place, fit];
      }
      return best;
    }
    return undefined;
  }

  /** The listener of a UDP port or, with 0, of GRE. */
  listenerOf(udpPort: number): TunnelListener | undefined {
    for (const [name, { dpPort, tunnel, users }] of this.#listeners) {
      if (tunnel.dstPort === udpPort) return { name, dpPort, tunnel, users: users.length };
    }
    return undefined;
  }

  listeners(): TunnelListener[] {
    return Array.from(this.#listeners, ([name, { dpPort, tunnel, users }]) => ({
      name,
      dpPort,
      tunnel,
      users: users.length,
    }));
  }
}

/** Counters of a port that the data plane has none for. */
export function virtualStatistics({ received, sent }: OfPort): PortStatistics {
  const counters = Object.fromEntries(PORT_COUNTERS.map(({ name }) => [name, 0])) as Record<PortCounter, number>;
  counters.rx_packets = received.packets;
  counters.rx_bytes = received.bytes;
  counters.tx_packets = sent.packets;
  counters.tx_bytes = sent.bytes;
  return { counters, drops: {} };
}

const status = (port: OfPort, fault: string, portNo = -1): DatapathPort => ({
  ...datapathConfig(port.spec),
  portNo,
  state: fault === '' ? 'up' : 'error',
  lastError: fault,
  linkUp: fault === '',
  facts: {},
});

const tunnelStatus = (port: OfPort, twin: OfPort | undefined): DatapathPort =>
  status(
    port,
    twin === undefined
      ? ''
      : `port ${twin.name} has the same remote_ip, local_ip, key and dst_port: give this one others`,
    port.dpPort,
  );
