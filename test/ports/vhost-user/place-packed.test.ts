/** A packed ring says where it stands, in every state that a driver and this back end can leave it in. */
import test from 'ava';
import fc from 'fast-check';
import { findPlace, fitsPlace } from '#ports/vhost-user/place-packed.ts';
import { UsedChains } from '#ports/vhost-user/used-packed.ts';
import { type RingPlace, STATE_WORDS } from '#ports/vhost-user/vring.ts';
import { FIRST_PLACE, PackedVring, WRAP_BIT } from '#ports/vhost-user/vring-packed.ts';
import { PackedRing } from './driver.ts';

class Model {
  readonly buffer = new ArrayBuffer(1 << 17);
  readonly ring: PackedRing;
  readonly desc: Uint32Array;
  readonly used: UsedChains;
  place = FIRST_PLACE;
  /** Entries of the chains that are available, oldest first. */
  readonly waiting: [id: number, span: number][] = [];

  constructor(size: number) {
    this.ring = new PackedRing(new DataView(this.buffer), 0, size);
    const place: RingPlace = {
      index: 0,
      size,
      descriptorRegion: 0,
      descriptorOffset: 0,
      availableRegion: 0,
      availableOffset: this.ring.availAt,
      usedRegion: 0,
      usedOffset: this.ring.usedAt,
      kickFd: -1,
      callFd: -1,
    };
    const vring = new PackedVring(place, [this.buffer], new SharedArrayBuffer(STATE_WORDS * 4));
    this.desc = vring.desc;
    this.used = new UsedChains(vring, size, false);
  }

  /** The driver adds a chain, if there is room. */
  add(span: number): void {
    const pieces = Array.from({ length: span }, (): [number, number] => [4096, 64]);
    if (this.ring.addChain(pieces, false, false)) this.waiting.push([[...this.ring.spans.keys()].at(-1)!, span]);
  }

  /** The device takes `count` chains and gives them back. @returns them. */
  use(count: number): [number, number][] {
    const chains = this.waiting.splice(0, count);
    for (const [id, span] of chains) this.used.add(id, 0, span);
    if (chains.length > 0) this.place = this.used.publish(this.place);
    return chains;
  }
}

const step = fc.oneof(
  fc.record({ add: fc.integer({ min: 1, max: 9 }), use: fc.constant(0), half: fc.constant(0), take: fc.boolean() }),
  fc.record({ add: fc.constant(0), use: fc.integer({ min: 1, max: 8 }), half: fc.nat(4), take: fc.boolean() }),
);

test('the place is found in a ring of any size after any traffic, whatever the front end says', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), fc.array(step, { maxLength: 120 }), (size, steps) => {
      const model = new Model(size);
      t.is(findPlace(model.desc, size, 0), FIRST_PLACE, 'a fresh ring');
      for (const { add, use, half, take } of steps) {
        if (add > 0) model.add(Math.min(add, size));
        model.use(use);
        if (take) model.ring.takeUsed();
        // A driver that was stopped while it wrote a chain.
        const room = model.ring.seen + size - model.ring.at;
        const finished = model.desc.slice();
        model.ring.addUnfinished(Math.min(half, room));
        for (const given of [model.place, 0, FIRST_PLACE, 3, 0xffff]) {
          t.is(findPlace(model.desc, size, given), model.place, `size ${size}, given ${given}`);
        }
        t.true(fitsPlace(model.desc, size, model.place));
        model.desc.set(finished);
      }
    }),
    { numRuns: 300 },
  );
});

test('chains that were being given back when the data plane died are finished', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 64, max: 200 }),
      fc.nat(500),
      fc.integer({ min: 1, max: 3 }),
      fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 2, maxLength: 20 }),
      fc.nat(20),
      (size, start, waste, spans, written) => {
        const model = new Model(size);
        while (model.ring.at < start) {
          model.add(waste);
          model.use(1);
          model.ring.takeUsed();
        }
        for (const span of spans) model.add(span);
        const before = model.desc.slice();
        const head = model.place & (WRAP_BIT - 1);
        const chains = model.use(spans.length);
        const after = model.desc.slice();
        // Written so far: members of the first chain, and of the others the first few.
        const done = 1 + Math.min(written, chains.length - 1);
        if (done === 1 && spans[0] === 1) return;
        let entries = 0;
        chains.forEach(([, span], i) => {
          for (let k = 0; k < span; k++) {
            const d = 4 * ((head + entries + k) % size);
            if (i >= done) model.desc.set(before.subarray(d, d + 4), d);
          }
          entries += span;
        });
        model.desc[4 * head + 3] = before[4 * head + 3]!;
        const given = chains.slice(0, done).reduce((sum, [, span]) => sum + span, 0);
        const end = head + given;
        const wrap = model.desc[4 * head + 3]! >>> 31 === 0 ? WRAP_BIT : 0;
        const expected = end < size ? end | wrap : (end - size) | (wrap ^ WRAP_BIT);
        t.is(findPlace(model.desc, size, FIRST_PLACE), expected, `head ${head} of ${size}, ${spans.slice(0, done)}`);
        for (let i = 0; i < given; i++) {
          const d = 4 * ((head + i) % size);
          t.is(model.desc[d + 3], after[d + 3]);
        }
        t.is(model.ring.takeUsed().length, done, 'the driver gets them back');
      },
    ),
    { numRuns: 300 },
  );
});

