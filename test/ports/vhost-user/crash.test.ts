/** A data plane that dies in front of any store: the next one brings each frame to each receiver once, and in order. */
import test from 'ava';
import fc from 'fast-check';
import { CrashRig, type Plan } from './crash-rig.ts';
import { killedAt } from './stores.ts';

const PLAIN = { cuts: [] as number[], indirect: false };

/** Mappings of guests that are done with go when the event loop turns. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Runs the plan; the data plane dies in front of store `at`, its successor in front of store `again`. @returns stores. */
function run(plan: Plan, at: number, again: number): { stores: number; problems: string[] } {
  const rig = new CrashRig(plan);
  const problems: string[] = [];
  const got = plan.guests.slice(1).map((): number[] => []);
  let returned = 0;
  // A guest looks at its rings at any time: also while no data plane is there.
  const look = (): void => {
    const now = rig.received();
    returned += now.returned;
    for (const [i, frames] of now.frames.entries()) {
      for (const { number, intact, bytes } of frames) {
        got[i]!.push(number);
        if (!intact || bytes !== plan.frames[number]?.bytes) problems.push(`frame ${number} is not what was sent`);
      }
    }
  };
  const life = (): void => {
    rig.start();
    rig.forward();
  };
  try {
    const { stores, killed } = killedAt(at, life);
    look();
    if (killed && killedAt(again, life).killed) {
      look();
      life();
    }
    look();
    const want = plan.frames.map((_, i) => i).join();
    if (rig.lost > 0) problems.push(`${rig.lost} frames were lost on their way by the control plane`);
    for (const [i, numbers] of got.entries()) {
      // Those that wait for an answer are overtaken.
      if (plan.upcalls) numbers.sort((a, b) => a - b);
      if (numbers.join() !== want) problems.push(`receiver ${i} got ${numbers.join()}`);
    }
    if (returned !== plan.frames.length) problems.push(`the sender got ${returned} chains back`);
    return { stores, problems };
  } finally {
    rig.close();
  }
}

const guest = (packed: boolean, size = 64, startAt = 0, shared = false) => ({ packed, size, startAt, shared });
const frames = (count: number, bytes: number, shape = PLAIN) => Array.from({ length: count }, () => ({ bytes, shape }));
const BUFFER = { bytes: 2048, shape: PLAIN };

const SCENES: Record<string, Plan> = {
  'split rings': {
    guests: [guest(false), guest(false), guest(false, 128, 65_530)],
    frames: frames(6, 400),
    buffer: BUFFER,
    part: 99,
  },
  'packed rings': {
    guests: [guest(true), guest(true), guest(true, 50, 49)],
    frames: frames(6, 400),
    buffer: BUFFER,
    part: 99,
  },
  'packed to split, shared queues': {
    guests: [guest(true, 40, 38), guest(false, 64, 60, true), guest(true, 33, 30, true)],
    frames: frames(5, 300, { cuts: [12, 100], indirect: false }),
    buffer: BUFFER,
    part: 2,
  },
  'split to packed, frames over many buffers': {
    guests: [guest(false, 64, 3), guest(true, 61, 59), guest(false, 64, 65_535)],
    frames: frames(4, 1500, { cuts: [12, 400, 900], indirect: true }),
    buffer: { bytes: 600, shape: { cuts: [80], indirect: false } },
    part: 1,
  },
};

for (const [name, plan] of Object.entries(SCENES)) {
  test(`killed in front of every store, ${name}: each frame comes once`, async (t) => {
    const { stores, problems } = run(plan, Number.POSITIVE_INFINITY, 0);
    t.deepEqual(problems, []);
    t.true(stores > 20);
    for (let at = 0; at < stores; at++) {
      await turn();
      t.deepEqual(run(plan, at, Number.POSITIVE_INFINITY).problems, [], `killed in front of store ${at} of ${stores}`);
    }
    t.log(`${stores} stores`);
  });
}

const UPCALLS: Record<string, Plan> = {
  'split rings': {
    guests: [guest(false), guest(false), guest(true)],
    frames: frames(7, 400),
    buffer: BUFFER,
    part: 99,
    upcalls: true,
  },
  'packed rings, shared queues': {
    guests: [guest(true, 40, 38), guest(false, 64, 60, true), guest(true, 33, 30, true)],
    frames: frames(6, 300, { cuts: [12, 100], indirect: false }),
    buffer: BUFFER,
    part: 3,
    upcalls: true,
  },
};

for (const [name, plan] of Object.entries(UPCALLS)) {
  test(`killed in front of every store while frames wait for their flow, ${name}: each comes once`, async (t) => {
    const { stores, problems } = run(plan, Number.POSITIVE_INFINITY, 0);
    t.deepEqual(problems, []);
    for (let at = 0; at < stores; at++) {
      await turn();
      t.deepEqual(run(plan, at, Number.POSITIVE_INFINITY).problems, [], `killed in front of store ${at} of ${stores}`);
    }
    t.log(`${stores} stores`);
  });
}

const shape = fc.record({
  cuts: fc.uniqueArray(fc.integer({ min: 1, max: 300 }), { maxLength: 3 }).map((cuts) => cuts.sort((a, b) => a - b)),
  indirect: fc.boolean(),
});
const anyGuest = fc
  .record({
    packed: fc.boolean(),
    size: fc.integer({ min: 110, max: 180 }),
    startAt: fc.nat(70_000),
    shared: fc.boolean(),
  })
  .map((g) => (g.packed ? g : { ...g, size: 128, startAt: g.startAt & 0xffff }));

test('killed anywhere, twice, with rings, frames and buffers of any shape: each frame comes once', async (t) => {
  let killed = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        guests: fc.array(anyGuest, { minLength: 2, maxLength: 4 }),
        frames: fc.array(fc.record({ bytes: fc.integer({ min: 60, max: 700 }), shape }), {
          minLength: 1,
          maxLength: 9,
        }),
        buffer: fc.record({ bytes: fc.constantFrom(500, 900, 2048), shape }),
        part: fc.constantFrom(1, 3, 99),
      }),
      fc.nat(120),
      fc.nat(60),
      async (plan, at, again) => {
        await turn();
        const { stores, problems } = run(plan, at, again);
        if (stores === at) killed++;
        t.deepEqual(problems, []);
      },
    ),
    { numRuns: 150 },
  );
  t.true(killed > 20, `${killed} runs were killed`);
});
