/** Ethernet addresses of neighbours at a bridge's own port: learned from ARP and neighbour discovery, or set by a user. */
import { formatIp, type IpAddress } from '../ip-address.ts';

/** As Open vSwitch: a neighbour is good for a quarter of an hour, and is asked again before that. */
const LIFETIME_MS = 900_000;
const RENEW_MS = 720_000;
/** A neighbour that does not answer is asked again after this time. */
const ASK_MS = 1000;
const MOST = 8192;

export interface Neighbour {
  readonly bridge: string;
  readonly ip: IpAddress;
  /** 48 bits. */
  mac: number;
  /** ms; when it was last heard of. */
  heard: number;
  /** Set by a user: kept until it is flushed. */
  fixed: boolean;
}

const keyOf = (bridge: string, ip: IpAddress): string => `${bridge}/${formatIp(ip)}`;

export class NeighbourTable {
  readonly #now: () => number;
  readonly #entries = new Map<string, Neighbour>();
  /** When each was asked for last. */
  readonly #asked = new Map<string, number>();

  constructor(now: () => number) {
    this.#now = now;
  }

  find(bridge: string, ip: IpAddress): Neighbour | undefined {
    return this.#entries.get(keyOf(bridge, ip));
  }

  /** @returns true when the neighbour is new or has another address than before. */
  learn(bridge: string, ip: IpAddress, mac: number, fixed = false): boolean {
    const key = keyOf(bridge, ip);
    const known = this.#entries.get(key);
    this.#asked.delete(key);
    if (known !== undefined) {
      if (known.fixed && !fixed) return false;
      const moved = known.mac !== mac;
      known.mac = mac;
      known.heard = this.#now();
      known.fixed = fixed;
      return moved;
    }
    if (this.#entries.size >= MOST) this.#entries.delete(this.#entries.keys().next().value!);
    this.#entries.set(key, { bridge, ip, mac, heard: this.#now(), fixed });
    return true;
  }

  /** Takes an unknown neighbour for what it was to an earlier control plane: it is asked at once, and good until it answers. */
  presume(bridge: string, ip: IpAddress, mac: number): void {
    if (this.find(bridge, ip) !== undefined) return;
    this.learn(bridge, ip, mac);
    this.find(bridge, ip)!.heard -= RENEW_MS;
  }

  /** Whether the neighbour may be asked for now; notes that it was. */
  mayAsk(bridge: string, ip: IpAddress): boolean {
    const key = keyOf(bridge, ip);
    const now = this.#now();
    if (now - (this.#asked.get(key) ?? Number.NEGATIVE_INFINITY) < ASK_MS) return false;
    if (this.#asked.size >= MOST) this.#asked.clear();
    this.#asked.set(key, now);
    return true;
  }

  /** Forgets neighbours that have not been heard of for too long. @returns those that should be asked again. */
  expire(): { gone: boolean; renew: Neighbour[] } {
    const now = this.#now();
    const renew: Neighbour[] = [];
    let gone = false;
    for (const [key, entry] of this.#entries) {
      if (entry.fixed) continue;
      if (now - entry.heard >= LIFETIME_MS) {
        this.#entries.delete(key);
        gone = true;
      } else if (now - entry.heard >= RENEW_MS) renew.push(entry);
    }
    return { gone, renew };
  }

  flush(bridge?: string): void {
    for (const [key, entry] of this.#entries)
      if (bridge === undefined || entry.bridge === bridge) this.#entries.delete(key);
    this.#asked.clear();
  }

  all(): Neighbour[] {
    return [...this.#entries.values()];
  }
}
