/** Event descriptors whose file description a peer has in its hands too. */
import { openSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { checkEvent, close, eventfd, eventfdDrain, eventfdSignal, pipe } from '#contract/os.ts';
import { runOk, which } from '../support/process.ts';

test('signals add up, are drained at once, and an empty counter says so', (t) => {
  const fd = eventfd();
  for (let i = 0; i < 200; i++) t.is(eventfdSignal(fd), 0);
  t.is(eventfdDrain(fd), 200);
  t.is(eventfdDrain(fd), -11);
  close(fd);
});

test('a pipe serves as an event descriptor too, and a full one does not make the writer wait', (t) => {
  const [reader, writer] = pipe();
  t.is(eventfdSignal(writer), 0);
  for (let i = 0; i < 20_000; i++) if (eventfdSignal(writer) !== 0) t.fail('a full pipe is an error');
  t.true(eventfdDrain(reader) > 0);
  close(reader);
  close(writer);
});

test('only descriptors that nobody else answers for are taken', (t) => {
  const file = openSync('/dev/zero', 'r+');
  const fd = eventfd();
  t.notThrows(() => checkEvent(fd));
  t.throws(() => checkEvent(file), { message: /event descriptor.*EINVAL/ });
  close(fd);
  close(file);
});

test('every thread signals, and goes', async (t) => {
  const fd = eventfd();
  const source = `import { eventfdSignal } from ${JSON.stringify(import.meta.resolve('../../src/contract/os.ts'))};
    for (let i = 0; i < 1000; i++) eventfdSignal(${fd});`;
  const url = new URL(`data:text/javascript,${encodeURIComponent(source)}`);
  const workers = Array.from({ length: 3 }, () => new Worker(url));
  await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('exit', resolve))));
  t.is(eventfdDrain(fd), 3000);
  close(fd);
});

// A blocking eventfd can only be made outside: Python has one, with its flags and a write of its own.
const python = which('python3');
const maybe = python ? test : (title: string, _body: unknown) => test.skip(`${title} (no python3)`, () => {});
maybe('neither a full nor an empty blocking eventfd makes a thread wait', async (t) => {
  const os = JSON.stringify(import.meta.resolve('../../src/contract/os.ts'));
  const program = `
import os, subprocess, sys
full = os.eventfd(0, 0)
os.eventfd_write(full, 2**64 - 2)
empty = os.eventfd(0, 0)
code = '''import { eventfdSignal, eventfdDrain } from ${os};
console.log(eventfdSignal(%d), eventfdDrain(%d));''' % (full, empty)
out = subprocess.run([sys.argv[1], '--input-type=module', '-e', code], pass_fds=(full, empty), capture_output=True, timeout=60)
print(out.stdout.decode(), out.stderr.decode(), os.get_blocking(full), os.get_blocking(empty))
`;
  const said = await runOk(python!, ['-c', program, process.execPath], { timeoutMs: 90_000 });
  t.regex(said, /^0 -11\s+True True/);
});
