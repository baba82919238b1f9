/**
 * Turns counters into what the screen shows: rates since the last sample, shares, percentiles.
 *
 * Rates of ports and latencies come from the guests, so they go on while no control plane answers; caches, PMDs, megaflows
 * and drops come from the API and stand still until it is back.
 */
import { DROP_REASONS } from '#contract/catalogue.ts';
import { percentile } from '#guest/histogram.ts';
import { type HostCounter, PING_HISTOGRAM_AT, STREAM_HISTOGRAM_AT } from '#guest/net.ts';
import type { Api, DatapathFlow, DatapathPort, Pmd } from './api.ts';
import type { Guest } from './guests.ts';

/** One guest and the port it hangs on; per second. */
export interface PortRates {
  readonly name: string;
  readonly guest: string;
  readonly ip: string;
  readonly state: string;
  readonly sentMpps: number;
  readonly sentGbit: number;
  readonly receivedMpps: number;
  readonly receivedGbit: number;
}

export interface Latency {
  /** Microseconds; NaN when nothing was measured. */
  readonly p50: number;
  readonly p99: number;
}

/** Shares of the packets received since the last sample, 0 to 1. */
export interface CacheShares {
  readonly port: number;
  readonly exact: number;
  readonly megaflow: number;
  readonly miss: number;
}

export interface PmdLoad {
  readonly worker: number;
  readonly core: number;
  readonly asleep: boolean;
  readonly busy: number;
  readonly cyclesPerPacket: number;
}

export interface Drop {
  readonly port: string;
  readonly reason: string;
  readonly count: number;
  readonly perSecond: number;
}

export interface Snapshot {
  readonly seconds: number;
  readonly apiUp: boolean;
  readonly ports: readonly PortRates[];
  readonly ping: Latency & { sent: number; answered: number };
  readonly stream: Latency & { received: number; lost: number; late: number };
  readonly caches: CacheShares;
  readonly pmds: readonly PmdLoad[];
  readonly megaflows: { total: number; top: readonly DatapathFlow[] };
  readonly drops: readonly Drop[];
  /** Frames delivered to guests per second, in millions: now, at best, and of the last samples, oldest first. */
  readonly mpps: number;
  readonly peakMpps: number;
  readonly history: readonly number[];
}

/** Samples kept for the sparkline. */
const HISTORY = 256;
/** Samples over which latencies are taken. */
const LATENCY_WINDOW = 10;

interface Totals {
  readonly at: number;
  readonly guests: readonly Record<'rx_packets' | 'rx_bytes' | 'tx_packets' | 'tx_bytes', number>[];
}

type Histograms = readonly { ping: Float64Array; stream: Float64Array }[];

export class Sampler {
  readonly #guests: readonly Guest[];
  readonly #api: Api;
  readonly #started = performance.now();
  readonly #history: number[] = [];
  readonly #windows: Histograms[] = [];
  #before: Totals;
  #peak = 0;
  #caches: CacheShares = { port: 0, exact: 0, megaflow: 0, miss: 0 };
  #pmds: PmdLoad[] = [];
  #megaflows: Snapshot['megaflows'] = { total: 0, top: [] };
  #drops: Drop[] = [];
  #pmdBefore = new Map<number, Record<string, number>>();
  #dropsBefore = new Map<string, number>();
  #apiAt = performance.now();

  constructor(guests: readonly Guest[], api: Api) {
    this.#guests = guests;
    this.#api = api;
    this.#before = this.#totals();
  }

