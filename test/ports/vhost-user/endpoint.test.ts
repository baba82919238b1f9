import { join } from 'node:path';
import test from 'ava';
import { accept, close, unixConnect, unixListen, unlinkIfSocket } from '#contract/os.ts';
import { Endpoint } from '#ports/vhost-user/endpoint.ts';
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

test('a connecting endpoint says why it cannot, and tries again within a second', async (t) => {
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
  await until('a connection', () => got.length === 1, 3000);
  close(accept(listener));
  endpoint.released();
  await until('the next connection', () => got.length === 2, 3000);
  endpoint.stop();
  for (const fd of [listener, ...got]) close(fd);
  unlinkIfSocket(path);
});
