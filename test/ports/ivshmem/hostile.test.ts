/**
 * Nothing a peer writes may crash or hang the switch, reach outside the pool, or lose a buffer. Random clients, good and bad,
 * random garbage in every word that they can write, deaths at every step; after each step all buffers must be accounted for.
 */
import test from 'ava';
import fc from 'fast-check';
import { SLOTS } from '#datapath/packet/batch.ts';
import { RING_FREE, RING_RETURN, RING_RX, RING_TX, slotAt } from '#ports/ivshmem/layout.ts';
import type { Pool } from '#ports/ivshmem/pool.ts';
import type { Piece } from './peer.ts';
import { batch, endPool, forward, frameOf, makePool, Side, SMALL, withPair } from './rig.ts';

const CLIENTS = 4;

const outside = (batchPool: Pool, base: number): string => {
  // What rx lists for others must lie in buffers.
  const { size, bufferOffset } = batchPool.geometry;
  for (let slot = 0; slot < batch.count; slot++) {
    for (let i = 0; i < batch.segmentCount[slot]!; i++) {
      const at = batch.segmentAddress[batch.segmentFirst[slot]! + i]! - base;
      const bytes = batch.segmentLength[batch.segmentFirst[slot]! + i]!;
      if (at < bufferOffset || bytes < 0 || at + bytes > size) return `segment at ${at}, ${bytes} bytes`;
    }
  }
  return '';
};

class World {
  readonly pool: Pool;
  readonly sides: Side[] = [];
  readonly held: Piece[][][] = [];

  /** @param pool one that nobody holds a buffer of; it serves many worlds, since a process cannot map without end. */
  constructor(pool: Pool) {
    this.pool = pool;
    for (let slot = 1; slot <= CLIENTS; slot++) this.join(slot);
  }

  join(slot: number): void {
    this.sides[slot] = new Side(this.pool, slot, { queues: 2, mtu: 9000 });
    this.held[slot] = [];
  }

  /** Every buffer in exactly one state; free ones on the stack; nobody holds more than is allowed. */
  check(): void {
    const a = this.pool.audit();
    if (a.free + a.sending + a.receiving + a.held !== a.total) throw new Error(`unbalanced: ${JSON.stringify(a)}`);
    if (a.stacked !== a.free) throw new Error(`stack: ${JSON.stringify(a)}`);
    for (let slot = 1; slot <= CLIENTS; slot++) {
      const { sending } = this.pool.holdings(slot);
      if (sending > 2 * SMALL.credit) throw new Error(`slot ${slot} holds ${sending}`);
    }
  }

  end(): void {
    for (const side of this.sides) side?.kill();
    const { total, free, stacked } = this.pool.audit();
    if (free !== total || stacked !== total) throw new Error(`${total - free} buffers lost, ${stacked} on the stack`);
  }
}

const word = fc.oneof(
  fc.nat(5),
  fc.nat(300),
  fc.nat(600),
  fc.constantFrom(0x7fffffff, 0x80000000, 0xffffffff, 0xfffffff0, 65_535, 65_536),
  fc.integer({ min: 0, max: 0xffffffff }),
);
const slot = fc.integer({ min: 1, max: CLIENTS });
const queue = fc.nat(1);
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('send' as const),
      slot,
      queue,
      bytes: fc.nat(2000),
      cut: fc.integer({ min: 1, max: 512 }),
      offset: fc.nat(64),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('forward' as const),
      slot,
      queue,
      to: fc.subarray([1, 2, 3, 4]),
      whole: fc.boolean(),
      edit: fc.boolean(),
    }),
  },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('receive' as const), slot, queue }) },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('return' as const),
      slot,
      queue,
      times: fc.integer({ min: 1, max: 3 }),
      keep: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('descriptor' as const),
      slot,
      queue,
      words: fc.tuple(word, word, word, word),
      show: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('bad-return' as const),
      slot,
      queue,
      buffers: fc.array(word, { maxLength: 8 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('header' as const),
      slot,
      queue,
      ring: fc.nat(3),
      at: fc.constantFrom(0, 16, 17),
      value: word,
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('scribble' as const), at: fc.nat(), value: word }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('kill' as const), slot, when: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('rejoin' as const), slot }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const list = new Int32Array(SLOTS);

const edit = (n: number): void => {
  for (let slot = 0; slot < n; slot += 2) {
    if (batch.headLength[slot] === 0) continue;
    batch.edited[slot] = 1;
    batch.u8[batch.start[slot]!] = 0x55;
  }
};

/** A burst in which clients may die at any of its steps. */
const burst = (world: World, from: Side, q: number, to: readonly Side[], whole: boolean, edits: boolean): void => {
  const rx = from.port.rx[q]!;
  const n = rx.poll(batch, whole);
  if (n > 0) {
    const base = from.port.rx.length && batch.pool === world.pool.place.number ? poolBase(from) : 0;
    const wrong = outside(world.pool, base);
    if (wrong) throw new Error(wrong);
    if (edits && !whole) edit(n);
    for (let i = 0; i < n; i++) list[i] = i;
    for (const side of to) side.port.tx!.push(batch, list, n);
    batch.copy();
    for (const side of to) side.port.tx!.publish();
    rx.complete();
  }
  batch.clear();
};

/** Address at which the worker has mapped the pool: found by a frame that is sent unread. */
const bases = new Map<Pool, number>();
const poolBase = (side: Side): number => bases.get(side.pool)!;
const learnBase = (world: World): void => {
  const side = world.sides[1]!;
  const [piece] = side.peer.send(frameOf(60))!;
  side.port.rx[0]!.poll(batch, true);
  bases.set(world.pool, batch.segmentAddress[batch.segmentFirst[0]!]! - side.peer.at(piece!));
  side.port.rx[0]!.complete();
  batch.clear();
};

