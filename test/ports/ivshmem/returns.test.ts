import test from 'ava';
import { forward, frameOf, withPair } from './rig.ts';

test('a second return, and one of a buffer that was not received, is ignored and counted', (t) => {
  withPair((a, b, pool) => {
    a.peer.send(frameOf(60));
    forward(a, [b]);
    const got = b.peer.receive();
    const free = pool.audit().free;
    b.peer.giveBack([
      ...got,
      ...got,
      [{ buffer: 3, offset: 0, length: 0 }],
      [{ buffer: 0xffffffff, offset: 0, length: 0 }],
    ]);
    a.peer.send(frameOf(60));
    forward(a, [b]);
    t.is(b.counts()['bad_returns'], 3);
    t.is(pool.audit().free, free);
    t.is(pool.holdings(2).receiving, 1);
  });
});
