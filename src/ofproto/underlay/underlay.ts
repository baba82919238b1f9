/**
 * The network under the tunnels, as Open vSwitch's userspace tunnels see it: an encapsulated packet leaves by the bridge whose
 * own port (LOCAL) the route to the other end names, to the neighbour that the route's next hop is; packets to an address of
 * that port come out of the tunnel.
 */
import { ETH_IPV4 } from '#contract/flow-key.ts';
import type { Bridge } from '../bridge.ts';
import { macNumber } from '../field-parse.ts';
import { type IpAddress, ipv4, ipv6, sameIp } from '../ip-address.ts';
import { OFPP_LOCAL } from '../ofp-port.ts';
import type { OfPort } from '../port.ts';
import type { HostNetwork } from './host.ts';
import { NeighbourTable } from './neighbours.ts';
import { RouteTable } from './routes.ts';
import { type Solicitation, solicit } from './solicit.ts';

/** The way to the other end of a tunnel. */
export interface Path {
  readonly bridge: Bridge;
  readonly local: OfPort;
  readonly localMac: number;
  readonly source: IpAddress;
  readonly next: IpAddress;
}

export interface UnderlayEvents {
  /** A solicitation is to leave by a bridge, as if its own port had sent it. */
  send(bridge: Bridge, local: OfPort, solicitation: Solicitation): void;
  /** A neighbour was found or lost, or has another address. */
  neighboursChanged(): void;
}

export class Underlay {
  readonly routes: RouteTable;
  readonly neighbours: NeighbourTable;
  readonly #bridges: ReadonlyMap<string, Bridge>;
  readonly #events: UnderlayEvents;
  readonly #host: HostNetwork;
  /** Neighbours that translations missed since the last `ask`. */
  #missed: Path[] = [];

  constructor(bridges: ReadonlyMap<string, Bridge>, host: HostNetwork, now: () => number, events: UnderlayEvents) {
    this.#bridges = bridges;
    this.#host = host;
    this.#events = events;
    this.routes = new RouteTable(host, now);
    this.neighbours = new NeighbourTable(now);
  }

  /** The way to an address; undefined when no route leads there, or one that leaves by no bridge. */
  pathTo(destination: IpAddress, source: IpAddress | undefined): Path | undefined {
    const hop = this.routes.lookup(destination, source);
    const bridge = hop && this.#bridges.get(hop.device);
    const local = bridge?.portOf(OFPP_LOCAL);
    if (hop === undefined || bridge === undefined || local === undefined) return undefined;
    return { bridge, local, localMac: localMac(bridge, local), source: hop.source, next: hop.next };
  }

  /** Ethernet address of the next hop; undefined while it is not known. */
  macOf({ bridge, next }: Path): number | undefined {
    const known = this.neighbours.find(bridge.name, next);
    if (known !== undefined) return known.mac;
    const mac = this.#host.neighbour(bridge.name, next);
    if (mac !== undefined) this.neighbours.learn(bridge.name, next, mac);
    return mac;
  }

  /** Learns the next hop from a header by which an earlier control plane reached it. */
  presume(header: Uint8Array): void {
    const view = new DataView(header.buffer, header.byteOffset, header.length);
    const address = (at: number): IpAddress =>
      view.getUint16(12) === ETH_IPV4
        ? ipv4(view.getUint32(at))
        : ipv6(Array.from({ length: 4 }, (_, i) => view.getUint32(at + 4 * i)));
    const [source, destination] = view.getUint16(12) === ETH_IPV4 ? [26, 30] : [22, 38];
    const path = this.pathTo(address(destination!), address(source!));
    if (path === undefined || this.macOf(path) !== undefined) return;
    this.neighbours.presume(path.bridge.name, path.next, view.getUint16(0) * 2 ** 32 + view.getUint32(2));
  }

  /** The next hop is wanted: it will be asked for by `ask`. */
  want(path: Path): void {
    this.#missed.push(path);
  }

  /** Asks for the neighbours that were missed. */
  ask(): void {
    const missed = this.#missed;
    if (missed.length === 0) return;
    this.#missed = [];
    for (const path of missed) this.#solicit(path);
  }

  #solicit({ bridge, local, localMac: mac, source, next }: Path): void {
    if (this.neighbours.mayAsk(bridge.name, next)) this.#events.send(bridge, local, solicit(mac, source, next));
  }

  /** A neighbour tells its address. */
  heard(bridge: string, ip: IpAddress, mac: number): void {
    if (this.neighbours.learn(bridge, ip, mac)) this.#events.neighboursChanged();
  }

  /** Whether an address is the bridge's own. */
  isLocal(bridge: string, ip: IpAddress): boolean {
    return this.routes.addressesOf(bridge).some((own) => sameIp(own, ip));
  }

  /** Ethernet address of a bridge's own port. */
  localMac(name: string): number | undefined {
    const bridge = this.#bridges.get(name);
    const local = bridge?.portOf(OFPP_LOCAL);
    return bridge && local && localMac(bridge, local);
  }

  /** Time passes. @returns true when routes or addresses of the host have changed. */
  tick(): boolean {
    const { gone, renew } = this.neighbours.expire();
    if (gone) this.#events.neighboursChanged();
    for (const { bridge, ip } of renew) {
      const path = this.pathTo(ip, undefined);
      if (path?.bridge.name === bridge) this.#solicit(path);
    }
    return this.routes.refresh();
  }
}

const localMac = (bridge: Bridge, local: OfPort): number =>
  Number(macNumber(bridge.spec.otherConfig['hwaddr'] ?? local.datapath?.facts['mac'] ?? local.mac));
