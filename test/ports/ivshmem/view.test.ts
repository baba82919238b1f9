import test from 'ava';
import { tryLock, unlock } from '#ports/ivshmem/records.ts';
import { PoolView } from '#ports/ivshmem/view.ts';
import { endPool, forward, frameOf, makePool, Side } from './rig.ts';

test('the lock of a pool is one for all threads, and may be taken again by who has it', (t) => {
  const pool = makePool();
  const [one, two] = [new PoolView(pool.place, false), new PoolView(pool.place, false)];
  t.true(one.enter(1));
  t.true(one.enter(1));
  t.false(two.enter(1));
  one.leave();
  t.false(two.enter(1));
  one.leave();
  t.true(two.enter(1));
  two.leave();
  one.close();
  two.close();
  endPool(pool);
});

test('while the main thread works on a pool, a lone worker leaves frames where they are', (t) => {
  const pool = makePool();
  const [a, b] = [1, 2].map((slot) => new Side(pool, slot));
  const { control } = new PoolView(pool.place, true).records;
  a!.peer.send(frameOf(60));
  t.true(tryLock(control));
  t.is(forward(a!, [b!]), 0);
  unlock(control);
  t.is(forward(a!, [b!]), 1);
  t.true(tryLock(control));
  unlock(control);
  a!.kill();
  b!.kill();
  endPool(pool);
});

test('ports of one pool and one MTU share what segments frames for them', (t) => {
  const pool = makePool();
  const view = new PoolView(pool.place, true);
  t.is(view.finished(1514), view.finished(1514));
  t.not(view.finished(1514), view.finished(9014));
  view.close();
  endPool(pool);
});