test('chains in front of those that QEMU has dropped are given back', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 8, max: 200 }),
      fc.nat(500),
      fc.nat(100),
      fc.nat(100),
      fc.nat(100),
      fc.nat(0xffff),
      (size, start, holes, drops, later, given) => {
        const model = new Model(size);
        while (model.ring.at < start) {
          model.add(1);
          model.use(1);
          model.ring.takeUsed();
        }
        const head = model.place & (WRAP_BIT - 1);
        const lap = model.place & WRAP_BIT ? 1 : 0;
        // So many chains wait, of which QEMU drops some, beginning behind others: its place is where it was told last.
        const hole = 1 + (holes % (size - 2));
        const dropped = 1 + (drops % (size - 1 - hole));
        for (let i = 0; i < hole + dropped; i++) model.add(1);
        for (let i = hole; i < hole + dropped; i++) {
          const d = 4 * ((head + i) % size);
          const wrap = head + i < size ? lap : 1 - lap;
          model.desc[d + 2] = 0;
          model.desc[d + 3] = model.waiting[i]![0] | (wrap === 1 ? 0x8080_0000 : 0);
        }
        for (let i = 0; i < later % (size - hole - dropped + 1); i++) model.add(1);
        const end = head + hole + dropped;
        const expected = end < size ? end | (lap * WRAP_BIT) : (end - size) | ((1 - lap) * WRAP_BIT);
        t.is(findPlace(model.desc, size, given), expected, `${hole} wait at ${head} of ${size}, ${dropped} dropped`);
        t.is(model.ring.takeUsed().length, hole + dropped, 'the driver gets all back');
        t.is(findPlace(model.desc, size, given), expected);
      },
    ),
    { numRuns: 300 },
  );
});

test('a full ring of which QEMU has dropped the later part is given back whole', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 4, max: 200 }),
      fc.nat(500),
      fc.nat(200),
      fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 200, maxLength: 200 }),
      fc.nat(0xffff),
      (size, start, which, wanted, given) => {
        const model = new Model(size);
        while (model.ring.at < start) {
          model.add(1);
          model.use(1);
          model.ring.takeUsed();
        }
        const head = model.place & (WRAP_BIT - 1);
        // Chains of one entry are dropped, as a driver with indirect tables makes them; those in front may be longer.
        const hole = 2 + (which % (size - 3));
        let entries = 0;
        while (entries < size) {
          const span = entries < hole ? Math.min(hole - entries, wanted[model.waiting.length]!) : 1;
          if (span > 0) model.add(span);
          entries += span;
        }
        const chains = [...model.waiting];
        // One chain in front of one dropped entry: see waitingBefore.
        if (size - hole === 1 && chains.length === 2) return;
        t.is(model.ring.takeUsed().length, 0);
        for (let i = hole; i < size; i++) {
          const used = head + i < size === ((model.place & WRAP_BIT) !== 0) ? 0x8080_0000 : 0;
          model.desc[4 * ((head + i) % size) + 3] = (chains[chains.length - size + i]![0] | used) >>> 0;
        }
        const expected = model.place ^ WRAP_BIT;
        t.is(findPlace(model.desc, size, given), expected, `${hole} wait at ${head} of ${size}`);
        t.is(model.ring.takeUsed().length, chains.length, 'the driver gets all back');
        t.is(findPlace(model.desc, size, given), expected);
      },
    ),
    { numRuns: 300 },
  );
});

test('any content of a ring gives a place within it', (t) => {
  fc.assert(
    fc.property(fc.uint32Array({ minLength: 1, maxLength: 400 }), fc.nat(0xffffffff), (words, given) => {
      const size = Math.max(1, words.length >> 2);
      const desc = new Uint32Array(4 * size);
      desc.set(words.subarray(0, 4 * size));
      t.true((findPlace(desc, size, given) & (WRAP_BIT - 1)) < size);
    }),
    { numRuns: 300 },
  );
});