  async take(): Promise<Snapshot> {
    const apiUp = await this.#askApi();
    const now = this.#totals();
    const seconds = Math.max(1e-3, (now.at - this.#before.at) / 1000);
    const ports = this.#guests.map((guest, i) => this.#rates(guest, i, now, seconds));
    this.#before = now;
    const mpps = ports.reduce((sum, port) => sum + port.receivedMpps, 0);
    this.#peak = Math.max(this.#peak, mpps);
    this.#history.push(mpps);
    if (this.#history.length > HISTORY) this.#history.shift();
    const histograms = this.#guests.map((guest) => ({
      ping: guest.histogram(PING_HISTOGRAM_AT),
      stream: guest.histogram(STREAM_HISTOGRAM_AT),
    }));
    this.#windows.push(histograms);
    if (this.#windows.length > LATENCY_WINDOW) this.#windows.shift();
    const first = this.#windows[0]!;
    const sum = (name: HostCounter): number => this.#guests.reduce((total, guest) => total + guest.counter(name), 0);
    return {
      seconds: (performance.now() - this.#started) / 1000,
      apiUp,
      ports,
      ping: { ...latency(histograms, first, 'ping'), sent: sum('pings_sent'), answered: sum('pings_answered') },
      stream: {
        ...latency(histograms, first, 'stream'),
        received: sum('stream_received'),
        lost: Math.max(0, sum('stream_lost')),
        late: sum('stream_late'),
      },
      caches: this.#caches,
      pmds: this.#pmds,
      megaflows: this.#megaflows,
      drops: this.#drops,
      mpps,
      peakMpps: this.#peak,
      history: this.#history,
    };
  }

  #totals(): Totals {
    return {
      at: performance.now(),
      guests: this.#guests.map((guest) => ({
        rx_packets: guest.counter('rx_packets'),
        rx_bytes: guest.counter('rx_bytes'),
        tx_packets: guest.counter('tx_packets'),
        tx_bytes: guest.counter('tx_bytes'),
      })),
    };
  }

  #rates(guest: Guest, i: number, now: Totals, seconds: number): PortRates {
    const [after, before] = [now.guests[i]!, this.#before.guests[i]!];
    const perSecond = (name: keyof typeof after): number => (after[name] - before[name]) / seconds;
    return {
      name: `p${i + 1}`,
      guest: guest.options.name,
      ip: guest.options.ip,
      state: guest.state,
      sentMpps: perSecond('tx_packets') / 1e6,
      sentGbit: (perSecond('tx_bytes') * 8) / 1e9,
      receivedMpps: perSecond('rx_packets') / 1e6,
      receivedGbit: (perSecond('rx_bytes') * 8) / 1e9,
    };
  }

  /** @returns false while nobody answers. */
  async #askApi(): Promise<boolean> {
    try {
      const [ports, pmds, megaflows] = await Promise.all([
        this.#api.ports(),
        this.#api.pmds(),
        this.#api.megaflows(200),
      ]);
      const at = performance.now();
      this.#takePmds(pmds);
      this.#takeDrops(ports, Math.max(1e-3, (at - this.#apiAt) / 1000));
      const top = [...megaflows.flows].sort((a, b) => Number(b.packets ?? 0) - Number(a.packets ?? 0)).slice(0, 4);
      this.#megaflows = { total: megaflows.total, top };
      this.#apiAt = at;
      return true;
    } catch {
      return false;
    }
  }

  #takePmds(pmds: readonly Pmd[]): void {
    const sums = { simple_hits: 0, emc_hits: 0, megaflow_hits: 0, misses: 0 };
    this.#pmds = pmds.map(({ worker, core, asleep, counters = {} }) => {
      const before = this.#pmdBefore.get(worker) ?? {};
      const since = (name: string): number => Math.max(0, Number(counters[name] ?? 0) - Number(before[name] ?? 0));
      this.#pmdBefore.set(worker, counters);
      for (const name of Object.keys(sums) as (keyof typeof sums)[]) sums[name] += since(name);
      const busy = since('busy_cycles');
      const idle = since('idle_cycles');
      const packets = since('rx_packets');
      return {
        worker,
        core,
        asleep: asleep ?? false,
        busy: busy + idle > 0 ? busy / (busy + idle) : 0,
        cyclesPerPacket: packets > 0 ? busy / packets : Number.NaN,
      };
    });
    const all = sums.simple_hits + sums.emc_hits + sums.megaflow_hits + sums.misses || 1;
    this.#caches = {
      port: sums.simple_hits / all,
      exact: sums.emc_hits / all,
      megaflow: sums.megaflow_hits / all,
      miss: sums.misses / all,
    };
  }

  #takeDrops(ports: readonly DatapathPort[], seconds: number): void {
    const known = new Set<string>(DROP_REASONS.map(({ name }) => name));
    this.#drops = ports
      .flatMap(({ name, statistics }) =>
        Object.entries(statistics?.drops ?? {}).map(([reason, count]) => {
          const key = `${name} ${reason}`;
          const before = this.#dropsBefore.get(key) ?? Number(count);
          this.#dropsBefore.set(key, Number(count));
          return { port: name, reason, count: Number(count), perSecond: (Number(count) - before) / seconds };
        }),
      )
      .filter(({ reason, count }) => count > 0 && known.has(reason))
      .sort((a, b) => b.perSecond - a.perSecond || b.count - a.count);
  }
}

function latency(now: Histograms, first: Histograms, which: 'ping' | 'stream'): Latency {
  const sum = (histograms: Histograms): Float64Array => {
    const total = new Float64Array(histograms[0]![which].length);
    for (const histogram of histograms) for (let i = 0; i < total.length; i++) total[i]! += histogram[which][i]!;
    return total;
  };
  const [after, before] = [sum(now), now === first ? undefined : sum(first)];
  return { p50: percentile(after, 0, 0.5, before), p99: percentile(after, 0, 0.99, before) };
}
