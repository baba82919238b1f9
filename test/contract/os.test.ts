import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import * as os from '#contract/os.ts';

const tempDir = (): string => mkdtempSync(join(tmpdir(), 'rw-os-'));

const withSocket = <T>(body: (path: string, listener: number) => T): T => {
  const dir = tempDir();
  const path = join(dir, 's');
  const listener = os.unixListen(path, { mode: 0o600 });
  try {
    return body(path, listener);
  } finally {
    os.close(listener);
    rmSync(dir, { recursive: true });
  }
};

test('a listening socket accepts a connection and tells who made it', (t) => {
  withSocket((path, listener) => {
    t.is(statSync(path).mode & 0o777, 0o600);
    t.is(os.accept(listener), -os.EAGAIN);
    const client = os.unixConnect(path);
    const server = os.accept(listener);
    t.true(server > 0);
    const peer = os.peerCredentials(server);
    t.is(peer.pid, process.pid);
    t.is(peer.uid, process.getuid!());
    os.close(client);
    os.close(server);
  });
});

test('sequenced-packet sockets keep the borders of messages and their descriptors, and do not mix with streams', (t) => {
  const dir = tempDir();
  const path = join(dir, 'packets');
  const listener = os.unixListen(path, { packets: true });
  t.throws(() => os.unixConnect(path), { instanceOf: os.OsError, code: 'EPROTOTYPE' });
  const client = os.unixConnect(path, { packets: true });
  const server = os.accept(listener);
  const event = os.eventfd();
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  os.sendWithFds(client, bytes, 0, 128, Int32Array.of(event), 1);
  os.sendWithFds(client, bytes, 128, 3, null, 0);
  const into = new Uint8Array(256);
  const fds = new Int32Array(4);
  t.is(os.recvWithFds(server, into, 0, 256, fds), 128);
  t.is(fds[0], 1);
  t.is(os.recvWithFds(server, into, 0, 256, new Int32Array(4)), 3);
  for (const fd of [listener, client, server, event, fds[1]!]) os.close(fd);
  rmSync(dir, { recursive: true });
});

test('connecting fails with the errno name of the cause', (t) => {
  const dir = tempDir();
  const path = join(dir, 's');
  t.throws(() => os.unixConnect(path), { instanceOf: os.OsError, code: 'ENOENT' });
  os.close(os.unixListen(path));
  const refused = t.throws(() => os.unixConnect(path), { instanceOf: os.OsError, code: 'ECONNREFUSED' });
  t.true(refused.message.includes(path));
  t.throws(() => os.unixListen(path), { code: 'EADDRINUSE' });
  t.true(os.unlinkIfSocket(path));
  t.false(os.unlinkIfSocket(path));
  os.close(os.unixListen(path));
  rmSync(dir, { recursive: true });
});

test('a socket path of 108 bytes is refused by name and limit, 107 bytes are taken', (t) => {
  const dir = tempDir();
  const fits = join(dir, 'x'.repeat(os.UNIX_PATH_MAX - dir.length - 1));
  os.close(os.unixListen(fits));
  const long = t.throws(() => os.unixListen(fits + 'x'), { code: 'ENAMETOOLONG' });
  t.true(long.message.includes(fits) && long.message.includes('107'));
  rmSync(dir, { recursive: true });
});

test('unlinkIfSocket leaves other files alone', (t) => {
  const dir = tempDir();
  const path = join(dir, 'file');
  writeFileSync(path, 'data');
  t.false(os.unlinkIfSocket(path));
  t.true(existsSync(path));
  rmSync(dir, { recursive: true });
});

test('descriptors pass through a socket in both directions', (t) => {
  const [left, right] = os.socketPair();
  const buf = new Uint8Array(16);
  for (const [from, to] of [
    [left, right],
    [right, left],
  ] as const) {
    const events = [os.eventfd(), os.eventfd()];
    t.is(os.sendWithFds(from, Uint8Array.of(1, 2, 3), 1, 2, Int32Array.from(events), 2), 2);
    const fds = new Int32Array(9);
    t.is(os.recvWithFds(to, buf, 4, 8, fds), 2);
    t.deepEqual([...buf.subarray(4, 6)], [2, 3]);
    t.is(fds[0], 2);
    t.is(os.eventfdSignal(fds[2]!), 0);
    t.is(os.eventfdDrain(events[1]!), 1);
    t.is(os.eventfdDrain(events[0]!), -os.EAGAIN);
    for (const fd of [...events, fds[1]!, fds[2]!]) t.is(os.close(fd), 0);
  }
  t.is(os.recvWithFds(left, buf, 0, 16, new Int32Array(1)), -os.EAGAIN);
  os.close(left);
  t.is(os.recvWithFds(right, buf, 0, 16, new Int32Array(1)), 0);
  t.is(os.sendWithFds(right, buf, 0, 16, null, 0), -os.EPIPE);
  os.close(right);
});

test('received descriptors beyond the capacity are closed', (t) => {
  const [left, right] = os.socketPair();
  const [reader, writer] = os.pipe();
  os.sendWithFds(left, new Uint8Array(1), 0, 1, Int32Array.of(writer, writer, writer), 3);
  os.close(writer);
  const fds = new Int32Array(2);
  t.is(os.recvWithFds(right, new Uint8Array(1), 0, 1, fds), 1);
  t.is(fds[0], 1);
  os.close(fds[1]!);
  // With every copy of the write end closed the pipe is at its end; one left open would make poll wait.
  t.is(os.pollFds(Int32Array.of(reader), 1, 0), 1);
  for (const fd of [left, right, reader]) os.close(fd);
});

