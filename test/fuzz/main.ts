/**
 * `npm run fuzz -- [--cases 1e7] [--seed 1] [--case K] [--json]`: hostile messages and rings until one does harm.
 * Exits 1 then, with the line that runs that case again. `--race SECONDS`: guests that change their rings from another thread
 * meanwhile, instead. docs/fuzzing.md says what is counted.
 */
import process from 'node:process';
import { parseArgs } from 'node:util';
import { removeScratchDir, scratchDir } from '../support/process.ts';
import { Fuzzer, type Tally } from './fuzzer.ts';
import { RACE_KINDS, type RaceTally, race } from './race.ts';

const SECOND_MS = 1000;
/** How often a run that nobody watches tells where it is. */
const LINE_MS = 30_000;

/** A whole number of 0 or more. @throws RangeError that names the option. */
const count = (name: string, text: string): number => {
  const number = Number(text);
  if (text === '' || !Number.isSafeInteger(number) || number < 0)
    throw new RangeError(`--${name} is "${text}"; it takes a whole number`);
  return number;
};

const rateOf = (tally: Tally, began: number): number =>
  Math.round((tally.cases * SECOND_MS) / (Date.now() - began + 1));

function print(tally: Tally, rate: number, one: readonly string[] | undefined): void {
  const { fault } = tally;
  const out = (line: string) => process.stdout.write(`${line}\n`);
  out(
    `seed ${tally.seed}: ${tally.cases} cases, ${rate} a second: ${tally.ringCases} of rings (${tally.hostileCases} hostile, ` +
      `${tally.brokenRings} rings refused, ${tally.packets} packets), ${tally.conversations} conversations ` +
      `(${tally.obeyed} messages obeyed, ${tally.refused} refused, ${tally.attached} attachments)`,
  );
  for (const line of fault?.sent ?? one ?? []) out(`  ${line}`);
  if (fault) out(`case ${fault.case}: ${fault.what}\nagain: ${fault.replay}`);
}

const raceLine = ({ kind, bursts, writes, packets, sent, broken, drops, fault }: RaceTally): string => {
  const lost = Object.entries(drops).map(([name, count]) => `${name} ${count}`);
  return `${kind}: ${writes} words written during ${bursts} bursts, ${packets} packets taken, ${sent} sent, ${broken} rings broken; ${lost.join(', ')}${fault && `\n  ${fault}`}`;
};

/** All kinds in turn, `seconds` in all. @returns the exit code. */
async function races(seed: number, seconds: number, json: boolean): Promise<number> {
  const tallies: RaceTally[] = [];
  for (const kind of RACE_KINDS) {
    const tally = await race(kind, seed, (seconds * SECOND_MS) / RACE_KINDS.length);
    tallies.push(tally);
    if (!json) process.stdout.write(`${raceLine(tally)}\n`);
    if (tally.fault) break;
  }
  if (json) process.stdout.write(`${JSON.stringify({ seed, seconds, kinds: tallies })}\n`);
  return tallies.some(({ fault }) => fault) ? 1 : 0;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      cases: { type: 'string', default: '1e5' },
      seed: { type: 'string', default: '1' },
      case: { type: 'string' },
      race: { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  });
  const seed = count('seed', values.seed);
  if (values.race !== undefined) return races(seed, count('race', values.race), values.json);
  const one = values.case === undefined ? undefined : count('case', values.case);
  const end = one === undefined ? count('cases', values.cases) : one + 1;
  const dir = scratchDir('rwfuzz');
  const fuzzer = new Fuzzer(seed, dir);
  const began = Date.now();
  let shown = began;
  const tick = (): void => {
    const watched = process.stderr.isTTY;
    if (Date.now() - shown < (watched ? SECOND_MS : LINE_MS)) return;
    shown = Date.now();
    const where = `${fuzzer.tally.cases} of ${end} cases, ${rateOf(fuzzer.tally, began)} a second`;
    process.stderr.write(watched ? `\r${where} ` : `${where}\n`);
  };
  try {
    const tally = await fuzzer.run(one ?? 0, end, tick);
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    const rate = rateOf(tally, began);
    if (values.json) process.stdout.write(`${JSON.stringify({ ...tally, perSecond: rate })}\n`);
    else print(tally, rate, one === undefined ? undefined : fuzzer.sent(one));
    return tally.fault ? 1 : 0;
  } finally {
    fuzzer.close();
    removeScratchDir(dir);
  }
}

process.exitCode = await main().catch((error: Error) => {
  process.stderr.write(`${error.message}\n`);
  return 2;
});
