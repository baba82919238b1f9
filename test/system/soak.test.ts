/** The soak bench in its short form: guests end in every way, and nothing of them stays behind. */
import test from 'ava';
import { growth, type Sample, type Usage } from '../../bench/system/soak/usage.ts';
import { describe, soak } from '../../bench/system/soak.ts';

test('guests that come and go in every way leave nothing behind', async (t) => {
  t.timeout(300_000);
  const result = await soak(
    () => false,
    () => {},
  );
  const { table, grown } = describe(result);
  for (const line of table) t.log(line);
  t.deepEqual(grown, []);
  t.true(result.frames > 0);
});

const usage: Usage = { rss: 1e8, pss: 1e8, virtual: 1e10, fds: 50, maps: 400, threads: 12 };
const run = (change: (cycles: number) => Partial<Usage>): Sample[] =>
  Array.from({ length: 30 }, (_, i) => ({ cycles: 100 * i, usage: { ...usage, ...change(100 * i) } }));
const above = (samples: readonly Sample[]): string[] =>
  growth(samples)
    .filter((row) => row.above !== undefined)
    .map(({ kind }) => kind);

test('growth is told from noise', (t) => {
  t.deepEqual(above(run(() => ({}))), []);
  t.deepEqual(above(run((cycles) => ({ fds: 50 + cycles / 100 }))), ['fds']);
  t.deepEqual(above(run((cycles) => ({ maps: 400 + cycles / 5 }))), ['maps']);
  t.deepEqual(above(run((cycles) => ({ pss: 1e8 + cycles * 60_000 }))), ['pss']);
  // A start that takes its time, and a heap that breathes.
  t.deepEqual(above(run((cycles) => ({ rss: cycles < 900 ? 1e7 : 1e8, pss: 1e8 + (cycles % 300) * 2e4 }))), []);
  t.throws(() => growth(run(() => ({})).slice(0, 5)), { instanceOf: RangeError });
});
