import test from 'ava';
import { noise, same, withPair } from '../support/guest-pair.ts';

test('a switch that returns ids or lengths that cannot be is counted, never followed', async (t) => {
  await withPair({ ringSize: 8, features: ['VERSION_1'] }, {}, (port) => {
    const queue = port.queue(0);
    const [rx] = port.memory.blocks;
    const layoutUsedAt = 192; // 8 descriptors, available ring of 22 bytes, rounded up to 64
    const used = (rx!.ringAt + layoutUsedAt) / 4;
    const { u16, u32 } = rx!.file;
    const entries = [
      [9, 100],
      [0xffffffff, 100],
      [1, 0],
      [2, 0xffffffff],
      [1, 72],
    ];
    for (const [i, [id, bytes]] of entries.entries()) {
      u32[used + 1 + 2 * i] = id!;
      u32[used + 2 + 2 * i] = bytes!;
    }
    u16[used * 2 + 1] = entries.length;
    t.is(queue.rx.poll(), 0);
    t.is(queue.rx.broken, 5);
    t.is(queue.rx.poll(), 0);
  });
});

test('frames over several buffers are shown in pieces, joined on demand', async (t) => {
  await withPair({ rxFrameBytes: 500 }, {}, (port, backend) => {
    const { rx } = port.queue(0);
    const [long, short] = [noise(1600, 1), noise(80, 2)];
    t.is(backend.deliver([{ frame: long }, { frame: short }]), 2);
    t.is(rx.poll(), 2);
    t.deepEqual([rx.pieceCount[0], rx.pieceCount[1]], [4, 1]);
    t.deepEqual([rx.length[0], rx.length[1]], [1600, 80]);
    const lengths = [0, 1, 2, 3].map((k) => rx.pieceLength[rx.firstPiece[0]! + k]);
    t.deepEqual(lengths, [500, 512, 512, 76]);
    const joined = new Uint8Array(1700);
    t.is(rx.copy(0, joined, 100), 1600);
    t.true(same(joined.subarray(100), long));
    t.true(same(rx.u8.subarray(rx.at[1]!, rx.at[1]! + 80), short));
    rx.release();
    t.is(rx.count, 0);
  });
});

test('buffers come back only when released, at the next poll at the latest', async (t) => {
  await withPair({ ringSize: 8 }, {}, (port, backend) => {
    const { rx } = port.queue(0);
    const give = () => backend.deliver(Array.from({ length: 8 }, () => ({ frame: noise(60, 1) })));
    t.is(give(), 8);
    t.is(rx.poll(), 8);
    t.is(give(), 0);
    rx.release();
    t.is(give(), 8);
    t.is(rx.poll(), 8);
    t.is(rx.poll(), 0);
    t.is(give(), 8);
  });
});

test('a count of buffers that the ring does not hold is not believed', async (t) => {
  await withPair({ ringSize: 8 }, {}, (port, backend) => {
    const { rx } = port.queue(0);
    const [block] = port.memory.blocks;
    for (const count of [0, 2, 0xffff]) {
      backend.deliver([{ frame: noise(60, 1) }]);
      const header = block!.file.u32[(block!.ringAt + 192) / 4 + 1 + 2 * ((rx.usedIndex - 1) & 7)]!;
      const { u16 } = block!.file;
      // num_buffers of the frame that was just delivered: last word of the header before its first byte.
      u16[(block!.buffersAt + header * 2048 + 16 - 2) / 2] = count;
      t.is(rx.poll(), 0, `${count} buffers`);
      rx.release();
    }
    t.is(rx.broken, 3);
    backend.deliver([{ frame: noise(60, 1) }]);
    t.is(rx.poll(), 1);
  });
});
