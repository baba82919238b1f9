/**
 * New flows per second: 200 000 flows arrive as fast as testpmd sends, and the rule makes a megaflow of each. The rate
 * is that from the first miss seen to nine tenths of the flows, read from the PMD's own miss counter.
 */
import { sleep } from '../../test/support/process.ts';
import { type Bench, type BenchOptions, type BenchResult, figure, formatTable, median } from '../bench.ts';
import type { SwitchUnderTest } from './peer.ts';
import { switchesFor, withGuests } from './switches.ts';

const FLOWS = 200_000;
const LIMIT_MS = 20_000;
const RULES = [1, 2].map(
  (port) => `in_port=${port},udp,actions=move:NXM_OF_IP_DST[]->NXM_NX_REG0[],output:${3 - port}`,
);

async function upcallRate(subject: SwitchUnderTest): Promise<number> {
  return withGuests(subject, { forward: 'flowgen', flowgenFlows: FLOWS }, RULES, async (testpmd) => {
    await subject.clearPmdStats();
    await testpmd.startForwarding();
    const begin = performance.now();
    let first: { at: number; misses: number } | undefined;
    let last = { at: begin, misses: 0 };
    while (last.misses < FLOWS * 0.9 && performance.now() - begin < LIMIT_MS) {
      const { missSuccess } = await subject.pmdStats();
      last = { at: performance.now(), misses: missSuccess };
      if (missSuccess > 0) first ??= last;
      await sleep(50);
    }
    if (!first || first === last) throw new Error(`${subject.name}: too few misses to tell (${last.misses})`);
    return ((last.misses - first.misses) * 1000) / (last.at - first.at);
  });
}

async function runUpcalls(options: BenchOptions) {
  const subjects = switchesFor(options);
  const samples = subjects.map((): number[] => []);
  for (let round = 0; round < options.rounds; round++) {
    for (const [index, subject] of subjects.entries()) {
      const rate = await upcallRate(subject);
      samples[index]!.push(rate);
      options.progress(`round ${round + 1} ${subject.name}: ${figure(rate)} new flows/s`);
    }
  }
  const results: BenchResult[] = subjects.map((subject, index) => ({
    row: 'upcalls',
    subject: subject.name,
    metric: 'new flows',
    value: median(samples[index]!),
    unit: '1/s',
  }));
  const table = formatTable([['', 'new flows/s'], ...results.map((one) => [one.subject, figure(one.value)])]);
  return { results, table };
}

export const upcalls: Bench = {
  name: 'upcalls',
  about: 'new flows per second, 200 000 flows arriving at once',
  run: runUpcalls,
};
