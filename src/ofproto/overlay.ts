/** What a switch has of patch ports and tunnels: the ports, the networks under them, and what follows when these change. */
import { ACTION_TNL_PUSH, pushedHeader } from '#contract/actions.ts';
import { W_IN_PORT } from '#contract/flow-key.ts';
import { type ListenerView, type NeighbourView, RequestError, type TunnelApi } from './api.ts';
import type { Bridge } from './bridge.ts';
import type { Datapath, Megaflow } from './datapath.ts';
import { macNumber } from './field-parse.ts';
import { formatIp, type IpAddress, parseIp, widthOf } from './ip-address.ts';
import { macText } from './mac-learning.ts';
import { OFPP_LOCAL } from './ofp-port.ts';
import { OfPort } from './port.ts';
import type { Revalidator } from './revalidate.ts';
import { makeMac } from './specs.ts';
import { clip, parseBounded } from './text.ts';
import type { Translator } from './translate.ts';
import type { HostNetwork } from './underlay/host.ts';
import { formatRoute } from './underlay/routes.ts';
import type { Solicitation } from './underlay/solicit.ts';
import { Underlay } from './underlay/underlay.ts';
import { VirtualPorts } from './virtual-ports.ts';

export interface OverlayParts {
  readonly datapath: Datapath;
  readonly bridges: ReadonlyMap<string, Bridge>;
  readonly revalidator: Revalidator;
  readonly translator: Translator;
  readonly host: HostNetwork;
  now(): number;
  /** Told of errors that nobody waits for. */
  onError(error: unknown): void;
}

export class Overlay implements TunnelApi {
  readonly virtual: VirtualPorts;
  readonly underlay: Underlay;
  readonly #parts: OverlayParts;

  constructor(parts: OverlayParts) {
    const { datapath, bridges, host, revalidator } = parts;
    this.#parts = parts;
    this.virtual = new VirtualPorts(datapath, bridges);
    this.underlay = new Underlay(bridges, host, () => parts.now(), {
      send: (bridge, local, solicitation) => this.#send(bridge, local, solicitation),
      neighboursChanged: () => {
        revalidator.tunnelsChanged();
        void revalidator.settle().catch((error) => parts.onError(error));
      },
    });
  }

