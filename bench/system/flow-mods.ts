/**
 * How fast flows come and go: 100 000 of them read from a file by the switch's ofctl one by one, the same in one
 * bundle, a dump of all, and the memory that they take.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { removeScratchDir, scratchDir } from '../../test/support/process.ts';
import { type Bench, type BenchOptions, type BenchResult, figure, formatTable, median } from '../bench.ts';
import { residentBytes } from './peer.ts';
import { GUEST_CORE, PMD_CORE, switchesFor } from './switches.ts';

const FLOWS = 100_000;

function flowText(index: number): string {
  const address = `10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}`;
  return `table=0,priority=100,in_port=1,tcp,nw_dst=${address},tp_dst=${1 + (index % 1000)},actions=output:2`;
}

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

async function runFlowMods(options: BenchOptions) {
  const subjects = switchesFor(options);
  const dir = scratchDir('fm');
  const file = join(dir, 'flows.txt');
  writeFileSync(file, Array.from({ length: FLOWS }, (_, index) => `${flowText(index)}\n`).join(''));
  const metrics = ['one by one', 'one bundle', 'dump', 'memory'];
  const samples = new Map(subjects.map((subject) => [subject.name, metrics.map((): number[] => [])]));
  try {
    for (let round = 0; round < options.rounds; round++) {
      for (const subject of subjects) {
        await subject.start({ pmdCore: PMD_CORE, mainCore: GUEST_CORE });
        try {
          const before = residentBytes(subject.pids());
          const oneByOne = await seconds(() => subject.ofctl('add-flows', 'br0', file));
          const memory = (residentBytes(subject.pids()) - before) / 1e6;
          let dumped = '';
          const dump = await seconds(async () => {
            dumped = await subject.ofctl('dump-flows', 'br0');
          });
          const count = dumped.split('\n').filter((line) => line.includes('actions=')).length;
          if (count !== FLOWS) throw new Error(`${subject.name} holds ${count} flows, not ${FLOWS}`);
          await subject.ofctl('del-flows', 'br0');
          const bundle = await seconds(() => subject.ofctl('--bundle', 'add-flows', 'br0', file));
          for (const [index, value] of [oneByOne, bundle, dump, memory].entries())
            samples.get(subject.name)![index]!.push(value);
          options.progress(
            `round ${round + 1} ${subject.name}: one by one ${figure(oneByOne)} s, bundle ${figure(bundle)} s, ` +
              `dump ${figure(dump)} s, +${figure(memory)} MB`,
          );
        } finally {
          await subject.stop();
        }
      }
    }
  } finally {
    removeScratchDir(dir);
  }
  const results: BenchResult[] = [];
  const table = [[`${FLOWS} flows`, ...subjects.map((subject) => subject.name)]];
  for (const [index, metric] of metrics.entries()) {
    const unit = metric === 'memory' ? 'MB' : 's';
    const values = subjects.map((subject) => median(samples.get(subject.name)![index]!));
    for (const [s, value] of values.entries()) {
      results.push({ row: 'flow-mods', subject: subjects[s]!.name, metric, value, unit });
    }
    table.push([metric, ...values.map((value) => `${figure(value)} ${unit}`)]);
  }
  return { results, table: formatTable(table) };
}

export const flowMods: Bench = {
  name: 'flow-mods',
  about: '100 000 flow mods: one by one, in one bundle, dump, memory',
  run: runFlowMods,
};
