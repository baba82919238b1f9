import test from 'ava';
import { C_FREE, PoolRecords } from '#ports/ivshmem/records.ts';
import { balanced, endPool, forward, frameOf, makePool, Side } from './rig.ts';

test('a queue of one worker of two is locked by senders, and holders change under the lock of the pool', (t) => {
  const pool = makePool();
  const [a, b] = [1, 2].map((slot) => new Side(pool, slot, { workers: 2, worker: 1 }));
  t.true(b!.port.tx!.shared);
  t.true(b!.port.tx!.lock());
  t.false(b!.port.tx!.lock());
  b!.port.tx!.unlock();
  a!.peer.send(frameOf(60));
  forward(a!, [b!]);
  t.is(b!.peer.receive().length, 1);
  t.true(balanced(pool));
  a!.kill();
  b!.kill();
  endPool(pool);
});

test('a slot has as many queue pairs as were asked for, each with buffers of its own', (t) => {
  const pool = makePool();
  const a = new Side(pool, 1, { queues: 2 });
  const b = new Side(pool, 2);
  a.peers[1]!.send(frameOf(60));
  t.is(forward(a, [b], false, 0), 0);
  t.is(forward(a, [b], false, 1), 1);
  // A buffer of one queue cannot be sent on the other.
  const buffer = a.peers[0]!.take();
  a.peers[1]!.put([{ buffer, offset: 128, length: 60 }]);
  a.peers[1]!.show();
  t.is(forward(a, [b], false, 1), 0);
  t.is(a.counts()['rx_bad_descriptor'], 1);
  t.true(balanced(pool));
  t.is(pool.holdings(1).sending, 96);
  a.kill();
  b.kill();
  t.is(pool.audit().free, pool.audit().total);
  endPool(pool);
});

test('a port that was attached anew goes on where it was, with another worker', (t) => {
  const pool = makePool();
  const a = new Side(pool, 1);
  const b = new Side(pool, 2);
  for (let turn = 0; turn < 100; turn++) {
    const frame = frameOf(60, turn);
    a.peer.send(frame);
    t.is(forward(a, [b]), 1);
    const got = b.peer.receive();
    t.deepEqual(
      got.map((pieces) => b.peer.bytes(pieces)),
      [frame],
    );
    b.peer.giveBack(got);
    if (turn % 10 === 9) b.attach({ worker: turn % 3, workers: 3 });
    if (turn % 10 === 4) a.attach({ workers: 1 });
  }
  t.true(balanced(pool));
  a.kill();
  b.kill();
  t.is(pool.audit().free, pool.audit().total);
  endPool(pool);
});

test('returns on a queue that no worker sends on any more are still taken', (t) => {
  const pool = makePool();
  const a = new Side(pool, 1);
  const b = new Side(pool, 2, { queues: 2, worker: 1, workers: 2 });
  a.peer.send(frameOf(60));
  forward(a, [b]);
  const got = b.peers[1]!.receive();
  t.is(got.length, 1);
  b.attach({ worker: 0, workers: 1, queues: 2 });
  b.peers[1]!.giveBack(got);
  // A pool that runs short has a look at all return rings.
  const { control } = new PoolRecords(pool.place.records, pool.geometry);
  const free = control[C_FREE]!;
  control[C_FREE] = 0;
  a.peer.send(frameOf(60));
  forward(a, [b]);
  t.is(control[C_FREE], 0);
  t.is(pool.holdings(1).sending, 48);
  control[C_FREE] = free;
  t.is(pool.holdings(2).receiving, 1);
  a.kill();
  b.kill();
  endPool(pool);
});