test('arguments of a wrong type or range throw and touch nothing', (t) => {
  const buf = new Uint8Array(8);
  const fds = new Int32Array(1);
  t.throws(() => os.recvWithFds(0, buf, 4, 5, fds), { instanceOf: RangeError });
  t.throws(() => os.recvWithFds(0, buf, 9, 0, fds), { instanceOf: RangeError });
  t.throws(() => os.recvWithFds(-1, buf, 0, 1, fds), { instanceOf: RangeError });
  t.throws(() => os.recvWithFds(1.5, buf, 0, 1, fds), { instanceOf: RangeError });
  t.throws(() => os.recvWithFds(0, [] as never, 0, 1, fds), { instanceOf: TypeError });
  t.throws(() => os.sendWithFds(0, buf, 0, 1, fds, 2), { instanceOf: RangeError });
  t.throws(() => os.pollFds(fds, 2, 0), { instanceOf: RangeError });
  t.throws(() => os.map(0, 0, Number.NaN, { write: true, owner: 0 }), { instanceOf: RangeError });
  t.throws(() => os.map(0, 0, 1, { write: 1 as never, owner: 0 }), { instanceOf: TypeError });
  t.throws(() => os.address({} as never), { instanceOf: TypeError });
  t.throws(() => os.memfd('a\0b', 1), { instanceOf: RangeError });
  t.throws(() => os.setThreadName('sixteen bytes ..'), { instanceOf: RangeError });
  t.throws(() => os.setAffinity([-1]), { instanceOf: RangeError });
  t.throws(() => (os.close as () => number)(), { instanceOf: TypeError });
  t.is(os.close(1 << 20), -os.EBADF);
  const failed = t.throws<os.OsError>(() => os.dup(1 << 20), { code: 'EBADF' });
  t.is(failed?.syscall, 'dup');
  t.is(failed?.errno, os.EBADF);
});

test('a file is locked by one descriptor at a time', (t) => {
  const dir = tempDir();
  const first = os.lockFile(join(dir, 'lock'));
  t.true(first >= 0);
  t.is(os.lockFile(join(dir, 'lock')), -os.EAGAIN);
  os.close(first);
  const second = os.lockFile(join(dir, 'lock'));
  t.true(second >= 0);
  os.close(second);
  t.is(os.errnoName(os.lockFile(join(dir, 'none', 'lock'))), 'ENOENT');
  rmSync(dir, { recursive: true });
});

test('an eventfd adds up signals, wakes poll and is empty after a drain', (t) => {
  const fd = os.eventfd();
  const fds = Int32Array.of(fd);
  t.is(os.pollFds(fds, 1, 100), 0);
  os.eventfdSignal(fd);
  os.eventfdSignal(fd);
  t.is(os.pollFds(fds, 1, -1), 1);
  t.is(os.eventfdDrain(fd), 2);
  t.is(os.eventfdDrain(fd), -os.EAGAIN);
  t.is(os.pollFds(fds, 1, 0), 0);
  os.close(fd);
});

test('a thread asleep in poll is woken by an eventfd from another thread', async (t) => {
  const fd = os.eventfd();
  const worker = new Worker(new URL('../native/os-worker.ts', import.meta.url), { workerData: { job: 'sleep', fd } });
  const exit = once(worker, 'exit');
  t.deepEqual(await once(worker, 'message'), ['asleep']);
  t.is(os.eventfdSignal(fd), 0);
  t.deepEqual(await once(worker, 'message'), [1]);
  await exit;
  os.close(fd);
});

test('a pipe carries a byte and never blocks', (t) => {
  const [reader, writer] = os.pipe();
  t.is(os.pollFds(Int32Array.of(reader), 1, 0), 0);
  t.is(os.writeByte(writer), 0);
  t.is(os.pollFds(Int32Array.of(reader), 1, 0), 1);
  let result = 0;
  while (result === 0) result = os.writeByte(writer);
  t.is(result, -os.EAGAIN);
  os.close(reader);
  t.is(os.writeByte(writer), -os.EPIPE);
  os.close(writer);
});

test('a thread is bound to one CPU and can be named', async (t) => {
  const allowed = os.allowedCpus();
  t.true(allowed.length >= 1 && allowed.length <= os.cpuCount());
  const cpu = allowed.at(-1)!;
  const worker = new Worker(new URL('../native/os-worker.ts', import.meta.url), { workerData: { job: 'bind', cpu } });
  const [seen] = await once(worker, 'message');
  t.deepEqual(seen.cpus, [cpu]);
  t.is(seen.name, 'rw-test');
  t.not(seen.tid, os.getTid());
  t.deepEqual(os.allowedCpus(), allowed);
  t.is(os.getTid(), process.pid);
});

test('the cycle counter advances and its frequency is plausible', (t) => {
  os.sampleTsc();
  const first = os.tscSample[0]!;
  const second = os.tsc();
  os.sampleTsc();
  t.true(first > 0 && second > first && os.tscSample[0]! > second);
  t.true(os.tscHz() > 1e6 && os.tscHz() < 2e10);
});
