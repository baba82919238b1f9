/**
 * Runs one stage benchmark: warm-up, several timed runs, median; prints one line `name: value unit`, with the garbage
 * collections that the timed runs saw and the spread.
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';

export interface Stage {
  readonly name: string;
  /** Packets of one run. */
  readonly packets: number;
  /** Does the work of one run. */
  readonly run: () => void;
  /** The same without what is measured; its time is taken off. */
  readonly baseline?: () => void;
}

/** Short runs, so that on a busy machine some of them are undisturbed: the least is the cost, the median what one sees. */
const RUNS = 101;
const WARM_UP_MS = 700;

const timed = (body: () => void): number => {
  const from = process.hrtime.bigint();
  body();
  return Number(process.hrtime.bigint() - from);
};

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/** Measures nanoseconds per packet. */
export async function measure(stage: Stage): Promise<number> {
  const until = performance.now() + WARM_UP_MS;
  while (performance.now() < until) {
    stage.run();
    stage.baseline?.();
  }
  const collections: number[] = [];
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) collections.push(entry.startTime);
  });
  observer.observe({ entryTypes: ['gc'] });
  await setImmediate();
  const from = performance.now();
  const runs: number[] = [];
  const bases: number[] = [];
  for (let i = 0; i < RUNS; i++) {
    runs.push(timed(stage.run));
    bases.push(stage.baseline === undefined ? 0 : timed(stage.baseline));
  }
  const to = performance.now();
  await setImmediate();
  await setImmediate();
  observer.disconnect();
  const collected = collections.filter((at) => at >= from && at <= to).length;
  const value = (median(runs) - median(bases)) / stage.packets;
  const least = (Math.min(...runs) - Math.min(...bases)) / stage.packets;
  console.log(`${stage.name}: ${value.toFixed(1)} ns/packet (least ${least.toFixed(1)}, ${collected} collections)`);
  return value;
}