  /** Sends a frame as if a bridge's own port had. */
  #send(bridge: Bridge, local: OfPort, { frame, key }: Solicitation): void {
    const { translator, datapath, revalidator, now } = this.#parts;
    key[W_IN_PORT] = local.ofport;
    translator.run(bridge, key);
    for (const use of translator.macs)
      if (use.port !== undefined) use.bridge.macs.learn(use.key, use.vlan, use.mac, use.port, now());
    datapath.execute(local.dpPort, frame, Uint32Array.from(translator.state.program));
    revalidator.followMacs();
  }

  /** Virtual ports or the networks under them are others now: any megaflow may go another way. */
  changed(): void {
    const { virtual, underlay } = this;
    const { bridges, revalidator, translator } = this.#parts;
    virtual.resolve();
    translator.tunnels = virtual.hasTunnels ? { underlay, listenerOf: (port) => virtual.listenerOf(port) } : undefined;
    for (const bridge of bridges.values()) {
      revalidator.bridgeChanged(bridge);
      for (const port of bridge.portList) if (port.tunnel) revalidator.deleteOf(bridge, port.ofport);
    }
  }

  /** Learns from megaflows of an earlier control plane what it knew of neighbours, so that they go on forwarding. */
  presume(flows: readonly Megaflow[]): void {
    for (const { actions } of flows) {
      for (let at = 0; at < actions.length; at += actions[at]! & 0xffff)
        if (actions[at]! >>> 16 === ACTION_TNL_PUSH) this.underlay.presume(pushedHeader(actions, at));
    }
  }

  async #settle(): Promise<void> {
    this.changed();
    await this.#parts.revalidator.settle();
  }

  // TunnelApi

  routes(): string[] {
    return this.underlay.routes.all().map(formatRoute);
  }

  async addRoute(prefix: string, device: string, gateway: string, source: string): Promise<void> {
    const optional = (text: string, field: string): IpAddress | undefined =>
      text === '' ? undefined : ipOf(text, field);
    const route = {
      ...prefixOf(prefix),
      device,
      gateway: optional(gateway, 'gateway'),
      source: optional(source, 'source'),
    };
    const bridge = this.#parts.bridges.get(device);
    // A user's route makes the bridge an end of tunnels, with or without a device of its name on the host.
    if (bridge !== undefined && bridge.portOf(OFPP_LOCAL) === undefined && route.source !== undefined)
      bridge.attach(new OfPort({ ...LOCAL, name: device }, OFPP_LOCAL, makeMac(device)));
    this.underlay.routes.add(route);
    await this.#settle();
  }

  async deleteRoute(prefix: string): Promise<void> {
    const { prefix: ip, length } = prefixOf(prefix);
    if (!this.underlay.routes.delete(ip, length))
      throw new RequestError('no_such_route', `no route to ${prefix} was added`, { field: 'prefix', status: 404 });
    await this.#settle();
  }

  lookupRoute(address: string): string {
    const ip = ipOf(address, 'address');
    const hop = this.underlay.routes.lookup(ip);
    if (hop === undefined) throw new RequestError('no_such_route', 'Not found', { status: 404 });
    const gateway = hop.next.value === ip.value ? '' : `gateway ${formatIp(hop.next)}\n`;
    return `src ${formatIp(hop.source)}\n${gateway}dev ${hop.device}`;
  }

  neighbours(): NeighbourView[] {
    return this.underlay.neighbours
      .all()
      .map(({ ip, mac, bridge }) => ({ ip: formatIp(ip), mac: macText(mac), bridge }));
  }

  async setNeighbour(bridge: string, ip: string, mac: string): Promise<void> {
    const number = macNumber(mac);
    if (number === undefined) throw new RequestError('bad_value', `${mac} is no Ethernet address`, { field: 'mac' });
    if (!this.#parts.bridges.has(bridge))
      throw new RequestError('no_such_bridge', `no bridge named ${bridge}`, { field: 'bridge', status: 404 });
    this.underlay.neighbours.learn(bridge, ipOf(ip, 'ip'), Number(number), true);
    await this.#settle();
  }

  async flushNeighbours(): Promise<void> {
    this.underlay.neighbours.flush();
    await this.#settle();
  }

  listeners(): ListenerView[] {
    const addresses = [...this.#parts.bridges.keys()].flatMap((bridge) => this.underlay.routes.addressesOf(bridge));
    return this.virtual.listeners().map(({ name, dpPort, users, tunnel }) => ({
      name,
      port: dpPort,
      users,
      matches: addresses.map((ip) =>
        tunnel.dstPort === 0
          ? `dst=${formatIp(ip)},proto=47`
          : `dst=${formatIp(ip)},proto=17,dst_port=${tunnel.dstPort}`,
      ),
    }));
  }

  /** A turn of housekeeping. */
  async tick(): Promise<void> {
    if (!this.virtual.hasTunnels || !this.underlay.tick()) return;
    await this.#settle();
  }
}

/** A bridge's own port where the host has no device for it. */
const LOCAL = {
  type: 'internal',
  options: {},
  ofportRequest: 0,
  tag: -1,
  trunks: [],
  vlanMode: undefined,
  mtuRequest: 0,
  config: [],
  otherConfig: {},
};

function ipOf(text: string, field: string): IpAddress {
  const ip = parseIp(text);
  if (ip === undefined) throw new RequestError('bad_value', `${clip(text)} is no IP address`, { field });
  return ip;
}

/** @throws RequestError for what is not `address/length`. */
function prefixOf(text: string): { prefix: IpAddress; length: number } {
  const [address = '', bits] = text.split('/');
  const prefix = ipOf(address, 'prefix');
  const width = widthOf(prefix.family);
  const length = bits === undefined ? width : parseBounded(bits, 'prefix', width);
  return { prefix, length };
}
