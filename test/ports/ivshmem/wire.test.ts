import test from 'ava';
import fc from 'fast-check';
import {
  doorbellValue,
  encodeMessage,
  MAX_PEER_ID,
  type ServerMessage,
  ServerMessages,
  SHARED_MEMORY,
} from '#ports/ivshmem/wire.ts';

const hex = (value: number): string => Buffer.from(encodeMessage(value)).toString('hex');

test('a message is a signed 64-bit little-endian number', (t) => {
  t.is(hex(0), '0000000000000000');
  t.is(hex(1), '0100000000000000');
  t.is(hex(0x1234), '3412000000000000');
  t.is(hex(MAX_PEER_ID), 'ffff000000000000');
  t.is(hex(SHARED_MEMORY), 'ffffffffffffffff');
  for (const wrong of [-2, MAX_PEER_ID + 1, 0.5, Number.NaN])
    t.throws(() => encodeMessage(wrong), { instanceOf: RangeError });
});

test('the doorbell register takes the peer in its upper half, the vector in its lower', (t) => {
  t.is(doorbellValue(0, 3), 3);
  t.is(doorbellValue(0xffff, 63), 0xffff003f);
});

const stream: readonly (readonly [number, number])[] = [
  [0, -1],
  [5, -1],
  [SHARED_MEMORY, 10],
  [0, 11],
  [0, 12],
  [5, 13],
  [5, 14],
  [7, 15],
  [7, -1],
  [7, 16],
];
const told: readonly ServerMessage[] = [
  { kind: 'version' },
  { kind: 'id', id: 5 },
  { kind: 'memory', fd: 10 },
  { kind: 'vector', id: 0, vector: 0, fd: 11 },
  { kind: 'vector', id: 0, vector: 1, fd: 12 },
  { kind: 'vector', id: 5, vector: 0, fd: 13 },
  { kind: 'vector', id: 5, vector: 1, fd: 14 },
  { kind: 'vector', id: 7, vector: 0, fd: 15 },
  { kind: 'gone', id: 7 },
  { kind: 'vector', id: 7, vector: 0, fd: 16 },
];

test('a client understands the protocol, in whatever pieces it comes', (t) => {
  fc.assert(
    fc.property(fc.infiniteStream(fc.integer({ min: 1, max: 8 })), (pieces) => {
      const client = new ServerMessages();
      const got: ServerMessage[] = [];
      for (const [value, fd] of stream) {
        const bytes = encodeMessage(value);
        for (let at = 0; at < bytes.length; ) {
          const n = Math.min(pieces.next().value!, client.want);
          const message = client.push(bytes.subarray(at, at + n), at === 0 ? fd : -1);
          if (message) got.push(message);
          at += n;
        }
      }
      t.deepEqual(got, [...told]);
    }),
    { numRuns: 50 },
  );
});

test('a client refuses what a server does not say', (t) => {
  const after = (steps: number): ServerMessages => {
    const client = new ServerMessages();
    for (const [value, fd] of stream.slice(0, steps)) client.push(encodeMessage(value), fd);
    return client;
  };
  t.throws(() => after(0).push(encodeMessage(1)), { message: 'protocol version 1; version 0 is known' });
  t.throws(() => after(1).push(encodeMessage(-1)), { message: /^peer id -1/ });
  t.throws(() => after(2).push(encodeMessage(-1)), { message: /in place of the shared memory/ });
  t.throws(() => after(2).push(encodeMessage(3), 9), { message: /in place of the shared memory/ });
  t.throws(() => after(3).push(encodeMessage(-1), 9), { message: /^peer id -1/ });
  t.throws(() => after(3).push(encodeMessage(5)), { message: /the client itself/ });
  const client = after(3);
  client.push(encodeMessage(5).subarray(0, 4), 20);
  t.throws(() => client.push(encodeMessage(5).subarray(4), 21), { message: /two descriptors/ });
  t.throws(() => after(3).push(new Uint8Array(8).fill(0x7f)), { message: /^peer id/ });
});
