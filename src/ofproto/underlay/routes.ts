/** Routes of the networks that tunnels go through: the host's, and those that a user adds (ovs/route/add). */
import { formatIp, type IpAddress, inPrefix, isUnspecified, sameIp, widthOf } from '../ip-address.ts';
import type { HostAddress, HostNetwork, HostRoute } from './host.ts';

/** The host's tables are read anew after this time. */
const REREAD_MS = 1000;

export interface Route {
  readonly prefix: IpAddress;
  readonly length: number;
  /** Interface that the route leaves by: a bridge's own for tunnels. */
  readonly device: string;
  readonly gateway: IpAddress | undefined;
  readonly source: IpAddress | undefined;
  /** Added by a user. */
  readonly user: boolean;
  /** To the host itself. */
  readonly local: boolean;
  readonly metric: number;
}

/** Where a packet goes next. */
export interface Hop {
  readonly device: string;
  readonly next: IpAddress;
  readonly source: IpAddress;
}

export class RouteTable {
  readonly #host: HostNetwork;
  readonly #now: () => number;
  readonly #own: Route[] = [];
  #routes: readonly HostRoute[] = [];
  #addresses: readonly HostAddress[] = [];
  #read = Number.NEGATIVE_INFINITY;
  #text = '';

  constructor(host: HostNetwork, now: () => number) {
    this.#host = host;
    this.#now = now;
  }

  /** Reads the host's tables when they are old. @returns true when they have changed. */
  refresh(): boolean {
    const now = this.#now();
    if (now - this.#read < REREAD_MS) return false;
    this.#read = now;
    this.#routes = this.#host.routes();
    this.#addresses = this.#host.addresses();
    const text = JSON.stringify([this.#routes, this.#addresses], (_, value) =>
      typeof value === 'bigint' ? String(value) : value,
    );
    const changed = text !== this.#text;
    this.#text = text;
    return changed;
  }

  /** Adds a user's route; one with the same prefix gives way. */
  add(route: Pick<Route, 'prefix' | 'length' | 'device' | 'gateway' | 'source'>): void {
    this.delete(route.prefix, route.length);
    this.#own.push({ ...route, user: true, local: false, metric: 0 });
  }

  /** @returns false when the user has added no such route. */
  delete(prefix: IpAddress, length: number): boolean {
    const at = this.#own.findIndex((own) => own.length === length && inPrefix(own.prefix, prefix, length));
    if (at < 0) return false;
    this.#own.splice(at, 1);
    return true;
  }

  /** Addresses of the device itself. */
  addressesOf(device: string): IpAddress[] {
    this.refresh();
    const own = this.#own.flatMap((route) => (route.device === device && route.source ? [route.source] : []));
    return [...own, ...this.#addresses.flatMap((address) => (address.device === device ? [address.ip] : []))];
  }

  all(): Route[] {
    this.refresh();
    const cached = this.#routes.map(
      ({ prefix, length, device, gateway, metric }): Route => ({
        prefix,
        length,
        device,
        gateway,
        source: this.#sourceFor(device, gateway ?? prefix),
        user: false,
        local: false,
        metric,
      }),
    );
    const local = this.#addresses.map(
      ({ device, ip }): Route => ({
        prefix: ip,
        length: widthOf(ip.family),
        device,
        gateway: undefined,
        source: ip,
        user: false,
        local: true,
        metric: 0,
      }),
    );
    return [...this.#own, ...local, ...cached];
  }

  #sourceFor(device: string, next: IpAddress): IpAddress | undefined {
    const there = this.#addresses.filter((address) => address.device === device && address.ip.family === next.family);
    return (there.find(({ ip, length }) => inPrefix(next, ip, length)) ?? there[0])?.ip;
  }

  /** The longest prefix wins, then a user's route, then the smaller metric. */
  lookup(destination: IpAddress, source?: IpAddress): Hop | undefined {
    let best: Route | undefined;
    for (const route of this.all()) {
      if (!inPrefix(destination, route.prefix, route.length)) continue;
      if (best === undefined || better(route, best)) best = route;
    }
    if (best === undefined) return undefined;
    const next = best.gateway !== undefined && !isUnspecified(best.gateway) ? best.gateway : destination;
    const own = source ?? best.source ?? this.#sourceFor(best.device, next);
    return own === undefined ? undefined : { device: best.device, next, source: own };
  }
}

const better = (a: Route, b: Route): boolean => {
  if (a.length !== b.length) return a.length > b.length;
  if (a.user !== b.user) return a.user;
  return a.metric < b.metric;
};

/** A line of ovs/route/show. */
export function formatRoute({ prefix, length, device, gateway, source, user, local }: Route): string {
  const via = gateway === undefined ? '' : ` GW ${formatIp(gateway)}`;
  const from = source === undefined || sameIp(source, { ...source, value: 0n }) ? '' : ` SRC ${formatIp(source)}`;
  return `${user ? 'User' : 'Cached'}: ${formatIp(prefix)}/${length} dev ${device}${via}${from}${local ? ' local' : ''}`;
}
