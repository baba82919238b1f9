/** The matrix of Linux guests, and the command that walks it, without guests. */
import test from 'ava';
import { parseArguments } from './main.ts';
import { failuresOf, lineOf, tableOf } from './report.ts';
import { deviceOf, featuresOf, kindOf, nameOf, ROWS, select } from './rows.ts';
import { SCENARIOS } from './scenarios.ts';

test('the matrix has every combination but legacy devices with packed rings, under names of their own', (t) => {
  t.is(ROWS.length, 2 * 2 * 2 * 3 * 2 - 12);
  t.is(new Set(ROWS.map(nameOf)).size, ROWS.length);
  t.false(ROWS.map(nameOf).some((name) => name.startsWith('legacy-packed')));
});

test('words select rows: any of one dimension, all dimensions', (t) => {
  t.is(select(['packed', '9000']).length, 6);
  t.is(select(['legacy', '1q', '2q', 'mixed']).length, 4);
  t.is(select(['legacy', 'packed']).length, 0);
  t.throws(() => select(['packet']), { message: /'packet' is none of modern, legacy, split, packed/ });
});

test('of a mixed row guest a has offloads and guest b has none', (t) => {
  const row = ROWS.find((one) => nameOf(one) === 'legacy-split-1q-mixed-9000')!;
  t.is(nameOf(kindOf(row, 'a')), 'legacy-split-1q-offload-9000');
  t.regex(deviceOf(kindOf(row, 'b')), /^disable-modern=on,csum=off,.*,mrg_rxbuf=off,host_mtu=9000$/);
  t.true(featuresOf(kindOf(row, 'a')).with.includes('GUEST_TSO4'));
  t.true(featuresOf(kindOf(row, 'b')).without.includes('VERSION_1'));
});

test('the command line names rows and scenarios', (t) => {
  t.like(parseArguments([]), { rows: ROWS, scenarios: SCENARIOS, json: false });
  t.like(parseArguments(['--only', 'packed,2q']), { scenarios: [] });
  t.is(parseArguments(['--scenarios']).rows.length, 0);
  t.is(parseArguments(['--no-scenarios']).scenarios.length, 0);
  const some = parseArguments(['--rows', 'restart-packed,modern-split-1q-plain-1500']);
  t.deepEqual([some.rows.map(nameOf), some.scenarios], [['modern-split-1q-plain-1500'], ['restart-packed']]);
  t.throws(() => parseArguments(['--rows', 'nothing']), { message: /'nothing' is no row and no scenario/ });
  t.throws(() => parseArguments(['--rows', 'restart-packed', '--only', '1q']), { message: /use one of them/ });
});

test('results become lines, a table, and the command that shows a failure again', (t) => {
  const sides = <T>(a: T, b: T) => ({ a, b });
  const outcome = {
    ping: 1.04,
    pingLong: 2,
    tcp: sides({ rate: 4e8 }, { rate: 3e8 }),
    udp: sides({ sent: 340, lost: 1 }, { sent: 342, lost: 0 }),
    segmented: sides(0, 7),
    checksums: sides(0, 9),
    full: sides(0, 0),
  };
  const results = [
    { name: 'one', ok: true, seconds: 5, outcome },
    { name: 'two', ok: false, seconds: 1, error: 'why\nlog' },
    { name: 'restart-split', ok: true, seconds: 20, told: ['0.5 s without an answer'] },
  ];
  t.is(lineOf(results[0]!, 1, 3), '[1/3] one: ping 1.0 ms, TCP 400 / 300 Mbit/s (5.0 s)');
  const [, first, second, last] = tableOf(results);
  t.regex(first!, /^one +1\.0 +2\.0 +400 \/ 300 +1 of 340 \/ 0 of 342 +7 \/ 0 +9 \/ 0 +0 \/ 0 +5\.0 +ok$/);
  t.regex(second!, /^two .*FAILED$/);
  t.is(last, 'restart-split: 0.5 s without an answer');
  t.deepEqual(failuresOf(results), ['two FAILED; again: npm run guests -- --rows two\nwhy\nlog\n']);
});
