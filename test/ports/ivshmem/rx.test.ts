import test from 'ava';
import { DESC_NEXT, RING_RETURN, RING_TX, STATE_BROKEN } from '#ports/ivshmem/layout.ts';
import { endPool, forward, frameOf, makePool, Side, SMALL, withPair } from './rig.ts';

const descriptors: [string, (buffer: number) => readonly [number, number, number, number]][] = [
  ['a buffer that does not exist', () => [511, 64, 60, 0]],
  ['buffer 2^32 - 1', () => [0xffffffff, 64, 60, 0]],
  ['a buffer of somebody else', (b) => [b + 40, 64, 60, 0]],
  ['bytes beyond the end of its buffer', (b) => [b, 64, 449, 0]],
  ['an offset that wraps around', (b) => [b, 0xffffffff, 60, 0]],
  ['a length that wraps around', (b) => [b, 64, 0xffffffff, 0]],
  ['an unknown flag', (b) => [b, 64, 60, 2]],
  ['a piece of no bytes', (b) => [b, 64, 0, 0]],
  ['a chain that does not end', (b) => [b, 64, 60, DESC_NEXT]],
];
for (const [what, make] of descriptors) {
  test(`a descriptor with ${what} is a counted drop, and what was in order comes back`, (t) => {
    withPair((a, b, pool) => {
      const [x, offset, length, flags] = make(a.peer.take());
      a.peer.put([{ buffer: x, offset, length }], flags);
      a.peer.show();
      t.is(forward(a, [b]), 0);
      t.is(a.counts()['rx_bad_descriptor'], 1);
      t.is(pool.holdings(1).sending, SMALL.credit);
      t.is(pool.holdings(2).sending, SMALL.credit);
      // Good frames go on.
      a.peer.send(frameOf(60));
      t.is(forward(a, [b]), 1);
    });
  });
}

test('a buffer named twice is taken once', (t) => {
  withPair((a, b, pool) => {
    const buffer = a.peer.take();
    const piece = { buffer, offset: 64, length: 60 };
    a.peer.put([piece], 0);
    a.peer.put([piece], 0);
    a.peer.put([piece, piece]);
    a.peer.show();
    t.is(forward(a, [b]), 1);
    t.is(a.counts()['rx_bad_descriptor'], 2);
    t.is(pool.holdings(2).receiving, 1);
  });
});

test('too short and too long frames are counted by their reason', (t) => {
  const pool = makePool({ size: 1 << 22, bufferBytes: 4096, slots: 3, entries: 64, credit: 64 });
  const a = new Side(pool, 1);
  a.peer.send(frameOf(13));
  a.peer.send(frameOf(65_558));
  t.is(forward(a, []), 0);
  t.is(a.counts()['rx_short_frame'], 1);
  t.is(a.counts()['rx_oversize'], 1);
  t.is(pool.holdings(1).sending, 64);
  a.kill();
  endPool(pool);
});

for (const [ring, what] of [
  [RING_TX, 'producer of a tx ring'],
  [RING_RETURN, 'producer of an rx return ring'],
] as const) {
  test(`an index that jumps breaks the port: ${what}`, (t) => {
    withPair((a, b, pool) => {
      a.peer.header(ring)[0] = 65;
      b.peer.send(frameOf(60));
      t.is(forward(b, [a]), 1);
      forward(a, []);
      t.regex(pool.broken(1), new RegExp(what));
      t.is(pool.broken(2), '');
      b.peer.send(frameOf(60));
      forward(b, [a]);
      t.true(a.counts()['tx_port_down']! >= 1);
      t.is(a.peer.send(frameOf(60)) && forward(a, [b]), 0);
      a.port.close();
      pool.shut(1, STATE_BROKEN);
      t.is(a.peer.slotWord(0), STATE_BROKEN);
      t.is(a.peer.slotWord(24), ring === RING_TX ? 1 : 2);
      t.is(pool.audit().sending, SMALL.credit);
      // So that `one` can end.
      a.open = false;
    });
  });
}

test('a worker that sleeps asks for the doorbell, unless frames wait', (t) => {
  withPair((a) => {
    const rx = a.port.rx[0]!;
    t.false(rx.arm());
    t.is(a.peer.header(0)[16], 1);
    rx.disarm();
    t.is(a.peer.header(0)[16], 0);
    a.peer.send(frameOf(60));
    t.true(rx.arm());
    t.is(a.peer.header(0)[16], 0);
  });
});

test('a worker does not sleep while a client has no buffer at all', (t) => {
  const pool = makePool({ size: 1 << 18, slots: 3, queues: 1, bufferBytes: 3584, credit: 8 });
  const [a, b] = [1, 2].map((slot) => new Side(pool, slot));
  while (a!.peer.send(frameOf(60))) forward(a!, [b!]);
  t.deepEqual(pool.holdings(1), { sending: 0, receiving: 0 });
  t.true(a!.port.rx[0]!.arm());
  b!.peer.giveBack(b!.peer.receive());
  for (let i = 0; i < 64; i++) forward(a!, [b!]);
  t.false(a!.port.rx[0]!.arm());
  a!.kill();
  b!.kill();
  endPool(pool);
});
