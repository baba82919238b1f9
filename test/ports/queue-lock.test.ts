import { Worker } from 'node:worker_threads';
import test from 'ava';
import { lockQueue, lockQueueSurely, unlockQueue } from '#ports/queue-lock.ts';

const AT = 1;
const words = () => new Int32Array(new SharedArrayBuffer(8));

test('a lock that is taken is not taken twice, and neither are its neighbours', (t) => {
  const state = words();
  t.true(lockQueue(state, AT));
  t.false(lockQueue(state, AT));
  t.false(lockQueueSurely(state, AT));
  t.true(lockQueue(state, 0));
  unlockQueue(state, AT);
  t.deepEqual([...state], [1, 0]);
  t.true(lockQueueSurely(state, AT));
});

test('whoever must not lose frames gets the lock of a thread that sleeps for a while', async (t) => {
  const state = words();
  const holder = new Worker(
    `const { workerData } = require('node:worker_threads');
     const state = new Int32Array(workerData);
     Atomics.store(state, ${AT}, 1);
     Atomics.store(state, 0, 1);
     Atomics.notify(state, 0);
     Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 30);
     Atomics.store(state, ${AT}, 0);`,
    { eval: true, workerData: state.buffer },
  );
  const ended = new Promise((resolve) => holder.once('exit', resolve));
  Atomics.wait(state, 0, 0);
  t.true(lockQueueSurely(state, AT));
  t.is(state[AT], 1);
  await ended;
});
