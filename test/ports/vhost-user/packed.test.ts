/** Packed rings: frames across them, beside split ones, from every place of a ring; notifications; rings that make no sense. */
import test from 'ava';
import fc from 'fast-check';
import { PackedChainWalker } from '#ports/vhost-user/chain-packed.ts';
import { FramePieces } from '#ports/vhost-user/pieces.ts';
import { RxFrames } from '#ports/vhost-user/rx-frames.ts';
import { PackedRxQueue } from '#ports/vhost-user/rx-packed.ts';
import { FrameSender } from '#ports/vhost-user/tx-frames.ts';
import { PackedTxQueue } from '#ports/vhost-user/tx-packed.ts';
import { BROKEN_LOOP, STATE_BROKEN, STATE_WORDS } from '#ports/vhost-user/vring.ts';
import { passesPackedEvent } from '#ports/vhost-user/vring-packed.ts';
import { MEMORY_BYTES, type PackedRing } from './driver.ts';
import { forward, forwardUnread, TestPort } from './test-port.ts';

const frameOf = (length: number, seed: number): Buffer => {
  const frame = Buffer.alloc(length);
  for (let i = 0; i < length; i++) frame[i] = (seed * 31 + i * 7 + (i >> 8)) & 0xff;
  frame.writeUInt16BE(0x88b5, 12);
  return frame;
};

const length = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 14, max: 400 }) },
  { weight: 3, arbitrary: fc.integer({ min: 400, max: 9000 }) },
  { weight: 1, arbitrary: fc.integer({ min: 9000, max: 65_549 }) },
);
const cuts = fc.oneof(
  fc.constant<number[]>([]),
  fc.constantFrom([10], [12], [5, 12, 26]),
  fc.uniqueArray(fc.integer({ min: 1, max: 2000 }), { maxLength: 12 }).map((list) => list.sort((a, b) => a - b)),
);
const shape = fc.record({ cuts, indirect: fc.boolean() });
const side = fc.record({
  packed: fc.boolean(),
  size: fc.oneof(fc.constantFrom(64, 256, 1024), fc.integer({ min: 50, max: 1100 })),
  mergeable: fc.boolean(),
  eventIdx: fc.boolean(),
  legacy: fc.boolean(),
  cut: fc.integer({ min: 256, max: 300 }).map((page) => page * 4096),
  startAt: fc.nat(4000),
});

interface Side {
  packed: boolean;
  size: number;
  mergeable: boolean;
  eventIdx: boolean;
  legacy: boolean;
  cut: number;
  startAt: number;
}

const portOf = (portNo: number, s: Side, headersEmpty: boolean): TestPort =>
  new TestPort(
    portNo,
    {
      packed: s.packed,
      size: s.packed ? s.size : 1024,
      cut: s.cut,
      rx: { headerBytes: s.legacy && !s.mergeable ? 10 : 12, eventIdx: s.eventIdx, headersEmpty },
      tx: { mergeable: s.mergeable },
    },
    s.startAt,
  );

test('the parts of packed queues are there', (t) => {
  for (const part of [PackedRxQueue, PackedTxQueue, PackedChainWalker, RxFrames, FrameSender, FramePieces])
    t.is(typeof part, 'function');
  const port = new TestPort(1, { packed: true });
  t.true(port.port.rx[0] instanceof PackedRxQueue);
  t.true(port.port.tx instanceof PackedTxQueue);
  port.close();
});

