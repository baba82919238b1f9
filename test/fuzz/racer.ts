/** A thread that writes to a guest's memory until it is told to stop. */
import { workerData } from 'node:worker_threads';
import { map, release } from '#contract/os.ts';
import { PAGE } from './arena.ts';
import { CONTROL, disturb, type RacerData, REGION_BYTES } from './race-words.ts';
import { Random } from './random.ts';

const BETWEEN_LOOKS = 256;

const { fds, shapes, seed, control } = workerData as RacerData;
const words = new Int32Array(control);
const random = new Random(seed, 0);
const buffers = fds.map((fd) => map(fd, 0, PAGE + REGION_BYTES, { write: true, owner: 0 }));
const views = buffers.map((buffer) => new DataView(buffer, PAGE));
Atomics.store(words, CONTROL.running, 1);
while (Atomics.load(words, CONTROL.stop) === 0) {
  for (let i = 0; i < BETWEEN_LOOKS; i++) {
    const side = i & 1;
    disturb(views[side]!, shapes[side]!, random);
  }
  words[CONTROL.writes]! += BETWEEN_LOOKS;
}
for (const buffer of buffers) release(buffer);
