import test from 'ava';
import fc from 'fast-check';
import { eventfdSignal } from '#contract/os.ts';
import { IvQueue } from '#guest/ivshmem/queue.ts';
import { queuePlace } from '#guest/ivshmem/ring.ts';
import { IV_RX_BURST, IvRxQueue } from '#guest/ivshmem/rx.ts';
import { IV_TX_BURST, IvTxQueue } from '#guest/ivshmem/tx.ts';
import { MAX_CHAIN, STATE_BROKEN } from '#ports/ivshmem/layout.ts';
import { IvshmemStub, SHAPE, SLOT } from '../../support/ivshmem-stub.ts';

const frame = (length: number, seed = 1): Uint8Array => Uint8Array.from({ length }, (_, i) => i * 7 + seed);

const withStub =
  (body: (stub: IvshmemStub, queue: IvQueue) => void | Promise<void>, queues = 1) =>
  async () => {
    const stub = new IvshmemStub(queues);
    try {
      stub.open();
      const queue = new IvQueue(0);
      queue.attach(stub.place());
      await body(stub, queue);
    } finally {
      stub.close();
    }
  };

test('a frame is built in place behind the head-room, and rings the switch only where it sleeps', (t) =>
  withStub((stub, { tx }) => {
    t.is(tx.room, SHAPE.bufferBytes - SHAPE.headroom);
    t.is(tx.reserve(4), 4);
    const bytes = frame(60);
    for (let i = 0; i < 2; i++) {
      tx.u8.set(bytes, tx.at[i]!);
      tx.length[i] = 60;
    }
    t.is(tx.send(2), 2);
    t.false(stub.rung());
    t.is(tx.pending, 2);
    const frames = stub.sent();
    t.deepEqual(
      frames.map(({ pieces }) => pieces.map((piece) => piece.bytes)),
      [[bytes], [bytes]],
    );
    t.is(tx.pending, 0);
    stub.view.u32[stub.place().tx.wake] = 1;
    t.is(tx.reserve(1), 1);
    tx.length[0] = 14;
    tx.send(1);
    t.true(stub.rung());
    t.is(tx.kicks, 1);
  })());

test('buffers that were reserved and not sent are there again; no more can be taken than the switch gave', (t) =>
  withStub((stub, { tx }) => {
    t.is(tx.free, SHAPE.credit);
    t.is(tx.reserve(IV_TX_BURST), SHAPE.credit);
    const first = tx.at[0]!;
    t.is(tx.reserve(1), 1);
    t.is(tx.at[0], first);
    tx.length[0] = 20;
    tx.send(1);
    t.is(tx.reserve(IV_TX_BURST), SHAPE.credit - 1);
    t.not(tx.at[0], first);
    stub.sent();
    t.is(tx.free, SHAPE.credit);
  })());

test('a burst with an impossible length, place or chain is not sent', (t) =>
  withStub((stub, { tx }) => {
    const spoil: ((tx: IvTxQueue) => void)[] = [
      () => {},
      (q) => q.length.fill(SHAPE.bufferBytes),
      (q) => q.length.fill(-1),
      (q) => {
        q.length.fill(20);
        q.at[1]! += SHAPE.bufferBytes;
      },
      (q) => {
        q.length.fill(20);
        q.at[0]! -= SHAPE.headroom + 1;
      },
      (q) => {
        q.length.fill(20);
        q.next[1] = 1;
      },
    ];
    for (const each of spoil) {
      t.is(tx.reserve(2), 2);
      each(tx);
      t.is(tx.send(2), 0);
    }
    t.is(stub.sent().length, 0);
    t.is(tx.rejected, 2 * spoil.length);
    t.is(tx.free, SHAPE.credit);
  })());

test('long frames are chained, as many as there are buffers for; the next call takes the rest', (t) =>
  withStub((stub, queue) => {
    const long = frame(3000);
    t.is(queue.send([long, frame(10), long, long]), 3);
    const frames = stub.sent();
    t.deepEqual(
      frames.map(({ pieces }) => Buffer.concat(pieces.map((piece) => piece.bytes))),
      [long, frame(10), long].map((bytes) => Buffer.from(bytes)),
    );
    t.is(frames[0]!.pieces.length, Math.ceil(3000 / queue.tx.room));
    t.is(queue.send([long]), 1);
    t.throws(() => queue.send([frame(10), new Uint8Array(0)]), { message: /frame 1 has 0 bytes/ });
    t.throws(() => queue.send([frame(queue.tx.room * MAX_CHAIN + 1)]), { message: /can be sent/ });
  })());

test('frames are read in place, chained ones joined, and every buffer goes back once', (t) =>
  withStub((stub, queue) => {
    const { rx } = queue;
    const [short, ...long] = [frame(64, 3), frame(400, 4), frame(100, 5)];
    const buffers = [...stub.deliver([short!]), ...stub.deliver(long)];
    t.is(rx.poll(), 2);
    t.deepEqual(rx.u8.slice(rx.at[0]!, rx.at[0]! + rx.length[0]!), short);
    t.is(rx.pieceCount[1], 2);
    const joined = new Uint8Array(500);
    t.is(rx.copy(1, joined), 500);
    t.deepEqual(Buffer.from(joined), Buffer.concat(long));
    t.deepEqual(stub.returned(), []);
    t.is(rx.poll(), 0, 'not before the release');
    rx.release();
    t.deepEqual(stub.returned(), buffers);
    stub.deliver(long);
    t.deepEqual(
      queue.receive().map((bytes) => Buffer.from(bytes)),
      [Buffer.concat(long)],
    );
    t.is(stub.returned().length, 2);
  })());