test('frames of every size cross packed rings of every size, from every place, byte-exact', (t) => {
  fc.assert(
    fc.property(
      side,
      side.map((s) => ({ ...s, packed: true })),
      fc.boolean(),
      fc.array(fc.record({ length, shape }), { minLength: 1, maxLength: 60 }),
      shape,
      fc.boolean(),
      fc.integer({ min: 1, max: 40 }),
      (a, b, turned, frames, rxShape, unread, burst) => {
        const [first, second] = turned ? [b, a] : [a, b];
        const from = portOf(1, first, unread);
        const to = portOf(2, second, false);
        const expected = frames.map((f, i) => frameOf(f.length, i));
        const got: Buffer[] = [];
        const room = second.mergeable ? 2048 : 65_600;
        const fits = second.mergeable ? (second.packed && second.size < 400 ? 0 : 3) : 12;
        const buffers = { ...rxShape, cuts: rxShape.cuts.slice(0, fits) };
        let waiting = 0;
        const flush = (): void => {
          while ((unread ? forwardUnread(from, to) : forward(from, to)) > 0);
          from.driver.txRing.takeUsed();
          for (const { frame, header } of to.driver.receive()) {
            t.is(header.readUInt16LE(0), 0);
            if (header.length === 12) t.true(header.readUInt16LE(10) >= 1);
            got.push(frame);
          }
          t.is(from.driver.txRing.availIndex, from.driver.txRing.usedIndex, 'every chain came back');
          from.driver.restart();
          if (to.driver.rxRing.availIndex === to.driver.rxRing.usedIndex) to.driver.restart();
          waiting = 0;
        };
        for (const [i, { shape }] of frames.entries()) {
          const wanted = second.mergeable ? Math.ceil((expected[i]!.length + 12) / room) : 1;
          for (let k = 0; k < wanted; k++) {
            if (to.driver.post(room, buffers)) continue;
            flush();
            t.true(to.driver.post(room, buffers));
          }
          if (!from.driver.send(expected[i]!, shape)) {
            flush();
            t.true(from.driver.send(expected[i]!, shape));
          }
          if (++waiting >= burst) flush();
        }
        flush();
        t.deepEqual(
          got.map((f) => f.length),
          expected.map((f) => f.length),
        );
        t.true(got.every((f, i) => f.equals(expected[i]!)));
        t.is(from.counts()['rx_packets'], frames.length);
        t.is(to.counts()['tx_packets'], frames.length);
        from.close();
        to.close();
      },
    ),
    { numRuns: 80 },
  );
});

test('a full ring, a small buffer, a bad buffer and a chain without an end each have their name', (t) => {
  const from = new TestPort(1);
  const to = new TestPort(2, { packed: true, size: 7 });
  for (let i = 0; i < 5; i++) from.driver.send(frameOf(64, i));
  to.driver.post(2048);
  to.driver.post(2048);
  forward(from, to);
  t.like(to.counts(), { tx_packets: 2, tx_ring_full: 3 });
  to.driver.post(100);
  from.driver.send(frameOf(200, 9));
  forward(from, to);
  t.is(to.counts()['tx_too_big_for_buffer'], 1);
  from.driver.send(frameOf(60, 9));
  forward(from, to);
  t.deepEqual(
    to.driver.rxRing.takeUsed().map(([, bytes]) => bytes),
    [76, 76, 72],
  );
  to.driver.rxRing.addChain([[MEMORY_BYTES - 8, 2048]], true, false);
  from.driver.send(frameOf(60, 9));
  forward(from, to);
  t.is(to.counts()['tx_bad_descriptor'], 1);
  t.deepEqual(
    to.driver.rxRing.takeUsed().map(([, bytes]) => bytes),
    [0],
    'it went back empty',
  );
  const broken = (port: TestPort, ring: number) => new Int32Array(port.driver.state)[ring * STATE_WORDS + STATE_BROKEN];
  const sender = new TestPort(3, { packed: true, size: 7 });
  for (const port of [to, sender]) {
    const ring = (port === to ? port.driver.rxRing : port.driver.txRing) as PackedRing;
    for (let i = 0; i < 7; i++) {
      const wrap = ring.wrapOf(ring.at + i) === 1 ? 0x80 : 0x8000;
      ring.putDesc(ring.wordAt(ring.at + i) - 12, 1 << 20, 64, 1, wrap | 1 | (port === to ? 2 : 0));
    }
  }
  from.driver.send(frameOf(60, 9));
  forward(from, to);
  t.is(broken(to, 0), BROKEN_LOOP);
  t.is(forward(sender, to), 0);
  t.is(broken(sender, 1), BROKEN_LOOP);
  t.is(sender.counts()['rx_bad_descriptor'], 1);
  t.is(forward(sender, to), 0);
  for (const port of [from, to, sender]) port.close();
});

