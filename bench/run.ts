/**
 * `npm run bench -- [names…]`: runs benches by name, all of them by default. Stage benches (bench/stage) measure one
 * part in a process of their own and print one figure; system benches (bench/system) drive whole switches.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { constants, loadavg, setPriority } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Command, InvalidArgumentError } from 'commander';
import type { Bench, BenchOptions, BenchResult } from './bench.ts';
import { attackBench } from './system/attack.ts';
import { controlKill } from './system/control-kill.ts';
import { flowMods } from './system/flow-mods.ts';
import { guests } from './system/guests.ts';
import { idle } from './system/idle.ts';
import { ivshmem } from './system/ivshmem.ts';
import { kernel } from './system/kernel.ts';
import { ladder } from './system/ladder.ts';
import { memif } from './system/memif.ts';
import { missLatency } from './system/miss-latency.ts';
import { rates } from './system/rates.ts';
import { rings } from './system/rings.ts';
import { soakBench } from './system/soak.ts';
import { upcalls } from './system/upcalls.ts';

const SYSTEM: Bench[] = [
  rates,
  rings,
  flowMods,
  upcalls,
  missLatency,
  idle,
  controlKill,
  kernel,
  ivshmem,
  memif,
  ladder,
  guests,
  soakBench,
  attackBench,
];
const STAGE_DIR = fileURLToPath(new URL('stage/', import.meta.url));

interface Stage {
  name: string;
  about: string;
  file: string;
}

/** The first comment of a file, its first sentence, serves as its line in `--help`. */
function aboutOf(file: string): string {
  const comment = /\/\*\*?([\s\S]*?)\*\/|^\/\/ (?!hot)(.*)$/m.exec(readFileSync(file, 'utf8'));
  const text = (comment?.[1] ?? comment?.[2] ?? '')
    .replace(/^\s*\*\s?/gm, '')
    .replace(/\s+/g, ' ')
    .trim();
  return text.split(/[.:;](?: |$)/)[0] ?? '';
}

/** A stage bench is a file that uses the stage runner; the others there are its helpers. */
function stages(): Stage[] {
  return readdirSync(STAGE_DIR)
    .filter((name) => name.endsWith('.ts') && readFileSync(STAGE_DIR + name, 'utf8').includes("from './runner.ts'"))
    .map((name) => ({ name: `stage/${name.slice(0, -3)}`, about: aboutOf(STAGE_DIR + name), file: STAGE_DIR + name }));
}

/** Reads `name: value unit …`, the one line that a stage bench prints. */
function stageResult(stage: Stage, line: string): BenchResult {
  const found = /^(.*?): (-?[\d.]+)\s*([^\s,(]*)/.exec(line);
  const value = found ? Number(found[2]) : Number.NaN;
  return { row: stage.name, subject: 'Ringway', metric: found?.[1] ?? line, value, unit: found?.[3] ?? '' };
}

const positive = (text: string): number => {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('must be a number above 0');
  return value;
};
const list = (text: string): string[] => text.split(',').filter((item) => item !== '');

/** Whatever else runs on the machine disturbs less when switches and guests, which inherit it, have a high priority. */
function raisePriority(progress: (line: string) => void): void {
  try {
    setPriority(constants.priority.PRIORITY_HIGHEST);
  } catch {
    progress('no right to raise the priority: other work on this machine disturbs the figures');
  }
  const load = loadavg()[0]!;
  if (load > 0.7) progress(`the machine is busy (load ${load.toFixed(1)}): trust ratios more than figures`);
}

async function main(): Promise<number> {
  const stageBenches = stages();
  const known = [...stageBenches, ...SYSTEM];
  const width = Math.max(...known.map(({ name }) => name.length));
  const command = new Command('npm run bench --')
    .description('Runs the benches named, or all of them.')
    .argument('[names...]', 'benches to run; a prefix such as "stage/" takes all that begin with it')
    .option('--rounds <n>', 'turns that each switch gets', positive, 3)
    .option('--seconds <s>', 'length of one measurement', positive, 3)
    .option('--warmup <s>', 'traffic before a measurement', positive, 2)
    .option('--cycles <n>', 'guests that come and go in the bench soak, at least', positive)
    .option('--rows <names>', 'rows of the benches rates, rings and kernel, comma-separated', list, [])
    .option('--switches <names>', 'of ovs, ringway', list, [])
    .option('--json', 'print the figures as JSON and nothing else to standard output', false)
    .addHelpText(
      'after',
      `\nBenches:\n${known.map(({ name, about }) => `  ${name.padEnd(width)}  ${about}`).join('\n')}`,
    )
    .parse();
  const flags = command.opts<Omit<BenchOptions, 'progress'> & { json: boolean }>();
  const wanted = command.args;
  for (const name of wanted) {
    if (!known.some((bench) => bench.name.startsWith(name))) command.error(`error: no bench '${name}'; see --help`);
  }
  const chosen = (name: string) => wanted.length === 0 || wanted.some((prefix) => name.startsWith(prefix));
  const progress = (line: string) => process.stderr.write(`  ${line}\n`);
  const say = (line: string) => {
    if (!flags.json) process.stdout.write(`${line}\n`);
  };

  raisePriority(progress);
  const results: BenchResult[] = [];
  let failed = 0;
  for (const stage of stageBenches.filter(({ name }) => chosen(name))) {
    progress(stage.name);
    const child = spawnSync(process.execPath, [stage.file], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
    if (child.status !== 0) failed++;
    const lines = child.stdout.trimEnd().split('\n');
    say(`${stage.name}\n${lines.map((line) => `  ${line}`).join('\n')}`);
    results.push(stageResult(stage, lines.at(-1) ?? ''));
  }
  for (const bench of SYSTEM.filter(({ name }) => chosen(name))) {
    progress(`${bench.name}: ${bench.about}`);
    try {
      const report = await bench.run({ ...flags, progress });
      results.push(...report.results);
      say(`\n${bench.name}\n${report.table.map((line) => `  ${line}`).join('\n')}`);
    } catch (error) {
      failed++;
      process.stderr.write(`${bench.name} failed: ${(error as Error).message}\n`);
    }
  }
  if (flags.json) process.stdout.write(`${JSON.stringify(results, undefined, 2)}\n`);
  return failed === 0 ? 0 : 1;
}

// Exit handlers end the switches and guests that a bench has started.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
process.exitCode = await main();
