import test from 'ava';
import { parseOptions } from '#ports/memif/options.ts';

const parse = (options: Record<string, string>) =>
  parseOptions({ portNo: 1, name: 'p1', type: 'memif', options, mtu: 1500 }, '/run/rw');
const refused = (options: Record<string, string>): string => {
  try {
    parse(options);
    return '';
  } catch (error) {
    return (error as Error).message;
  }
};

test('without options a port listens on a socket of its name, for id 0', (t) => {
  const { mode, path, id, secret, queues } = parse({});
  t.deepEqual(
    { mode, path, id, secret, queues },
    { mode: 'server', path: '/run/rw/p1.sock', id: 0, secret: '', queues: 128 },
  );
});

test('a client says how large its rings and buffers are; a ring size is a number of descriptors or its logarithm', (t) => {
  const client = (more: Record<string, string>) => parse({ role: 'client', path: 'a', ...more });
  const { log2RingSize, bufferSize, queues } = client({});
  t.deepEqual({ log2RingSize, bufferSize, queues }, { log2RingSize: 10, bufferSize: 2048, queues: 1 });
  for (const [text, log2] of [
    ['1', 1],
    ['8', 8],
    ['14', 14],
    ['16', 4],
    ['1024', 10],
    ['16384', 14],
  ] as const) {
    t.is(client({ 'ring-size': text }).log2RingSize, log2, text);
  }
  t.is(client({ n_rxq: '4' }).queues, 4);
  t.is(client({ 'buffer-size': '9216', id: '4294967295', secret: 's' }).bufferSize, 9216);
});

test('options that make no sense are refused by name', (t) => {
  const client = { role: 'client', path: 'a' };
  const cases: [Record<string, string>, RegExp][] = [
    [{ role: 'master' }, /^option role is "master"; it takes server or client$/],
    [{ role: 'client' }, /^option path of port p1 is missing/],
    [{ id: '4294967296' }, /^option id is/],
    [{ id: '-1' }, /^option id is/],
    [{ secret: 'x'.repeat(25) }, /^option secret is 25 bytes long; it takes up to 24/],
    [{ 'ring-size': '10' }, /^option ring-size of port p1 belongs to role=client/],
    [{ 'buffer-size': '2048' }, /^option buffer-size of port p1 belongs to role=client/],
    [{ ...client, 'socket-mode': '0600' }, /^option socket-mode of port p1 belongs to role=server/],
    [{ ...client, 'ring-size': '15' }, /^option ring-size is "15"; it takes a power of two up to 16384, or its log/],
    [{ ...client, 'ring-size': '32768' }, /^option ring-size/],
    [{ ...client, 'ring-size': '0' }, /^option ring-size/],
    [{ ...client, 'ring-size': '1e3' }, /^option ring-size/],
    [{ ...client, 'buffer-size': '63' }, /^option buffer-size is "63"; it takes 64 to 65535$/],
    [{ ...client, n_rxq: '128', 'ring-size': '14' }, /^options n_rxq, ring-size and buffer-size ask for \d+ bytes/],
    [{ n_rxq: '129' }, /^option n_rxq is/],
    [{ mode: 'server' }, /^option mode of port p1 is not known/],
    [{ path: `/${'x'.repeat(107)}` }, /^the socket path of port p1 is 108 bytes long/],
  ];
  for (const [options, message] of cases) t.regex(refused(options), message);
});
