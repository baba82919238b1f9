import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { IvshmemPort, openIvshmemPort } from '#guest/ivshmem/index.ts';
import { checkIvshmemOptions } from '#guest/ivshmem/options.ts';
import { GuestPool } from '#guest/ivshmem/pool.ts';
import { STATE_CLOSED } from '#ports/ivshmem/layout.ts';
import { PATIENCE_MS } from '../../support/datapath.ts';
import { IvshmemStub } from '../../support/ivshmem-stub.ts';
import { removeScratchDir, scratchDir, until } from '../../support/process.ts';

const frame = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => i);
const patience = { timeoutMs: PATIENCE_MS, replyMs: PATIENCE_MS, retryMs: 20 };

async function withStub(
  body: (stub: IvshmemStub, dir: string) => Promise<void>,
  ...shape: [queues?: number, vectors?: number]
): Promise<void> {
  const stub = new IvshmemStub(...shape);
  const dir = scratchDir('rwv');
  try {
    await body(stub, dir);
  } finally {
    stub.close();
    removeScratchDir(dir);
  }
}

test('a guest joins the slot of its id, says its name, and frames pass both ways', (t) =>
  withStub(async (stub, dir) => {
    const port = await openIvshmemPort({ ...patience, path: stub.listen(dir), name: 'me' });
    try {
      t.is(port.id, 1);
      t.is(stub.hello, stub.generation);
      t.is(stub.pool.clientName(1), 'me');
      t.is(port.queues.length, 2);
      t.true(port.hasDoorbell);
      t.throws(() => port.queue(2), { message: /no number 2/ });
      t.is(port.queue(1).send([frame(60)]), 1);
      t.is(stub.sent(1).length, 1);
      stub.deliver([frame(70)]);
      t.deepEqual(port.queue(0).receive(), [frame(70)]);
      t.true(stub.rung(), 'it rang when it had joined');
    } finally {
      port.close();
    }
    t.is(stub.hello, 0);
    t.is(port.queue(0).send([frame(60)]), 0);
  }, 2));

test('fewer vectors than queue pairs: the others look by themselves', (t) =>
  withStub(
    async (stub, dir) => {
      const port = await openIvshmemPort({ ...patience, path: stub.listen(dir) });
      try {
        t.deepEqual(
          port.queues.map(({ rx }) => rx.callFd >= 0),
          [true, false],
        );
      } finally {
        port.close();
      }
    },
    2,
    1,
  ));

test('a generation that somebody used before is given back for a new one', (t) =>
  withStub(async (stub, dir) => {
    const file = `/proc/self/fd/${stub.memoryFd}`;
    stub.open(true);
    const used = stub.generation;
    const first = await openIvshmemPort({ ...patience, file, name: 'first' });
    first.close({ abrupt: true });
    t.is(stub.hello, used);
    const second = openIvshmemPort({ ...patience, file, name: 'second' });
    await until('the wish', () => stub.reset === used + 1, PATIENCE_MS);
    stub.open(true);
    const port = await second;
    try {
      t.not(stub.generation, used);
      t.is(stub.hello, stub.generation);
      t.false(port.hasDoorbell);
      t.is(port.queue(0).send([frame(60)]), 1);
      t.is(stub.sent().length, 1);
    } finally {
      port.close();
    }
    t.truthy(dir);
  }));

test('a slot that the switch makes anew is joined anew; what was under way is forgotten', (t) =>
  withStub(async (stub, dir) => {
    const states: string[] = [];
    const port = await openIvshmemPort({ ...patience, path: stub.listen(dir) });
    port.onState = (state) => states.push(state);
    try {
      const queue = port.queue(0);
      queue.send([frame(60), frame(61)]);
      stub.open();
      t.is(queue.send([frame(62)]), 0);
      await until('the second join', () => port.joins === 2, PATIENCE_MS);
      t.is(stub.hello, stub.generation);
      t.deepEqual(states, ['joining', 'up']);
      t.is(queue.send([frame(63)]), 1);
      t.is(stub.sent()[0]!.pieces[0]!.bytes.length, 63);
      t.is(stub.connections, 1);
    } finally {
      port.close();
    }
  }));

test('a switch that went away is found again under the same path', (t) =>
  withStub(async (stub, dir) => {
    const path = stub.listen(dir);
    const port = await openIvshmemPort({ ...patience, path });
    try {
      stub.vanish();
      await until('the loss', () => port.state === 'waiting', PATIENCE_MS);
      t.regex(port.lastError, /hung up|ECONNREFUSED/);
      t.is(port.queue(0).send([frame(60)]), 0);
      t.is(port.queue(0).receive().length, 0);
      rmSync(path);
      stub.listen(dir);
      await until('the return', () => port.state === 'up', PATIENCE_MS);
      t.is(port.queue(0).send([frame(60)]), 1);
      t.is(stub.sent().length, 1);
      port.disconnect();
      t.is(port.state, 'waiting');
      await until('the return', () => port.state === 'up', PATIENCE_MS);
      t.is(stub.connections, 3);
    } finally {
      port.close();
    }
  }));

test('with a file: the slot is found by the name of the port, and lost with it', (t) =>
  withStub(async (stub) => {
    const file = `/proc/self/fd/${stub.memoryFd}`;
    stub.open();
    const refused = openIvshmemPort({ ...patience, timeoutMs: 2000, file });
    await t.throwsAsync(refused, { message: /without a doorbell.*its ports: p1/ });
    const port = await openIvshmemPort({ ...patience, file, port: 'p1' });
    try {
      stub.shut(STATE_CLOSED);
      await until('the loss', () => port.state === 'waiting', PATIENCE_MS);
      stub.open();
      await until('the return', () => port.state === 'up', PATIENCE_MS);
    } finally {
      port.close();
    }
  }));

test('what is no pool, and what cannot be opened, is said', async (t) => {
  const dir = scratchDir('rwv');
  try {
    const file = join(dir, 'f');
    copyFileSync('/bin/true', file);
    await t.throwsAsync(openIvshmemPort({ file, timeoutMs: 50 }), { message: /not an ivshmem pool/ });
    await t.throwsAsync(openIvshmemPort({ file: `${file}x`, timeoutMs: 50 }), { message: /ENOENT/ });
    await t.throwsAsync(openIvshmemPort({ path: `${file}x`, timeoutMs: 50 }), { message: /ENOENT/ });
  } finally {
    removeScratchDir(dir);
  }
});

test('a slot that the pool has not is refused', (t) =>
  withStub(async (stub) => {
    const view = new GuestPool(stub.memoryFd);
    t.throws(() => view.slot(0), { message: /slots 1 to 2, no number 0/ });
    t.throws(() => view.slot(3), { message: /no number 3/ });
    view.close();
  }));

test('options that cannot be are refused by name', (t) => {
  t.throws(() => checkIvshmemOptions({}), { message: /path .* and file/ });
  t.throws(() => checkIvshmemOptions({ path: 'a', file: 'b' }), { message: /path .* and file/ });
  t.throws(() => checkIvshmemOptions({ path: 'a', port: 'b' }), { message: /option port/ });
  t.throws(() => checkIvshmemOptions({ path: 'a', name: 'x'.repeat(33) }), { message: /option name has 33/ });
  t.throws(() => checkIvshmemOptions({ path: 'a', retryMs: 0 }), { message: /option retryMs is 0/ });
  t.is(new IvshmemPort(checkIvshmemOptions({ path: 'a' })).state, 'waiting');
});
