import test from 'ava';
import { figure, formatTable, median } from '../../bench/bench.ts';
import { hitShares } from '../../bench/system/rates.ts';
import { sumPmdStats } from '../support/pmd-stats.ts';

test('the median of an even count lies between the middle two', (t) => {
  t.is(median([3, 1, 2]), 2);
  t.is(median([4, 1, 3, 2]), 2.5);
  t.true(Number.isNaN(median([])));
});

test('figures keep about three digits', (t) => {
  t.deepEqual([0.1234, 6.549, 17.77, 735.4, 100_000, Number.NaN].map(figure), [
    '0.12',
    '6.55',
    '17.8',
    '735',
    '100 000',
    '-',
  ]);
});

test('a table is aligned by its widest cells', (t) => {
  t.deepEqual(
    formatTable([
      ['row', 'Mpps'],
      ['64 B', '6.5'],
    ]),
    ['row   Mpps', '64 B   6.5'],
  );
});

test('shares of cache levels leave out what rounds to nothing', (t) => {
  const stats = { ...sumPmdStats([]), emcHits: 960, megaflowHits: 40, missSuccess: 1 };
  t.is(hitShares(stats), 'emc 96 %, megaflow 4 %');
});
