import test from 'ava';
import { geometry } from '#ports/ivshmem/layout.ts';
import { parseOptions, type Settings } from '#ports/ivshmem/options.ts';
import { MAX_SIZE, MIN_SIZE, shapeOf } from '#ports/ivshmem/shape.ts';

const parse = (options: Record<string, string> = {}): Settings =>
  parseOptions({ portNo: 1, name: 'iv0', type: 'ivshmem', options, mtu: 1500 }, '/run/rw');

test('without options: a socket named after the port, a pool of its name, one queue pair with one vector', (t) => {
  t.deepEqual(parse(), {
    mode: 'server',
    path: '/run/rw/iv0.sock',
    socketMode: undefined,
    socketOwner: undefined,
    pool: { name: 'default', size: undefined, bufferBytes: undefined, backing: undefined, isolated: false },
    vectors: 1,
    queuePairs: 1,
  });
});

test('all options', (t) => {
  const settings = parse({
    path: 'x.sock',
    size: '16M',
    'buffer-size': '9344',
    vectors: '8',
    pool: 'br0',
    isolation: 'none',
    backing: 'file',
    'backing-path': '/dev/shm/x',
    'backing-mode': '0660',
    'backing-owner': '1:2',
    'socket-mode': '0666',
    'socket-owner': ':7',
    n_rxq: '4',
    'pmd-rxq-affinity': '0:0',
    mtu_request: '9000',
  });
  const file = { path: '/dev/shm/x', mode: 0o660, owner: { uid: 1, gid: 2 } };
  t.deepEqual(settings.pool, { name: 'br0', size: 2 ** 24, bufferBytes: 9344, backing: file, isolated: false });
  t.deepEqual([settings.path, settings.vectors, settings.queuePairs], ['/run/rw/x.sock', 8, 4]);
  t.deepEqual([settings.socketMode, settings.socketOwner], [0o666, { uid: -1, gid: 7 }]);
  t.is(parse({ n_rxq: '3' }).vectors, 3);
  t.deepEqual(parse({ backing: 'file', pool: 'p' }).pool.backing, {
    path: '/dev/shm/ringway-p',
    mode: undefined,
    owner: undefined,
  });
  t.is(parse({ backing: 'memfd' }).pool.backing, 'memfd');
});

test('a port in isolation has a pool that no name can mean', (t) => {
  const { pool } = parse({ isolation: 'copy' });
  t.true(pool.isolated);
  t.throws(() => parse({ pool: pool.name }), { message: /^option pool is / });
  t.deepEqual(parse({ isolation: 'copy', backing: 'file' }).pool.backing, {
    path: '/dev/shm/ringway-iv0',
    mode: undefined,
    owner: undefined,
  });
});

const wrong: [Record<string, string>, RegExp][] = [
  [{ colour: 'red' }, /^option colour of port iv0 is not known; known are path, size, buffer-size, vectors, pool,/],
  [{ size: '10M' }, /^option size is "10M", not a power of two, which a PCI BAR must be; give 16M$/],
  [{ size: '1M' }, /^option size is "1M"; it takes 4M to 4G$/],
  [{ size: '8G' }, /^option size is "8G"; it takes 4M to 4G$/],
  [{ 'buffer-size': '1000' }, /^option buffer-size is "1000"; it takes multiples of 64 from 256 to 32768$/],
  [{ 'buffer-size': '64K' }, /^option buffer-size is "64K"; it takes multiples of 64 from 256 to 32768$/],
  [{ size: 'big' }, /^option size is "big"; it takes bytes, or a number with K, M or G/],
  [{ vectors: '0' }, /^option vectors is "0"; it takes 1 to 64$/],
  [{ vectors: '65' }, /^option vectors is "65"/],
  [{ n_rxq: '9' }, /^option n_rxq is "9"; it takes 1 to 8$/],
  [{ pool: 'a b' }, /^option pool is "a b"; it takes up to 63 letters/],
  [{ pool: '' }, /^option pool is ""/],
  [{ isolation: 'yes' }, /^option isolation is "yes"; it takes none or copy$/],
  [{ isolation: 'copy', pool: 'x' }, /^option pool of port iv0 contradicts isolation=copy, .*; remove one of them$/],
  [{ backing: 'disk' }, /^option backing is "disk"; it takes memfd or file$/],
  [{ 'backing-path': 'x' }, /^option backing-path is "x"; it takes a full path, such as \/dev\/shm\/default$/],
  [
    { backing: 'memfd', 'backing-path': '/dev/shm/x' },
    /^option backing-path has no meaning without a file; set backing=file/,
  ],
  [{ 'backing-mode': '0600' }, /^option backing-mode has no meaning without a file/],
  [{ backing: 'file', 'backing-mode': 'rw' }, /^option backing-mode is "rw"; it takes octal/],
  [{ backing: 'file', 'backing-owner': 'me' }, /^option backing-owner is "me"; it takes numbers as uid:gid/],
  [{ path: `/${'x'.repeat(107)}` }, /^the socket path of port iv0 is 108 bytes long/],
];
for (const [options, message] of wrong) {
  test(`${JSON.stringify(options).slice(0, 60)} is refused with the fix`, (t) => {
    t.throws(() => parse(options), { message });
  });
}

test('pools of all sizes leave most of their memory to buffers', (t) => {
  for (const isolated of [false, true]) {
    for (let size = MIN_SIZE; size <= MAX_SIZE; size *= 2) {
      const { bufferCount, bufferBytes, entries } = geometry(shapeOf(size, isolated, 2048));
      t.true(bufferCount * bufferBytes > 0.7 * size, `${size}`);
      for (const bytes of [256, 9344, 32_768])
        t.notThrows(() => geometry(shapeOf(size, isolated, bytes)), `${size} ${bytes}`);
      // Two clients with full rings both ways do not exhaust it.
      t.true(bufferCount >= (isolated ? 2 : 4) * entries);
    }
  }
});
