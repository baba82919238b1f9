import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import * as os from '#contract/os.ts';

const start = (workerData: object): Worker => new Worker(new URL('./os-worker.ts', import.meta.url), { workerData });

test('several threads map, fault, copy and watch at once', async (t) => {
  const fd = os.memfd('shared', 4096);
  const view = new Uint32Array(os.map(fd, 0, 4096, { write: true, owner: 1 }));
  os.takeFaults();
  const before = os.faultWord[0]!;
  const indices = [1, 2, 3, 4];
  const replies = await Promise.all(
    indices.map(async (index) => {
      const worker = start({ job: 'everything', fd, index });
      const [[reply]] = await Promise.all([once(worker, 'message'), once(worker, 'exit')]);
      return reply;
    }),
  );
  for (const reply of replies) t.deepEqual(reply, { sum: 1000, seen: 1 });
  t.is(view[0], 1 + 2 + 3 + 4);
  // Reported here although the threads and their maps are gone.
  const faults = os.takeFaults();
  t.deepEqual(faults.map((row) => row.owner).sort(), [2001, 2002, 2003, 2004]);
  t.is(
    faults.reduce((total, row) => total + row.faults, 0),
    os.faultWord[0]! - before,
  );
  os.close(fd);
});

test('a thread terminated with live maps and a busy watcher leaves nothing behind', async (t) => {
  const fd = os.memfd('linger', 4096);
  for (let round = 0; round < 5; round++) {
    const worker = start({ job: 'linger', fd });
    await once(worker, 'message');
    await worker.terminate();
  }
  t.is(new Uint8Array(os.map(fd, 0, 4096, { write: true, owner: 1 }))[0], 0);
  os.close(fd);
});
