/**
 * `npm run guests`: boots Linux guests under QEMU on a switch of their own and walks the matrix of their cards, then lets
 * one move to another QEMU and kills the switch under them. The exit code is 0 only when everything went well.
 *
 *     node test/guests/main.ts [--only packed,9000] [--rows NAME,…] [--scenarios|--no-scenarios] [--pairs N] [--json] [--list]
 */
import process from 'node:process';
import { Command, InvalidArgumentError } from 'commander';
import { guestsUnavailable } from './lab.ts';
import { failuresOf, lineOf, tableOf } from './report.ts';
import { DIMENSIONS, nameOf, ROWS, select } from './rows.ts';
import { defaultPairs, type Plan, runPlan } from './run.ts';
import { SCENARIOS, type Scenario } from './scenarios.ts';

export interface Arguments extends Plan {
  json: boolean;
  list: boolean;
}

const words = (text: string): string[] => text.split(',').filter((word) => word !== '');

function positive(text: string): number {
  const value = Number(text);
  if (!(Number.isInteger(value) && value > 0)) throw new InvalidArgumentError('It must be a whole number above 0.');
  return value;
}

/** Turns `--rows` into what they name. @throws Error that names what is none. */
function named(names: readonly string[]): Pick<Plan, 'rows' | 'scenarios'> {
  const known = new Map(ROWS.map((row) => [nameOf(row), row]));
  for (const name of names) {
    if (!known.has(name) && !SCENARIOS.includes(name as Scenario))
      throw new Error(`'${name}' is no row and no scenario; --list shows all`);
  }
  return {
    rows: names.flatMap((name) => known.get(name) ?? []),
    scenarios: SCENARIOS.filter((scenario) => names.includes(scenario)),
  };
}

/** Reads a command line. A filter of rows leaves the scenarios out, unless they are asked for. */
export function parseArguments(args: readonly string[]): Arguments {
  const values = Object.values(DIMENSIONS).map((dimension) => dimension.join('|'));
  const command = new Command('npm run guests --')
    .description(
      'Linux guests under QEMU on a switch of their own: every kind of card, migration, a switch that is killed.',
    )
    .option('--only <words>', `rows with these, comma-separated, of ${values.join(' ')}`, words)
    .option('--rows <names>', 'these rows and scenarios only, comma-separated, as --list names them', words)
    .option('--scenarios', 'the scenarios too, or only them without --only')
    .option('--no-scenarios', 'no scenarios')
    .option('--pairs <n>', 'pairs of guests at a time', positive, defaultPairs())
    .option('--json', 'print the results as JSON and nothing else to standard output', false)
    .option('--list', 'print the names of rows and scenarios that would run', false);
  const parsed = command.exitOverride().parse([...args], { from: 'user' });
  const { only, rows, scenarios, pairs, json, list } = parsed.opts<{
    only?: string[];
    rows?: string[];
    scenarios?: boolean;
    pairs: number;
    json: boolean;
    list: boolean;
  }>();
  const rest = { pairs, json, list };
  if (rows) {
    if (only) throw new Error('--rows names rows, --only selects them: use one of them');
    return { ...named(rows), ...rest };
  }
  if (only) return { rows: select(only), scenarios: scenarios ? SCENARIOS : [], ...rest };
  return { rows: scenarios === true ? [] : ROWS, scenarios: scenarios === false ? [] : SCENARIOS, ...rest };
}

async function main(): Promise<number> {
  const plan = parseArguments(process.argv.slice(2));
  const names = [...plan.rows.map(nameOf), ...plan.scenarios];
  if (names.length === 0) throw new Error('no row has all of that (packed rings are modern)');
  if (plan.list) {
    process.stdout.write(`${names.join('\n')}\n`);
    return 0;
  }
  const reason = guestsUnavailable();
  if (reason) throw new Error(`guests cannot run here: ${reason}`);
  const stop = new AbortController();
  // The first signal ends after the row that runs; the second at once, and everything started goes with this process.
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () => (stop.signal.aborted ? process.exit(130) : stop.abort()));
  const say = (line: string): void => void (plan.json ? process.stderr : process.stdout).write(`${line}\n`);
  let done = 0;
  say(`${names.length} to run, ${plan.pairs} pair${plan.pairs > 1 ? 's' : ''} of guests at a time`);
  const results = await runPlan(plan, (result) => say(lineOf(result, ++done, names.length)), stop.signal);
  const order = (name: string): number => names.indexOf(name);
  results.sort((a, b) => order(a.name) - order(b.name));
  if (plan.json) process.stdout.write(`${JSON.stringify(results, undefined, 2)}\n`);
  else for (const line of ['', ...tableOf(results)]) say(line);
  for (const failure of failuresOf(results)) process.stderr.write(`\n${failure}`);
  const failed = names.length - results.filter(({ ok }) => ok).length;
  say(failed === 0 ? `all ${names.length} ok` : `${failed} of ${names.length} failed or did not run`);
  return failed === 0 ? 0 : 1;
}

if (import.meta.main) {
  try {
    process.exitCode = await main();
  } catch (error) {
    // Of its own errors commander has spoken already.
    const { code, exitCode, message } = error as Error & { code?: string; exitCode?: number };
    if (!code?.startsWith('commander.')) process.stderr.write(`guests: ${message}\n`);
    process.exitCode = exitCode ?? 1;
  }
}
