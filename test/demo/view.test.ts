import { stripVTControlCharacters } from 'node:util';
import test from 'ava';
import type { Snapshot } from '../../demo/sampler.ts';
import { graph, micros, render, type Stage } from '../../demo/view.ts';

const flow = (n: number) => ({
  match: `recirc_id(0),in_port(${n}),packet_type(ns=0,id=0),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),ipv4(proto=17,frag=no)`,
  actions: '2',
  packets: 123_456_789 * n,
});

const snapshot: Snapshot = {
  seconds: 754.2,
  apiUp: true,
  ports: [1, 2].map((i) => ({
    name: `p${i}`,
    guest: `guest-${i}`,
    ip: `10.0.0.${i}`,
    state: 'up',
    sentMpps: 10.25,
    sentGbit: 5.25,
    receivedMpps: 3.5,
    receivedGbit: 43.1,
  })),
  ping: { p50: 23.4, p99: 1234.5, sent: 123_456, answered: 123_455 },
  stream: { p50: 33, p99: Number.NaN, received: 12_345_678_901, lost: 12_345, late: 0 },
  caches: { port: 0, exact: 0.9999, megaflow: 0.00007, miss: 0.0002 },
  pmds: [0, 1].map((worker) => ({ worker, core: worker, asleep: false, busy: 0.87, cyclesPerPacket: 312 })),
  megaflows: { total: 12, top: [flow(4), flow(3), flow(2), flow(1)] },
  drops: [
    { port: 'p1', reason: 'flow_drop', count: 1_234_567, perSecond: 456_789 },
    { port: 'p2', reason: 'tx_ring_full', count: 12, perSecond: 0 },
  ],
  mpps: 7,
  peakMpps: 8,
  history: Array.from({ length: 256 }, (_, i) => 3 + Math.sin(i / 9)),
};
const stage: Stage = {
  control: 'up',
  dropRule: false,
  streaming: true,
  message: 'a message that is much too long '.repeat(9),
};

for (const [columns, rows] of [
  [80, 24],
  [40, 12],
  [200, 60],
] as const) {
  for (const control of ['up', 'killed', 'starting'] as const) {
    test(`the picture fits ${columns}x${rows} while the control plane is ${control}`, (t) => {
      for (const colour of [true, false]) {
        const lines = render(snapshot, { ...stage, control }, { columns, rows, colour });
        t.is(lines.length, rows);
        for (const line of lines) t.true([...stripVTControlCharacters(line)].length <= columns, line);
        t.is(
          colour,
          lines.some((line) => line.includes('\x1b')),
        );
      }
    });
  }
}

test('80x24 shows everything that matters', (t) => {
  const text = render(snapshot, stage, { columns: 80, rows: 24, colour: false }).join('\n');
  for (const part of [
    '12:34',
    'p1',
    '10.0.0.2',
    'Mpps',
    'exact',
    '100.0 %',
    '87 % busy',
    '312 cycles',
    'p50 23 µs',
    'p99 1.2 ms',
    'megaflows 12',
    'in_port(4)',
    'flow_drop at p1: 1,234,567 (456,789/s)',
    'k kill',
    'q quit',
  ]) {
    t.true(text.includes(part), `${part} in\n${text}`);
  }
  t.false(text.includes('recirc_id'));
});

test('the sparkline ends with the newest sample and fills its height with the largest', (t) => {
  t.deepEqual(graph([0, 1, 2, 4], 6, 2), ['     █', '   ▄██']);
  t.deepEqual(graph([], 3, 1), ['   ']);
});

test('latencies have a unit that fits', (t) => {
  t.deepEqual([0.5, 12.3, 999, 1500, Number.NaN].map(micros), ['0.5 µs', '12 µs', '999 µs', '1.5 ms', '–']);
});
