/** Runs rows and scenarios: rows in labs that stay up for many of them, several labs side by side where there are CPUs for it. */
import { exchange } from './exchange.ts';
import { allowedCpus, GuestLab, type LabOptions } from './lab.ts';
import type { Result } from './report.ts';
import { nameOf, type Row } from './rows.ts';
import { runScenario, type Scenario } from './scenarios.ts';

export interface Plan {
  rows: readonly Row[];
  scenarios: readonly Scenario[];
  /** Pairs of guests at a time. */
  pairs: number;
}

/** For each pair of guests: two CPUs for the workers of their switch. */
function optionsFor(pair: number): LabOptions {
  const cpus = allowedCpus();
  return { cpus: [cpus[(2 * pair) % cpus.length]!, cpus[(2 * pair + 1) % cpus.length]!] };
}

/** As many pairs as leave each guest a CPU. */
export const defaultPairs = (): number => Math.max(1, allowedCpus().length >> 1);

const errorOf = (error: unknown): string =>
  error instanceof Error ? (error.stack?.includes(error.message) ? error.stack : error.message) : String(error);

/** Runs a plan. @param tell is called with each result as it comes; rows end in no certain order with several pairs. */
export async function runPlan(plan: Plan, tell: (result: Result) => void, stopped?: AbortSignal): Promise<Result[]> {
  const results: Result[] = [];
  const add = (result: Result): void => {
    results.push(result);
    tell(result);
  };
  const pairs = Math.max(1, Math.min(plan.pairs, plan.rows.length));
  const shares = Array.from({ length: pairs }, (_, pair) => plan.rows.filter((_, i) => i % pairs === pair));
  await Promise.all(shares.map((rows, pair) => runRows(rows, optionsFor(pair), add, stopped)));
  for (const name of plan.scenarios) {
    if (stopped?.aborted) break;
    const started = performance.now();
    const seconds = () => (performance.now() - started) / 1000;
    try {
      const told = await runScenario(name, optionsFor(0));
      add({ name, ok: true, seconds: seconds(), told });
    } catch (error) {
      add({ name, ok: false, seconds: seconds(), error: errorOf(error) });
    }
  }
  return results;
}

/** Rows one after the other. After one that failed the next ones get other guests, on another switch. */
async function runRows(
  rows: readonly Row[],
  options: LabOptions,
  add: (result: Result) => void,
  stopped: AbortSignal | undefined,
): Promise<void> {
  let lab: GuestLab | undefined;
  try {
    for (const [i, row] of rows.entries()) {
      if (stopped?.aborted) return;
      const started = performance.now();
      const name = nameOf(row);
      const seconds = () => (performance.now() - started) / 1000;
      try {
        lab ??= await GuestLab.open(rows.slice(i), options);
        const here = lab;
        const outcome = await here.withRow(row, () => exchange(here, row));
        add({ name, ok: true, seconds: seconds(), outcome });
      } catch (error) {
        add({ name, ok: false, seconds: seconds(), error: `${errorOf(error)}\n${lab?.said() ?? ''}` });
        await lab?.close();
        lab = undefined;
      }
    }
  } finally {
    await lab?.close();
  }
}
