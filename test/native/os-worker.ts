/** Body of the worker threads that the tests of the addon start; `workerData.job` names what to do. */
import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import * as os from '#contract/os.ts';

const post = (value: unknown): void => parentPort!.postMessage(value);

const sleep = (fd: number): void => {
  post('asleep');
  os.pollFds(Int32Array.of(fd), 1, 30_000_000);
  post(os.eventfdDrain(fd));
};

const bind = (cpu: number): void => {
  os.setAffinity([cpu]);
  os.setThreadName('rw-test');
  const tid = os.getTid();
  post({ cpus: os.threadCpus(), tid, name: readFileSync(`/proc/self/task/${tid}/comm`, 'utf8').trim() });
};

/** Maps, reads and writes a shared file and one of its own that shrinks; watches an eventfd; copies rows. */
const everything = async (fd: number, index: number): Promise<void> => {
  const shared = new Uint32Array(os.map(fd, 0, 4096, { write: true, owner: 1000 + index }));
  Atomics.add(shared, 0, index);
  const own = os.memfd('own', 65536);
  const view = new Uint8Array(os.map(own, 0, 65536, { write: true, owner: 2000 + index })).fill(1);
  const rows = new Float64Array(os.mapAnonymous(4096));
  const handle = os.copyContext(rows);
  const target = os.mapAnonymous(65536);
  rows.set([os.address(target), os.address(view.buffer), 65536]);
  let sum = 0;
  for (let round = 0; round < 2000; round++) {
    if (round === 1000) os.truncate(own, 0);
    os.copyRun(handle, 1);
    sum += new Uint8Array(target)[round]!;
  }
  const event = os.eventfd();
  const seen = await new Promise<number>((resolve) => {
    const watcher = new os.Watcher((ready) => {
      resolve(os.eventfdDrain(ready));
      watcher.close();
    });
    watcher.add(event);
    os.eventfdSignal(event);
  });
  os.close(event);
  os.close(own);
  post({ sum, seen });
};

/** Leaves a running watcher and live maps behind for the environment's teardown. */
const linger = (fd: number): void => {
  const view = new Uint8Array(os.map(fd, 0, 4096, { write: true, owner: 1 }));
  const event = os.eventfd();
  const watcher = new os.Watcher(() => undefined);
  watcher.add(event);
  setInterval(() => os.eventfdSignal(event), 1);
  post(view[0]);
};

if (workerData.job === 'sleep') sleep(workerData.fd);
if (workerData.job === 'bind') bind(workerData.cpu);
if (workerData.job === 'everything') await everything(workerData.fd, workerData.index);
if (workerData.job === 'linger') linger(workerData.fd);
