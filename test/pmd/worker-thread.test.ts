import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import { KEY_WORDS } from '#contract/flow-key.ts';
import { startThread } from '#pmd/worker-thread.ts';
import { removeScratchDir, scratchDir } from '../support/process.ts';

const LANE = new URL('../../src/contract/lane.ts', import.meta.url);
const KEY = new URL('../../src/contract/flow-key.ts', import.meta.url);

test('a thread loads the sources as they are, gets its data, and errors name the right line', async (t) => {
  const dir = scratchDir('rwt');
  const entry = join(dir, 'entry.mjs');
  writeFileSync(
    entry,
    `import { parentPort, workerData } from 'node:worker_threads';
     import { Lane } from '${LANE.href}';
     import { KEY_WORDS } from '${KEY.href}';
     let stack = '';
     try { new Lane(new ArrayBuffer(8)); } catch (error) { stack = error.stack; }
     parentPort.postMessage({ start: workerData.start, KEY_WORDS, stack });`,
  );
  try {
    const worker = startThread(pathToFileURL(entry), { core: 3 }, {});
    const exit = once(worker, 'exit');
    const [got] = await once(worker, 'message');
    t.deepEqual(got.start, { core: 3 });
    t.is(got.KEY_WORDS, KEY_WORDS);
    const line = Number(/lane\.ts:(\d+):/.exec(got.stack)![1]);
    t.regex(readFileSync(LANE, 'utf8').split('\n')[line - 1]!, /throw new RangeError/);
    await exit;
  } finally {
    removeScratchDir(dir);
  }
});

test('an entry that is not there ends the thread with an error', async (t) => {
  const worker = startThread(new URL('file:///nonexistent/entry.ts'), {}, {});
  const [error] = (await once(worker, 'error')) as [Error];
  t.regex(error.message, /nonexistent/);
});
