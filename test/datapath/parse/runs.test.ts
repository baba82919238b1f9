import test from 'ava';
import { KEY_WORDS } from '#contract/flow-key.ts';
import { pendingSlots, runFlags, runPackets } from '#datapath/classifier/found.ts';
import { BURST, PacketBatch, WINDOW } from '#datapath/packet/batch.ts';
import { needOf } from '#datapath/parse/need.ts';
import { findRuns, oneRun, singleRuns } from '#datapath/parse/runs.ts';
import { Arena, fillSlot } from '../../support/datapath-rig.ts';
import { makeFrame, mangle, Random } from '../../support/random-frames.ts';
import { referenceParse } from '../../support/reference-parser.ts';

const batch = new PacketBatch();
const arena = new Arena();

const fill = (frames: readonly Uint8Array[]): void => {
  batch.clear();
  for (const [slot, frame] of frames.entries()) fillSlot(batch, arena, slot, frame);
};

/** Runs as [leader, packets, bytes, TCP flags of the others]. */
const runsOf = (runs: number): number[][] =>
  [...pendingSlots.subarray(0, runs)].map((leader) => [
    leader,
    runPackets[leader]!,
    batch.runBytes[leader]!,
    runFlags[leader]!,
  ]);

/** A burst of a few frames that come again, some of them changed in a byte or two. */
function nearlyEqual(random: Random): Uint8Array[] {
  const kind = random.chance(90) ? 'ipv4' : undefined;
  const seeds = Array.from({ length: 1 + random.below(3) }, () => makeFrame(random, undefined, kind));
  let last = seeds[0]!;
  return Array.from({ length: 1 + random.below(BURST) }, () => {
    if (random.chance(20)) last = random.pick(seeds);
    const frame = Uint8Array.from(last);
    if (random.chance(10)) frame[random.below(Math.min(frame.length, 60))]! ^= 1 << random.below(8);
    return random.chance(5) ? mangle(random, frame) : frame;
  });
}

/** Masks as megaflows have them: what decides how a header is read comes with its fields. */
function randomUnion(random: Random): Uint32Array {
  const union = new Uint32Array(KEY_WORDS);
  const mask = (): number => random.pick([0, 0, 0xffffffff, 0xffff0000, 0xff, random.u32()]);
  if (random.chance(50)) for (const word of [2, 3, 4]) union[word] = mask();
  if (random.chance(80)) union[7] = 0xffff0000;
  if (random.chance(20)) for (const word of [5, 6]) union[word] = mask();
  if (random.chance(70)) {
    union[7] = 0xffffff03;
    for (const word of [8, 9, 10, 11]) union[word] = mask();
    if (random.chance(10)) for (let word = 12; word < 26; word++) union[word] = mask();
  }
  return union;
}

test('packets of a run have one key under the union of masks, and every packet is in one run', (t) => {
  const random = new Random(41);
  let packets = 0;
  let leaders = 0;
  for (let round = 0; round < 6000; round++) {
    const frames = nearlyEqual(random);
    const union = randomUnion(random);
    fill(frames);
    const runs = runsOf(findRuns(batch, frames.length, needOf(union), union));
    let next = 0;
    for (const [leader, count, bytes, flags] of runs) {
      t.is(leader, next);
      next += count!;
      const members = frames.slice(leader, next);
      const keys = members.map((frame) => referenceParse(frame, WINDOW).key);
      const masked = keys.map((key) => key.map((word, i) => word & union[i]!).join());
      t.deepEqual(new Set(masked).size, 1, `round ${round}: ${members.map((one) => Buffer.from(one).toString('hex'))}`);
      t.is(
        bytes,
        members.reduce((sum, frame) => sum + frame.length, 0),
      );
      const others = keys.slice(1).reduce((all, key) => all | (key[11]! & 0xfff), 0);
      t.is(flags! & ~others, 0);
      if ((needOf(union) & 4) !== 0) t.is(flags, others);
    }
    t.is(next, frames.length);
    packets += frames.length;
    leaders += runs.length;
  }
  // Runs are there to be found.
  t.true(leaders < packets * 0.9, `${leaders} runs of ${packets} packets`);
});

test('a burst of one connection is one run, a change in what flows ask for ends it', (t) => {
  const tcp = (last: number, flags: number): Uint8Array => {
    const ip = [0x45, 0, 0, 40, 0, last, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, last];
    const l4 = [0, 80, 4, 0, 0, 0, 0, last, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0];
    return Uint8Array.from([...new Array<number>(12).fill(2), 8, 0, ...ip, ...l4]);
  };
  const union = new Uint32Array(KEY_WORDS);
  union[7] = 0xffffff03;
  union[9] = 0xffffff00;
  fill([tcp(1, 2), tcp(2, 0x10), tcp(3, 0x11), tcp(4, 0x10)]);
  t.deepEqual(runsOf(findRuns(batch, 4, needOf(union), union)), [[0, 4, 216, 0x11]]);
  union[11] = 1;
  t.deepEqual(runsOf(findRuns(batch, 4, needOf(union), union)), [
    [0, 2, 108, 0x10],
    [2, 1, 54, 0],
    [3, 1, 54, 0],
  ]);
});

test('a burst can be taken as one run or as none', (t) => {
  fill([1, 2, 3].map((seed) => makeFrame(new Random(seed))));
  const bytes = batch.length[0]! + batch.length[1]! + batch.length[2]!;
  oneRun(batch, 3, bytes);
  t.deepEqual(runsOf(1), [[0, 3, bytes, 0]]);
  for (let again = 0; again < 2; again++) {
    singleRuns(batch, 3);
    t.deepEqual(
      runsOf(3),
      [0, 1, 2].map((slot) => [slot, 1, batch.length[slot]!, 0]),
    );
  }
});
