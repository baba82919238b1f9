import { execFile } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { Watcher } from '#contract/os/watcher.ts';
import * as os from '#contract/os.ts';

/** Resolves when `condition` holds; the test's own timeout ends a wait that never does. */
const wait = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await delay(1);
};

test.serial('a callback that does not drain its descriptor is called again', async (t) => {
  const fd = os.eventfd();
  let calls = 0;
  const watcher = new Watcher((ready, events) => {
    t.is(ready, fd);
    t.is(events, os.READABLE);
    if (++calls >= 3) os.eventfdDrain(fd);
  });
  watcher.add(fd);
  os.eventfdSignal(fd);
  await wait(() => calls === 3);
  await delay(20);
  t.is(calls, 3);
  os.eventfdSignal(fd);
  await wait(() => calls === 4);
  watcher.close();
  os.close(fd);
});

test.serial('no callback follows a removal, even with the event on its way', async (t) => {
  const fds = Array.from({ length: 20 }, () => os.eventfd());
  const called: number[] = [];
  const watcher = new Watcher((fd) => {
    called.push(fd);
    for (const other of fds) if (other !== fd) watcher.remove(other);
    os.eventfdDrain(fd);
  });
  for (const fd of fds) watcher.add(fd);
  for (const fd of fds) os.eventfdSignal(fd);
  // Long enough for the watching thread to have posted all events before this thread looks at any.
  const until = performance.now() + 30;
  while (performance.now() < until);
  await wait(() => called.length > 0);
  await delay(20);
  t.is(called.length, 1);
  t.true(watcher.has(called[0]!));
  watcher.close();
  for (const fd of fds) os.close(fd);
});

test.serial('a re-used descriptor number gets no event of its predecessor', async (t) => {
  const first = os.eventfd();
  const calls: string[] = [];
  const watcher = new Watcher((fd) => {
    calls.push(`drained ${os.eventfdDrain(fd)}`);
  });
  watcher.add(first);
  os.eventfdSignal(first);
  const until = performance.now() + 20;
  while (performance.now() < until);
  watcher.remove(first);
  os.close(first);
  const second = os.eventfd();
  t.is(second, first);
  watcher.add(second);
  await delay(20);
  t.deepEqual(calls, []);
  os.eventfdSignal(second);
  await wait(() => calls.length > 0);
  t.deepEqual(calls, ['drained 1']);
  watcher.close();
  os.close(second);
});

test.serial('a descriptor can be removed and closed inside its own callback', async (t) => {
  const [left, right] = os.socketPair();
  let calls = 0;
  const watcher = new Watcher((fd, events) => {
    calls++;
    t.true((events & os.HANGUP) !== 0);
    watcher.remove(fd);
    os.close(fd);
  });
  watcher.add(right);
  os.close(left);
  await wait(() => calls > 0);
  await delay(10);
  t.is(calls, 1);
});

test.serial('closing a descriptor without removing it harms nobody', async (t) => {
  const watcher = new Watcher((fd) => {
    os.eventfdDrain(fd);
    os.close(fd);
  });
  const fd = os.eventfd();
  watcher.add(fd);
  os.eventfdSignal(fd);
  await wait(() => !watcher.has(fd));
  const again = os.eventfd();
  t.is(again, fd);
  t.notThrows(() => watcher.add(again));
  watcher.remove(again);
  watcher.remove(again);
  os.close(again);
});

test.serial('awaited events can be changed', async (t) => {
  const [left, right] = os.socketPair();
  const seen: number[] = [];
  const watcher = new Watcher((fd, events) => {
    seen.push(events);
    watcher.modify(fd, os.READABLE);
  });
  watcher.add(left, os.WRITABLE);
  await wait(() => seen.length === 1);
  await delay(10);
  t.deepEqual(seen, [os.WRITABLE]);
  watcher.modify(left, 0);
  os.writeByte(right);
  await delay(10);
  t.deepEqual(seen, [os.WRITABLE]);
  watcher.modify(left, os.READABLE);
  await wait(() => seen.length > 1);
  t.is(seen[1], os.READABLE);
  watcher.close();
  t.throws(() => watcher.modify(left, os.READABLE), { code: 'ENOENT' });
  os.close(left);
  os.close(right);
});

test.serial('what cannot be watched is refused and not kept', (t) => {
  const watcher = new Watcher(() => undefined);
  t.throws(() => watcher.add(1 << 20), { code: 'EBADF' });
  t.false(watcher.has(1 << 20));
  const file = os.memfd('regular', 1);
  t.throws(() => watcher.add(file), { code: 'EPERM' });
  os.close(file);
});

const runScript = async (body: string): Promise<string> => {
  const module = fileURLToPath(import.meta.resolve('#contract/os.ts'));
  const script = `import * as os from ${JSON.stringify(module)}; const fd = os.eventfd(); ${body}`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], {
    timeout: 60_000,
  });
  return stdout.trim();
};

test.serial('an unref watcher lets the process end, another keeps it until closed', async (t) => {
  t.is(await runScript('new os.Watcher(() => {}, { unref: true }).add(fd); console.log("done");'), 'done');
  t.is(
    await runScript(
      'const w = new os.Watcher(() => { w.close(); console.log("called"); }); w.add(fd);' +
        'setTimeout(() => os.eventfdSignal(fd), 20).unref();',
    ),
    'called',
  );
});

test.serial('an exception in a callback is an uncaught one, and the watch goes on', async (t) => {
  const output = await runScript(
    'let n = 0; process.on("uncaughtException", (e) => console.log(e.message));' +
      'const w = new os.Watcher(() => { if (++n === 2) w.close(); throw new Error("no " + n); }); w.add(fd); os.eventfdSignal(fd);',
  );
  t.is(output, 'no 1\nno 2');
});
