/** The rings against a naive model: lists of frames, and a count of what everybody holds. */
import test from 'ava';
import fc from 'fast-check';
import { MAX_CHAIN, R_CONSUMER, R_PRODUCER, RINGS } from '#ports/ivshmem/layout.ts';
import type { Pool } from '#ports/ivshmem/pool.ts';
import { PoolRecords, Q_FREE, Q_RETURN, Q_RX, Q_TX } from '#ports/ivshmem/records.ts';
import { balanced, endPool, forward, frameOf, makePool, Side } from './rig.ts';

const CLIENTS = 3;
const SHAPE = { size: 1 << 20, slots: CLIENTS + 1, queues: 1, entries: 64, bufferBytes: 512, headroom: 64, credit: 32 };
const BURST = 32;

/** As after many entries: all four indices of a side at `place` more. */
const windOn = (pool: Pool, side: Side, place: number): void => {
  const row = new PoolRecords(pool.place.records, pool.geometry).queue(side.slot, 0);
  for (const word of [Q_TX, Q_FREE, Q_RX, Q_RETURN]) row[word] = (row[word]! + place) | 0;
  for (let ring = 0; ring < RINGS; ring++) {
    const header = side.peer.header(ring);
    header[R_PRODUCER >> 2] = (header[R_PRODUCER >> 2]! + place) | 0;
    header[R_CONSUMER >> 2] = (header[R_CONSUMER >> 2]! + place) | 0;
    side.peer.place[ring] = (side.peer.place[ring]! + place) | 0;
  }
};

interface Frame {
  readonly bytes: Uint8Array;
  readonly pieces: number;
}

class Model {
  /** By slot: frames on their way to the switch, and in the rx ring; buffers that it holds for sending, and received. */
  readonly tx: Frame[][] = [];
  readonly rx: Frame[][] = [];
  readonly hands: Frame[][] = [];
  readonly sending: number[] = [];
  readonly received: number[] = [];
  dropped = 0;

  forward(from: number, to: readonly number[]): void {
    const burst = this.tx[from]!.splice(0, BURST);
    // A port takes what fits, frame by frame.
    for (const slot of to) {
      for (const frame of burst) {
        if (this.received[slot]! + frame.pieces > SHAPE.entries) this.dropped++;
        else {
          this.rx[slot]!.push(frame);
          this.received[slot]! += frame.pieces;
        }
      }
    }
    for (const frame of burst) this.sending[from]! += frame.pieces;
  }
}

const slot = fc.integer({ min: 1, max: CLIENTS });
const step = fc.oneof(
  fc.record({
    op: fc.constant('send' as const),
    slot,
    bytes: fc.integer({ min: 14, max: 1500 }),
    cut: fc.constantFrom(512, 512, 100),
    count: fc.integer({ min: 1, max: 12 }),
  }),
  fc.record({ op: fc.constant('forward' as const), slot, to: fc.subarray([1, 2, 3]), whole: fc.boolean() }),
  fc.record({ op: fc.constant('receive' as const), slot }),
  fc.record({ op: fc.constant('return' as const), slot }),
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const runModel = (pool: Pool, steps: readonly Step[], start: number): void => {
  const sides: Side[] = [];
  const model = new Model();
  const held: ReturnType<Side['peer']['receive']>[] = [];
  for (let at = 1; at <= CLIENTS; at++) {
    sides[at] = new Side(pool, at);
    windOn(pool, sides[at]!, start);
    for (const list of [model.tx, model.rx, model.hands]) list[at] = [];
    model.sending[at] = SHAPE.credit;
    model.received[at] = 0;
    held[at] = [];
  }
  let seed = 0;
  for (const s of steps) {
    const side = sides[s.slot]!;
    if (s.op === 'send') {
      for (let i = 0; i < s.count; i++) {
        const bytes = frameOf(s.bytes, seed++);
        const pieces = piecesOf(s.bytes, s.cut);
        if (model.sending[s.slot]! < pieces || pieces > MAX_CHAIN) break;
        side.peer.send(bytes, s.cut);
        model.sending[s.slot]! -= pieces;
        model.tx[s.slot]!.push({ bytes, pieces });
      }
    } else if (s.op === 'forward') {
      // Returns are seen when something is sent.
      forward(
        side,
        s.to.map((at) => sides[at]!),
        s.whole,
      );
      model.forward(s.slot, s.to);
    } else if (s.op === 'receive') {
      const frames = side.peer.receive();
      const expected = model.rx[s.slot]!.splice(0);
      if (frames.length !== expected.length) throw new Error(`${frames.length} frames, not ${expected.length}`);
      frames.forEach((pieces, i) => {
        if (Buffer.compare(side.peer.bytes(pieces), expected[i]!.bytes) !== 0) throw new Error(`frame ${i} differs`);
        if (pieces.length !== expected[i]!.pieces) throw new Error(`frame ${i} in ${pieces.length} pieces`);
      });
      held[s.slot]!.push(...frames);
    } else {
      side.peer.giveBack(held[s.slot]!);
      model.received[s.slot]! -= held[s.slot]!.flat().length;
      held[s.slot] = [];
    }
    if (!balanced(pool)) throw new Error(`unbalanced ${JSON.stringify(pool.audit())}`);
    for (let at = 1; at <= CLIENTS; at++) {
      const waiting = model.tx[at]!.reduce((sum, frame) => sum + frame.pieces, 0);
      const { sending } = pool.holdings(at);
      if (sending !== model.sending[at]! + waiting) throw new Error(`slot ${at} holds ${sending}`);
    }
  }
  const drops = sides.reduce((sum, side) => sum + (side?.counts()['tx_ring_full'] ?? 0), 0);
  if (drops !== model.dropped) throw new Error(`${drops} drops, not ${model.dropped}`);
  for (const side of sides) side?.kill();
  const { free, total } = pool.audit();
  if (free !== total) throw new Error(`${total - free} buffers lost`);
};

/** Buffers that Peer.send takes. */
const piecesOf = (bytes: number, cut: number): number => {
  let pieces = 0;
  for (let left = bytes; left > 0; pieces++)
    left -= Math.min(left, cut, SHAPE.bufferBytes - (pieces === 0 ? SHAPE.headroom : 0));
  return pieces;
};

test('what arrives, in which order, and what is dropped is as in a model of plain lists; indices may wrap around', (t) => {
  const pool = makePool(SHAPE);
  try {
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 1, maxLength: 50 }),
        fc.constantFrom(0, -64, -128, 0x7fffffc0),
        (steps, start) => runModel(pool, steps, start),
      ),
      { numRuns: 200 },
    );
  } finally {
    endPool(pool);
  }
  t.pass();
});
