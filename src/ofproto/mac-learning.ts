/**
 * The MAC table of a bridge: (VLAN, address) → port, with ageing, a hard size limit, moves counted and static entries.
 *
 * Learning is fed twice: by the translation of an upcall, and by the statistics of megaflows, so that a station that only
 * sends packets of installed flows does not age out. Whoever depends on an entry hears of every change through `changed`.
 */
import { LRUCache } from 'lru-cache';
import type { OfPort } from './port.ts';

export const MAC_TABLE_SIZE = 8192;
export const MAC_AGING_SECONDS = 300;

export interface MacEntry {
  readonly key: string;
  readonly vlan: number;
  /** 48 bits. */
  readonly mac: number;
  port: OfPort;
  /** Last frame from there, ms. */
  used: number;
  readonly isStatic: boolean;
}

export interface MacTableOptions {
  readonly size: number;
  readonly agingSeconds: number;
  /** Clock, ms. */
  readonly now: () => number;
  /** An entry appeared, went, or points elsewhere. */
  readonly changed: (key: string) => void;
}

/** Name of an entry; also what translations note to say which entries they depend on. */
export const macKey = (vlan: number, mac: number): string => `${vlan}/${mac}`;

/** `aa:bb:cc:dd:ee:ff` of 48 bits. */
export const macText = (mac: number): string =>
  mac
    .toString(16)
    .padStart(12, '0')
    .replace(/..(?!$)/g, '$&:');

export class MacTable {
  #options: MacTableOptions;
  #cache: LRUCache<string, MacEntry>;
  readonly #static = new Map<string, MacEntry>();
  #quiet = false;
  moves = 0;
  learned = 0;
  expired = 0;
  evicted = 0;

  constructor(options: MacTableOptions) {
    this.#options = options;
    this.#cache = this.#newCache();
  }

  #newCache(): LRUCache<string, MacEntry> {
    const { size, agingSeconds, now } = this.#options;
    return new LRUCache<string, MacEntry>({
      max: size,
      ttl: agingSeconds * 1000,
      ttlResolution: 0,
      perf: { now },
      dispose: (_entry, key, reason) => {
        if (reason === 'expire') this.expired++;
        if (reason === 'evict') this.evicted++;
        if (reason !== 'set' && !this.#quiet) this.#options.changed(key);
      },
    });
  }

  /** Takes another size or ageing time; entries are kept as far as they fit. */
  configure(size: number, agingSeconds: number): void {
    if (size === this.#options.size && agingSeconds === this.#options.agingSeconds) return;
    this.#options = { ...this.#options, size, agingSeconds };
    const old = this.#cache;
    this.#cache = this.#newCache();
    const kept: string[] = [];
    for (const entry of [...old.values()].reverse()) {
      this.#cache.set(entry.key, entry, { start: entry.used });
      kept.push(entry.key);
    }
    for (const key of kept) if (!this.#cache.has(key)) this.#options.changed(key);
  }

  get size(): number {
    return this.#cache.size + this.#static.size;
  }

  /** Where an address is, or undefined. Does not count as use: only frames from there do. */
  lookup(key: string): MacEntry | undefined {
    return this.#static.get(key) ?? this.#cache.get(key);
  }

  /** The same without any effect on ageing. */
  peek(key: string): MacEntry | undefined {
    return this.#static.get(key) ?? this.#cache.peek(key);
  }

  get isFull(): boolean {
    return this.#cache.size >= this.#options.size;
  }

  /**
   * A frame of this source came in at `port` at time `used`.
   * @returns true when the table points elsewhere than before.
   */
  learn(key: string, vlan: number, mac: number, port: OfPort, used: number): boolean {
    if (this.#static.has(key)) return false;
    const cache = this.#cache;
    const entry = cache.peek(key);
    if (entry === undefined) {
      if (used <= this.#options.now() - this.#options.agingSeconds * 1000) return false;
      cache.set(key, { key, vlan, mac, port, used, isStatic: false }, { start: used });
      this.learned++;
      this.#options.changed(key);
      return true;
    }
    if (entry.port === port) {
      // Moving an entry to the young end costs more than the precision is worth: once a tenth of a second will do.
      if (used - entry.used >= 100) {
        entry.used = used;
        cache.set(key, entry, { start: used });
      }
      return false;
    }
    if (used < entry.used) return false;
    this.moves++;
    entry.port = port;
    entry.used = used;
    cache.set(key, entry, { start: used });
    this.#options.changed(key);
    return true;
  }

  /** Adds an entry that never ages. */
  addStatic(vlan: number, mac: number, port: OfPort): void {
    const key = macKey(vlan, mac);
    this.#quiet = true;
    this.#cache.delete(key);
    this.#quiet = false;
    this.#static.set(key, { key, vlan, mac, port, used: this.#options.now(), isStatic: true });
    this.#options.changed(key);
  }

  deleteStatic(vlan: number, mac: number): boolean {
    const key = macKey(vlan, mac);
    if (!this.#static.delete(key)) return false;
    this.#options.changed(key);
    return true;
  }

  /** Drops what has aged out; lookups do so by themselves, but dependants should hear of it in time. */
  expire(): void {
    this.#cache.purgeStale();
  }

  /** Forgets what was learned at `port`, or everything learned. */
  flush(port?: OfPort): void {
    for (const { key, port: at } of [...this.#cache.values()])
      if (port === undefined || at === port) this.#cache.delete(key);
  }

  /** Forgets a port that goes away, static entries too. */
  forget(port: OfPort): void {
    this.flush(port);
    for (const [key, entry] of [...this.#static]) {
      if (entry.port !== port) continue;
      this.#static.delete(key);
      this.#options.changed(key);
    }
  }

  entries(): MacEntry[] {
    return [...this.#static.values(), ...this.#cache.values()];
  }
}
