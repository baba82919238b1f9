import test from 'ava';
import fc from 'fast-check';
import { assign, parseAffinity, parseCpuMask } from '../../src/pmd/assign.ts';

const workers = [
  { worker: 0, core: 1 },
  { worker: 1, core: 2 },
];
const queue = (portNo: number, n: number, load = 0, affinity = -1) => ({ portNo, queue: n, load, affinity });

test('queues spread evenly in turn', (t) => {
  const queues = [0, 1, 2, 3].map((n) => queue(1, n));
  const { assignments } = assign(workers, queues, 'roundrobin', []);
  t.deepEqual(
    assignments.map((a) => a.worker),
    [0, 1, 0, 1],
  );
});

test('by load, the heaviest queue gets a worker of its own', (t) => {
  const queues = [queue(1, 0, 10), queue(2, 0, 100), queue(3, 0, 20), queue(4, 0, 30)];
  const { assignments } = assign(workers, queues, 'cycles', []);
  const heavy = assignments[1]!.worker;
  t.deepEqual(
    assignments.map((a) => a.worker === heavy),
    [false, true, false, false],
  );
});

test('a pinned queue goes to its core and keeps the worker for itself', (t) => {
  const queues = [queue(1, 0, 0, 2), queue(2, 0), queue(3, 0)];
  const { assignments, isolated } = assign(workers, queues, 'cycles', []);
  t.deepEqual(
    assignments.map((a) => a.worker),
    [1, 0, 0],
  );
  t.deepEqual([...isolated], [1]);
  t.is(assignments[0]!.why, 'pinned to core 2');
});

test('a pin to a core without a worker is said, and the queue is still polled', (t) => {
  const { assignments } = assign(workers, [queue(1, 0, 0, 7)], 'cycles', []);
  t.regex(assignments[0]!.why, /no worker on core 7/);
});

test('a new port moves no queue that has a place', (t) => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 1000 }), { minLength: 1, maxLength: 20 }), (loads) => {
      const queues = loads.map((load, i) => queue(i + 1, 0, load));
      const first = assign(workers, queues, 'cycles', []).assignments;
      const more = [...queues, queue(99, 0, 5000)];
      const second = assign(workers, more, 'cycles', first).assignments;
      t.deepEqual(second.slice(0, -1), first);
      t.is(second.length, more.length);
    }),
  );
});

test('every queue is given to exactly one worker that exists', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: -1, max: 4 })), { maxLength: 30 }),
      fc.constantFrom('cycles' as const, 'roundrobin' as const, 'group' as const),
      (list, mode) => {
        const queues = list.map(([load, affinity], i) => queue(i + 1, 0, load, affinity));
        const { assignments } = assign(workers, queues, mode, []);
        t.is(assignments.length, queues.length);
        for (const a of assignments) t.true(a.worker === 0 || a.worker === 1);
      },
    ),
  );
});

test('pmd-rxq-affinity is read or refused by name', (t) => {
  t.deepEqual(
    [...parseAffinity('0:3, 1:7')],
    [
      [0, 3],
      [1, 7],
    ],
  );
  t.throws(() => parseAffinity('0-3'), { message: /"0-3" is not <queue>:<core>/ });
});

test('pmd-cpu-mask is read or refused by name', (t) => {
  t.deepEqual(parseCpuMask('0x6', [0, 1, 2]), [1, 2]);
  t.deepEqual(parseCpuMask('1', [0]), [0]);
  t.throws(() => parseCpuMask('0', [0]), { message: /names no CPU/ });
  t.throws(() => parseCpuMask('0x4', [0, 1]), { message: /CPU 2 cannot be used here; allowed are 0, 1/ });
  t.throws(() => parseCpuMask('six', [0]), { message: /not a hexadecimal mask/ });
});
