import { existsSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { accept, close, unixConnect, unixListen, unlinkIfSocket } from '#contract/os.ts';
import { Endpoint, listenAt as listenOn } from '#ports/socket/endpoint.ts';
import { parseOptions } from '#ports/vhost-user/options.ts';
import { scratchDir, sleep, until } from '../../support/process.ts';

const dir = scratchDir('rwep');
const settings = (path: string, mode: string) =>
  parseOptions({ portNo: 1, name: 'p', type: 'vhost-user', options: { path, mode }, mtu: 1500 }, dir);

test('a listening endpoint hands over one connection at a time; the next waits its turn', async (t) => {
  const path = join(dir, 'one');
  const got: number[] = [];
  const endpoint = new Endpoint(settings(path, 'server'), (fd) => got.push(fd), t.fail);
  endpoint.start();
  const guests = [unixConnect(path), unixConnect(path)];
  await until('the first', () => got.length === 1);
  await sleep(30);
  t.is(got.length, 1);
  endpoint.released();
  await until('the second', () => got.length === 2);
  endpoint.stop();
  for (const fd of [...guests, ...got]) close(fd);
});

test('who connects without end is served at a bounded rate, and nobody is forgotten', async (t) => {
  const path = join(dir, 'storm');
  let served = 0;
  const endpoint = new Endpoint(
    settings(path, 'server'),
    (fd) => {
      served++;
      close(fd);
      setImmediate(() => endpoint.released());
    },
    t.fail,
  );
  endpoint.start();
  const start = performance.now();
  const guests: number[] = [];
  for (let i = 0; i < 80; i++) {
    guests.push(unixConnect(path));
    await sleep(0);
  }
  await until('all to be served', () => served === 80);
  // 50 at once and 50 a second: the last of 80 not before 0.6 s.
  t.true(performance.now() - start > 500);
  endpoint.stop();
  for (const fd of guests) close(fd);
});

test('a connection that ended for a fault of the peer counts as five', async (t) => {
  const path = join(dir, 'faults');
  let served = 0;
  const endpoint = new Endpoint(
    settings(path, 'server'),
    (fd) => {
      served++;
      close(fd);
      setImmediate(() => endpoint.released(true));
    },
    t.fail,
  );
  endpoint.start();
  const start = performance.now();
  const guests = Array.from({ length: 16 }, () => unixConnect(path));
  await until('all to be served', () => served === guests.length);
  // 10 at once and 10 a second: the last of 16 not before 0.5 s.
  t.true(performance.now() - start > 400);
  endpoint.stop();
  for (const fd of guests) close(fd);
});

const listenAt = (path: string): Endpoint => {
  const endpoint = new Endpoint(settings(path, 'server'), close, () => undefined);
  endpoint.start();
  return endpoint;
};

test('a missing folder is made, those above it are not', (t) => {
  listenAt(join(dir, 'folder', 'socket')).stop();
  t.true(statSync(join(dir, 'folder')).isDirectory());
  t.throws(() => listenAt(join(dir, 'no', 'such', 'socket')), {
    message: `folder ${join(dir, 'no', 'such')} cannot be made (ENOENT); make it, or choose another path`,
  });
  t.false(existsSync(join(dir, 'no')));
});

test('a path in /proc, or below a file, is refused at once', (t) => {
  t.throws(() => listenAt('/proc/nosuch/deeper/socket'), { message: /^folder \/proc\/nosuch\/deeper cannot be made/ });
  t.throws(() => listenAt('/proc/nosuch/socket'), { message: /^folder \/proc\/nosuch cannot be made/ });
  writeFileSync(join(dir, 'file'), '');
  t.throws(() => listenAt(join(dir, 'file', 'socket')), { message: /file is not a folder; choose another path$/ });
  t.throws(() => listenAt(join(dir, 'file', 'deeper', 'socket')), { message: /ENOTDIR.*choose another path$/ });
});

test('a connecting endpoint says why it cannot, and tries again', async (t) => {
  const path = join(dir, 'two');
  const got: number[] = [];
  const reasons: string[] = [];
  const endpoint = new Endpoint(
    settings(path, 'client'),
    (fd) => got.push(fd),
    (reason) => reasons.push(reason),
  );
  endpoint.start();
  t.regex(reasons[0]!, /ENOENT/);
  const listener = unixListen(path);
  await until('a connection', () => got.length === 1);
  close(accept(listener));
  endpoint.released();
  await until('the next connection', () => got.length === 2);
  endpoint.stop();
  for (const fd of [listener, ...got]) close(fd);
  unlinkIfSocket(path);
});

test('a stale socket of either kind is replaced, a live one of either kind is in use', (t) => {
  for (const packets of [false, true]) {
    const path = join(dir, `kind${packets}`);
    const live = unixListen(path, { packets: !packets });
    const listen = () => listenOn({ path, packets, socketMode: 0o600, socketOwner: undefined });
    t.throws(listen, { message: `another process listens on ${path}; stop it or choose another path` });
    close(live);
    const listener = listen();
    close(unixConnect(path, { packets }));
    t.is(statSync(path).mode & 0o777, 0o600);
    listener.close();
    t.false(existsSync(path));
  }
});