test('bursts go round the rings many times', (t) =>
  withStub((stub, queue) => {
    for (let round = 0; round < 200; round++) {
      const frames = Array.from({ length: 1 + (round % 13) }, (_, i) => frame(14 + ((round * 31) % 1200), i));
      t.true(queue.send(frames.slice(0, 2)) >= 1);
      t.true(stub.sent().length >= 1);
      for (const each of frames) stub.deliver([each.subarray(0, 400)]);
      t.is(queue.receive().length, frames.length);
      t.is(stub.returned().length, frames.length);
    }
    t.is(queue.rx.broken, 0);
  })());

test('entries that make no sense are counted and left out, and what they hold goes back', (t) =>
  withStub((stub, queue) => {
    const count = stub.pool.geometry.bufferCount;
    stub.deliverRaw([count, 0, 10, 0]);
    stub.deliverRaw([5, 500, 13, 0]);
    stub.deliverRaw([6, 2 ** 32 - 1, 1, 0]);
    const good = stub.deliver([frame(30)]);
    stub.deliverRaw([7, 0, 10, 1]);
    t.is(queue.receive().length, 1);
    t.is(queue.rx.broken, 4);
    t.deepEqual(stub.returned(), [5, 6, ...good, 7]);
  })());

test('a slot of another generation or state, or an impossible index, makes the queue stale', (t) =>
  withStub((stub, queue) => {
    const { rx, tx } = queue;
    stub.view.u32[stub.place().rx.producer] = SHAPE.entries + 1;
    t.is(rx.poll(), 0);
    t.true(queue.stale);
    stub.open();
    queue.attach(stub.place());
    t.false(queue.stale);
    stub.view.u32[stub.place().free.producer] = SHAPE.entries + 1;
    t.is(tx.reserve(3), 0);
    t.true(queue.stale);
    stub.open();
    t.is(rx.poll(), 0);
    t.true(rx.stale, 'generation');
    queue.attach(stub.place());
    stub.shut(STATE_BROKEN);
    t.is(tx.reserve(1), 0);
    t.is(rx.poll(), 0);
    t.true(rx.stale && tx.stale, 'state');
    queue.detach();
    t.is(tx.reserve(1) + rx.poll() + tx.free + tx.pending, 0);
  })());

test('a sleeping guest asks for a doorbell, and takes the wish back', (t) =>
  withStub(async (stub, queue) => {
    const { rx, free } = stub.place();
    t.false(queue.waitReadable(1));
    t.is(stub.view.u32[rx.wake], 0);
    const waiting = queue.readable(20_000);
    t.is(stub.view.u32[rx.wake], 1);
    stub.deliver([frame(20)]);
    eventfdSignal(stub.calls[0]!);
    t.true(await waiting);
    t.is(stub.view.u32[rx.wake], 0);
    t.true(queue.waitReadable(20_000));
    t.is(queue.receive().length, 1);
    t.true(await queue.writable(20_000));
    t.is(stub.view.u32[free.wake], 0);
  })());

test('a guest without a doorbell looks by itself', (t) =>
  withStub(async (stub, queue) => {
    queue.attach({ ...stub.place(), callFd: -1, kickFd: -1 });
    t.false(queue.waitReadable(1));
    const waiting = queue.readable(20_000);
    stub.deliver([frame(20)]);
    t.true(await waiting);
    t.true(queue.waitReadable(20_000));
  })());

test('queue pairs have rings of their own', (t) =>
  withStub((stub, queue) => {
    const second = new IvQueue(1);
    second.attach(queuePlace(stub.view, SLOT, 1, stub.generation, { callFd: -1, kickFd: -1 }));
    t.is(second.send([frame(50)]), 1);
    t.is(stub.sent(0).length, 0);
    t.is(stub.sent(1).length, 1);
    stub.deliver([frame(20)], 1);
    t.is(queue.receive().length, 0);
    t.is(second.receive().length, 1);
  }, 2)());

test('whatever the other side writes, bursts stay inside of the pool and come to an end', (t) =>
  withStub((stub) => {
    const word = fc.oneof(fc.nat(70), fc.nat(3000), fc.integer({ min: 0, max: 2 ** 32 - 1 }));
    const g = stub.pool.geometry;
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 300 }), word, word, (words, produced, given) => {
        const [rx, tx] = [new IvRxQueue(), new IvTxQueue()];
        stub.open();
        const place = stub.place();
        rx.attach(place);
        tx.attach(place);
        const { u32 } = stub.view;
        for (let i = 0; i < 4 * SHAPE.entries; i++) u32[place.rx.entries + i] = words[i % words.length]!;
        for (let i = 0; i < SHAPE.entries; i++) u32[place.free.entries + i] = words[i % words.length]!;
        u32[place.rx.producer] = produced;
        u32[place.free.producer] = given;
        for (let turn = 0; turn < 8; turn++) {
          const n = rx.poll();
          if (n > IV_RX_BURST) return false;
          for (let i = 0; i < n; i++) {
            for (let p = rx.firstPiece[i]!; p < rx.firstPiece[i]! + rx.pieceCount[i]!; p++) {
              if (rx.pieceAt[p]! < g.bufferOffset || rx.pieceAt[p]! + rx.pieceLength[p]! > g.size) return false;
            }
          }
          rx.release();
          const m = tx.reserve(IV_TX_BURST);
          for (let i = 0; i < m; i++) {
            if (tx.at[i]! < g.bufferOffset || tx.at[i]! + tx.room > g.size) return false;
            tx.length[i] = 60;
          }
          tx.send(m);
        }
        return true;
      }),
      { numRuns: 300 },
    );
    t.pass();
  })());
