import test from 'ava';
import { noise, same, withPair } from '../support/guest-pair.ts';

test('a chain has the descriptors that its shape asks for', async (t) => {
  await withPair({}, {}, (port, backend) => {
    const queue = port.queue(0);
    const shape = { headerAlone: true, cuts: [14, 34, 500] };
    queue.tx.setShape(shape);
    queue.send([noise(100, 1)]);
    queue.tx.setShape({ ...shape, indirect: true });
    queue.send([noise(600, 2)]);
    queue.tx.setShape({});
    queue.send([noise(60, 3)]);
    const [direct, indirect, plain] = backend.take();
    t.deepEqual(direct!.pieces, [12, 14, 20, 66]);
    t.false(direct!.indirect);
    t.deepEqual(indirect!.pieces, [12, 14, 20, 466, 100]);
    t.true(indirect!.indirect);
    t.deepEqual(plain!.pieces, [72]);
  });
});

test('a ring turns round many times without losing a buffer', async (t) => {
  await withPair({ ringSize: 8 }, {}, (port, backend) => {
    const queue = port.queue(0);
    for (let round = 0; round < 9000; round++) {
      const n = queue.tx.reserve(8);
      if (n !== 8) return t.fail(`${n} of 8 buffers are free in round ${round}`);
      for (let i = 0; i < n; i++) queue.tx.length[i] = 60;
      queue.tx.send(n);
      if (backend.take().length !== 8) return t.fail(`frames are missing in round ${round}`);
      const frame = noise(60, round + 1);
      if (backend.deliver([{ frame }]) !== 1) return t.fail(`no rx buffer in round ${round}`);
      const [got] = queue.receive();
      if (!got || !same(got, frame)) return t.fail(`wrong frame in round ${round}`);
    }
    t.is(queue.tx.pending, 0);
    t.is(queue.tx.reserve(8), 8);
  });
});

test('frames of impossible length are left out and their buffers kept', async (t) => {
  await withPair({ ringSize: 8 }, {}, (port, backend) => {
    const { tx } = port.queue(0);
    for (let round = 0; round < 5; round++) {
      t.is(tx.reserve(8), 8);
      for (let i = 0; i < 8; i++) {
        tx.u8.fill(i, tx.at[i]!, tx.at[i]! + 60);
        tx.length[i] = i % 3 === 1 ? 0 : i === 6 ? tx.frameBytes + 1 : 60;
      }
      t.is(tx.send(8), 4);
      t.deepEqual(
        backend.take().map(({ frame }) => frame[0]),
        [0, 2, 3, 5],
      );
    }
    t.is(tx.rejected, 20);
    t.is(tx.pending, 0);
    t.throws(() => port.queue(0).send([new Uint8Array(0)]), { message: /frame 0 has 0 bytes/ });
  });
});
