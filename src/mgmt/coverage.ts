/** Event rates for coverage/show: the data plane's counters summed over workers and ports, sampled every 5 seconds. */
import { DROP_REASONS, PORT_COUNTERS, WORKER_COUNTERS } from '#contract/catalogue.ts';
import type { Datapath } from '#ofproto/datapath.ts';

const INTERVAL = 5_000;
/** Samples kept: one hour. */
const SAMPLES = 720;
const MINUTE = 12;

export interface CoverageRow {
  readonly name: string;
  readonly recent: number;
  readonly lastMinute: number;
  readonly lastHour: number;
  readonly total: number;
}

const GAUGES: readonly string[] = ['flows', 'masks'];

/** Names of all counters in the order of the catalogue. */
const NAMES: readonly string[] = [
  ...WORKER_COUNTERS.map(({ name }) => `pmd_${name}`).filter((name) => !GAUGES.includes(name.slice(4))),
  ...PORT_COUNTERS.map(({ name }) => `port_${name}`),
  ...DROP_REASONS.slice(1).map(({ name }) => `drop_${name}`),
];

export class Coverage {
  readonly #datapath: Datapath;
  /** Newest last. */
  readonly #samples: Float64Array[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(datapath: Datapath) {
    this.#datapath = datapath;
  }

  start(): void {
    const take = async (): Promise<void> => {
      const now = await this.#totals().catch(() => undefined);
      if (!now) return;
      this.#samples.push(now);
      if (this.#samples.length > SAMPLES) this.#samples.shift();
    };
    void take();
    this.#timer = setInterval(take, INTERVAL);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Counters that ever moved, and how many never did. */
  async rows(): Promise<{ rows: CoverageRow[]; neverHit: number }> {
    const totals = await this.#totals();
    const rate = (at: number, back: number, seconds: number): number => {
      const then = this.#samples.at(-back)?.[at] ?? 0;
      // Counters start again with the data plane.
      return Math.max(0, totals[at]! - then) / seconds;
    };
    const rows: CoverageRow[] = [];
    for (const [at, name] of NAMES.entries()) {
      if (totals[at] === 0) continue;
      const kept = this.#samples.length;
      rows.push({
        name,
        recent: rate(at, 1, 5),
        lastMinute: rate(at, Math.min(MINUTE, Math.max(kept, 1)), 60),
        lastHour: rate(at, Math.max(kept, 1), 3600),
        total: totals[at]!,
      });
    }
    return { rows, neverHit: NAMES.length - rows.length };
  }

  async #totals(): Promise<Float64Array> {
    const sums = new Map<string, number>();
    const add = (name: string, value: number): void => {
      sums.set(name, (sums.get(name) ?? 0) + value);
    };
    for (const pmd of await this.#datapath.pmds()) {
      for (const [name, value] of Object.entries(pmd.counters)) add(`pmd_${name}`, value);
    }
    for (const port of this.#datapath.ports()) {
      const { counters, drops } = this.#datapath.portStatistics(port.portNo);
      for (const [name, value] of Object.entries(counters)) add(`port_${name}`, value);
      for (const [name, value] of Object.entries(drops)) add(`drop_${name}`, value);
    }
    return Float64Array.from(NAMES, (name) => sums.get(name) ?? 0);
  }
}
