import { existsSync } from 'node:fs';
import test from 'ava';
import { Child, removeScratchDir, run, runOk, scratchDir, sleep, until, which } from './process.ts';

test('a wait that is not met names what it waited for and shows the last output', async (t) => {
  const child = new Child('sh', ['-c', 'echo first; echo last words; sleep 60']);
  t.teardown(() => child.stop('SIGKILL'));
  await child.waitFor(/last words/, 'its output');
  const error = await t.throwsAsync(child.waitFor(/never/, 'the impossible', 50));
  t.regex(error!.message, /waited 50 ms for the impossible/);
  t.regex(error!.message, /last words/);
});

test('a wait ends at once when the child does', async (t) => {
  const child = new Child('sh', ['-c', 'echo bye; exit 3']);
  const error = await t.throwsAsync(child.waitFor(/never/, 'the impossible', 60_000));
  t.regex(error!.message, /ended \(exit code 3\) before the impossible/);
});

test('the last words of a child count, however late they are read', async (t) => {
  const child = new Child('sh', ['-c', 'seq 1000; echo bye']);
  // Nothing of it is read before it has ended.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
  await child.waitFor(/bye\n$/, 'its last words');
  t.is(await child.waitExit(15_000), 'exit code 0');
});

test('the end of a child is known while another holds its pipes open', async (t) => {
  const child = new Child('sh', ['-c', 'sleep 2 & echo bye']);
  t.is(await child.waitExit(15_000), 'exit code 0');
  t.regex(child.tail(), /bye/);
});

test('output is read from a mark on', async (t) => {
  const child = new Child('cat', []);
  t.teardown(() => child.stop());
  child.write('one\n');
  await child.waitFor(/one/, 'one');
  const mark = child.mark;
  child.write('two\n');
  t.is(await child.waitFor(/\n/, 'two', 5000, mark), 'two\n');
});

test('a child that ignores SIGTERM is killed', async (t) => {
  const child = new Child('sh', ['-c', 'trap "" TERM; echo ready; while :; do sleep 0.1; done']);
  await child.waitFor(/ready/, 'the trap');
  await child.stop('SIGTERM', 200);
  t.is(child.exit, 'killed by SIGKILL');
});

test('a program that cannot start is an error with its name', async (t) => {
  const child = new Child('/nonexistent/program', []);
  const error = await t.throwsAsync(child.waitFor(/x/, 'anything'));
  t.regex(error!.message, /could not start/);
  t.is(which('/nonexistent/program'), undefined);
});

test('run gives the exit code, runOk takes it for an error, and both stop what takes too long', async (t) => {
  t.deepEqual(await run('sh', ['-c', 'cat; exit 4'], { input: 'in' }), { code: 4, stdout: 'in', stderr: '' });
  await t.throwsAsync(runOk('sh', ['-c', 'echo oops >&2; exit 4']), { message: /exit code 4\noops/ });
  await t.throwsAsync(run('sleep', ['60'], { timeoutMs: 50 }), { message: /took longer than 50 ms/ });
});

test('until gives the value that its check brings', async (t) => {
  let calls = 0;
  t.is(await until('three calls', () => ++calls >= 3 && calls), 3);
  await t.throwsAsync(
    until(
      'what never comes',
      async () => sleep(1).then(() => false),
      30,
      () => 'detail',
    ),
    {
      message: /what never comes\ndetail/,
    },
  );
});

test('a scratch directory is short and goes away', (t) => {
  const dir = scratchDir('x');
  t.true(existsSync(dir));
  t.true(dir.length < 60);
  removeScratchDir(dir);
  t.false(existsSync(dir));
});

test('with errors apart, an error message does not tear what is waited for', async (t) => {
  const child = new Child('sh', ['-c', 'printf pro; echo oops >&2; printf "mpt> "; sleep 60'], { errorsApart: true });
  await child.waitFor(/^prompt> $/, 'the prompt');
  await until('the error message', () => /its errors ---\noops/.test(child.tail()));
  t.pass();
  await child.stop();
});