test('bad transmit chains are counted and given back, the frames around them pass', (t) => {
  const to = new TestPort(2);
  const from = new TestPort(1, { packed: true, size: 100 });
  const ring = from.driver.txRing;
  const bad: [pieces: [number, number][], write: boolean, indirect: boolean][] = [
    [[[-4096, 64]], false, false],
    [[[MEMORY_BYTES, 64]], false, false],
    [[[MEMORY_BYTES - 32, 64]], false, false],
    [[[4096, 0xffffffff]], false, false],
    [[[4096, 0]], false, false],
    [[[1 << 20, 128]], true, false],
    [
      [
        [1 << 20, 128],
        [MEMORY_BYTES, 64],
        [1 << 20, 1],
      ],
      false,
      false,
    ],
    [
      [
        [1 << 20, 128],
        [MEMORY_BYTES, 64],
      ],
      false,
      true,
    ],
  ];
  for (const [i, chain] of bad.entries()) {
    from.driver.send(frameOf(64, i));
    t.true(ring.addChain(...chain));
    to.driver.post(2048);
  }
  while (forward(from, to) > 0);
  t.is(to.driver.receive().length, bad.length);
  t.is(ring.takeUsed().length, 2 * bad.length);
  t.is(from.counts()['rx_bad_descriptor'], bad.length);
  from.close();
  to.close();
});

test('random garbage in packed rings and tables never does harm', (t) => {
  fc.assert(
    fc.property(
      fc.infiniteStream(fc.integer({ min: 0, max: 0xffffffff })),
      fc.integer({ min: 1, max: 300 }),
      (words, size) => {
        const from = new TestPort(1, { packed: true, size });
        const to = new TestPort(2, { packed: true, size, tx: { mergeable: size % 2 === 0 } });
        for (let round = 0; round < 6; round++) {
          for (const ring of [from.driver.txRing, to.driver.rxRing]) {
            for (let i = 0; i < size; i++) {
              const word = words.next().value;
              // Half of the addresses are near the truth and half of the entries available, so that walks go deep.
              const flags = word & 4 ? (word & 8 ? 0x80 : 0x8000) | ((word >>> 28) & 7) : word >>> 16;
              ring.putDesc(
                ring.base + 16 * i,
                word & 1 ? word : word % MEMORY_BYTES,
                word & 2 ? word >>> 20 : word,
                word & 0xffff,
                flags,
              );
            }
          }
          for (let i = 0; i < 5; i++) t.true(forward(from, to) <= 32);
        }
        from.close();
        to.close();
      },
    ),
    { numRuns: 60 },
  );
});

test('an event is passed exactly when the entry it names has been used, laps included', (t) => {
  for (const size of [1, 5, 8]) {
    for (let before = 0; before < 3 * size; before++) {
      for (let steps = 1; steps <= size; steps++) {
        const now = before + steps;
        const wrap = (at: number) => (Math.floor(at / size) % 2 === 0 ? 0x8000 : 0);
        // An event may name any entry from a lap before to the next one; further ones repeat.
        for (let event = Math.max(0, now - size); event <= now; event++) {
          const word = (event % size) | wrap(event);
          t.is(
            passesPackedEvent(word, (now % size) | wrap(now), steps, size),
            event >= before && event < now,
            `size ${size}, ${before} to ${now}, event ${event}`,
          );
        }
      }
    }
  }
});

test('kicks are wanted only while armed, with and without event indices', (t) => {
  for (const eventIdx of [false, true]) {
    const port = new TestPort(1, { packed: true, size: 5, rx: { eventIdx } }, 7);
    const ring = port.driver.txRing;
    const rx = port.port.rx[0]!;
    const event = () => ring.view.getUint32(ring.usedAt, true);
    t.false(rx.arm());
    t.is(event(), eventIdx ? 0x20002 : 0);
    rx.disarm();
    t.is(event(), 0x10000);
    port.driver.send(frameOf(64, 0));
    t.true(rx.arm());
    t.is(event(), 0x10000);
    port.close();
  }
});
