/** Processor time of a switch with two connected guests that send nothing, in per cent of one core. */
import { sleep } from '../../test/support/process.ts';
import { type Bench, type BenchOptions, type BenchResult, figure, formatTable, median } from '../bench.ts';
import { cpuSeconds } from './peer.ts';
import { switchesFor, withGuests } from './switches.ts';

async function runIdle(options: BenchOptions) {
  const subjects = switchesFor(options);
  const samples = subjects.map((): number[] => []);
  for (let round = 0; round < options.rounds; round++) {
    for (const [index, subject] of subjects.entries()) {
      const percent = await withGuests(subject, {}, ['actions=NORMAL'], async () => {
        await sleep(options.warmup * 1000);
        const start = performance.now();
        const before = cpuSeconds(subject.pids());
        await sleep(options.seconds * 1000);
        return (100_000 * (cpuSeconds(subject.pids()) - before)) / (performance.now() - start);
      });
      samples[index]!.push(percent);
      options.progress(`round ${round + 1} ${subject.name}: ${figure(percent)} % of a core`);
    }
  }
  const results: BenchResult[] = subjects.map((subject, index) => ({
    row: 'idle',
    subject: subject.name,
    metric: 'cpu',
    value: median(samples[index]!),
    unit: '%',
  }));
  return {
    results,
    table: formatTable([['', 'idle cpu %'], ...results.map((one) => [one.subject, figure(one.value)])]),
  };
}

export const idle: Bench = { name: 'idle', about: 'processor time of an idle switch with two guests', run: runIdle };