const act = (world: World, s: Step): void => {
  if (s.op === 'scribble') {
    const side = world.sides.find((each) => each?.open);
    if (!side) return;
    // Anywhere in rings and slot rows of the shared memory.
    const { queueOffset, bufferOffset } = world.pool.geometry;
    const from = slotAt(1) >> 2;
    const words = side.peer.words;
    words[from + (s.at % ((bufferOffset - queueOffset) >> 2))] = s.value;
    return;
  }
  const side = world.sides[s.slot]!;
  if (s.op === 'rejoin') {
    side.kill();
    world.join(s.slot);
    return;
  }
  if (!side.open) return;
  if (s.op === 'kill') {
    // In the middle of sending: descriptors written, not shown; shown, not polled; buffers in its hands.
    if (s.when > 0) side.peer.take();
    if (s.when > 1) side.peer.send(frameOf(100));
    if (s.when > 2) side.peer.receive();
    side.kill();
    return;
  }
  const peer = side.peers[s.queue]!;
  if (s.op === 'send') peer.send(frameOf(s.bytes), s.cut, s.offset);
  else if (s.op === 'forward') {
    const to = s.to.map((n) => world.sides[n]!).filter((each) => each.open);
    burst(world, side, s.queue, to, s.whole, s.edit);
  } else if (s.op === 'receive') world.held[s.slot]!.push(...peer.receive());
  else if (s.op === 'return') {
    const frames = world.held[s.slot]!;
    for (let i = 0; i < s.times; i++) peer.giveBack(frames);
    if (!s.keep) world.held[s.slot] = [];
  } else if (s.op === 'descriptor') {
    const d = (peer.place[RING_TX]!++ & 63) * 4;
    peer.entries(RING_TX).set(s.words, d);
    if (s.show) peer.show();
  } else if (s.op === 'bad-return') {
    for (const buffer of s.buffers) peer.entries(RING_RETURN)[peer.place[RING_RETURN]!++ & 63] = buffer;
    peer.show(RING_RETURN);
  } else if (s.op === 'header') peer.header(s.ring)[s.at] = s.value;
};

/** Runs a property in as many worlds as it takes. */
const inWorlds = (numRuns: number, maxLength: number, work: (world: World, steps: Step[]) => void): void => {
  const pool = makePool(SMALL);
  try {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength }), (steps) => {
        const world = new World(pool);
        try {
          learnBase(world);
          work(world, steps);
        } finally {
          world.end();
        }
      }),
      { numRuns },
    );
  } finally {
    endPool(pool);
  }
};

test('whatever clients do, no buffer is lost, and none is in two hands', (t) => {
  inWorlds(300, 60, (world, steps) => {
    for (const s of steps) {
      act(world, s);
      world.check();
    }
  });
  t.pass();
});

test('after any mischief of one client the others still exchange frames', (t) => {
  inWorlds(100, 30, (world, steps) => {
    for (const s of steps) {
      if (s.op === 'scribble' || s.op === 'rejoin' || s.op === 'kill') continue;
      if (s.op === 'forward') burst(world, world.sides[1]!, s.queue, [world.sides[2]!], s.whole, s.edit);
      else act(world, { ...s, slot: 1 });
    }
    const b = world.sides[2]!;
    const c = world.sides[3]!;
    const frame = frameOf(300, 9);
    b.peer.send(frame);
    t.is(forward(b, [c]), 1);
    t.deepEqual(
      c.peer.receive().map((pieces) => c.peer.bytes(pieces)),
      [frame],
    );
  });
});

test('a client that dies at any step of sending or receiving leaves no buffer behind', (t) => {
  const stages: ((a: Side, b: Side) => void)[] = [
    () => {},
    (a) => void a.peer.take(),
    (a) => a.peer.put([{ buffer: a.peer.take(), offset: 64, length: 60 }]),
    (a) => void a.peer.send(frameOf(60)),
    (a) => void a.peer.send(frameOf(2000)),
    (a, b) => {
      a.peer.send(frameOf(60));
      forward(a, [b]);
    },
    (a, b) => {
      b.peer.send(frameOf(60));
      forward(b, [a]);
    },
    (a, b) => {
      b.peer.send(frameOf(2000));
      forward(b, [a]);
      a.peer.receive();
    },
    (a, b) => {
      b.peer.send(frameOf(60));
      forward(b, [a]);
      a.peer.giveBack(a.peer.receive());
    },
    (a, b) => {
      b.peer.send(frameOf(60));
      forward(b, [a, b]);
    },
  ];
  for (const stage of stages) {
    const pool = makePool(SMALL);
    const [a, b] = [1, 2].map((n) => new Side(pool, n, { mtu: 9000 }));
    stage(a!, b!);
    a!.kill();
    const { free, sending, receiving, total, stacked } = pool.audit();
    t.is(free + sending + receiving, total);
    t.is(free, stacked);
    t.deepEqual(pool.holdings(1), { sending: 0, receiving: 0 });
    // It comes again in the same slot, with another generation, and works.
    const again = new Side(pool, 1);
    again.peer.send(frameOf(60));
    t.is(forward(again, [b!]), 1);
    again.kill();
    b!.kill();
    t.is(pool.audit().free, total);
    endPool(pool);
  }
});

test('what a client writes into the rings that only the switch produces does not matter', (t) => {
  withPair((a, b, pool) => {
    for (const ring of [RING_FREE, RING_RX]) {
      a.peer.entries(ring).fill(0xffffffff);
      b.peer.entries(ring).fill(0xffffffff);
      a.peer.header(ring).fill(-1);
      b.peer.header(ring).fill(-1);
    }
    const before = pool.audit();
    t.is(forward(a, [b]), 0);
    t.deepEqual(pool.audit(), before);
  });
});
