import test from 'ava';
import { countLatency, HISTOGRAM_SLOTS, latencyCount, percentile } from '#guest/histogram.ts';

test('percentiles are right within a tenth', (t) => {
  const slots = new Float64Array(HISTOGRAM_SLOTS + 3);
  for (let i = 1; i <= 10_000; i++) countLatency(slots, 3, i / 10);
  t.is(latencyCount(slots, 3), 10_000);
  for (const [quantile, value] of [
    [0.5, 500],
    [0.99, 990],
    [0.001, 1],
  ] as const) {
    const got = percentile(slots, 3, quantile);
    t.true(got >= value * 0.999 && got < value * 1.1, `${quantile}: ${got}`);
  }
});

test('only what was counted since a copy counts', (t) => {
  const slots = new Float64Array(HISTOGRAM_SLOTS);
  for (let i = 0; i < 100; i++) countLatency(slots, 0, 5);
  const before = slots.slice();
  t.is(percentile(slots, 0, 0.5, before), Number.NaN);
  countLatency(slots, 0, 1e9);
  countLatency(slots, 0, -1);
  t.is(latencyCount(slots, 0, before), 2);
  t.true(percentile(slots, 0, 0.9, before) > 1e8);
  t.true(percentile(slots, 0, 0.1, before) <= 0.1);
});
