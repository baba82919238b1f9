/** A short run of the fuzzer, on two seeds that stay or on that of RINGWAY_FUZZ_SEED; and that its checks can fail. */
import process from 'node:process';
import test from 'ava';
import { address, copyRows } from '#contract/os.ts';
import { removeScratchDir, scratchDir } from '../support/process.ts';
import { Arena, GUEST_BASE, PAGE } from './arena.ts';
import { Fuzzer } from './fuzzer.ts';
import { Random } from './random.ts';

const CASES = 6000;

const given = process.env['RINGWAY_FUZZ_SEED'];
const seeds = given === undefined ? [1, 2] : [Number(given)];

for (const seed of seeds) {
  test.serial(`no case of seed ${seed} does harm`, async (t) => {
    const dir = scratchDir('rwfz');
    const fuzzer = new Fuzzer(seed, dir);
    try {
      const tally = await fuzzer.run(0, CASES);
      t.is(tally.fault, undefined, JSON.stringify(tally.fault));
      t.log(JSON.stringify(tally));
      t.true(tally.hostileCases > CASES / 2 && tally.packets > CASES / 4 && tally.brokenRings > 0);
      t.true(tally.attached > 0 && tally.obeyed > 50 && tally.refused > 0);
    } finally {
      fuzzer.close();
      removeScratchDir(dir);
    }
  });
}

test.serial('the same seed and case are the same case, also when it is run alone', async (t) => {
  const dir = scratchDir('rwfz');
  const [whole, alone] = [new Fuzzer(7, dir), new Fuzzer(7, dir)];
  try {
    await whole.run(0, 700);
    await alone.run(699, 700);
    t.deepEqual(whole.sent(699), alone.sent(699));
    t.is(new Random(7, 3).word(), new Random(7, 3).word());
    t.not(new Random(7, 3).word(), new Random(7, 4).word());
  } finally {
    whole.close();
    alone.close();
    removeScratchDir(dir);
  }
});

test.serial('the arena tells of a byte written in front of, in and behind what was offered', (t) => {
  const arena = new Arena(9, [{ bytes: PAGE, hole: 0 }], 0xc3);
  const { live, buffer } = arena.parts[0]!;
  const touch = (at: number): string => {
    arena.clear();
    live[at] = 1;
    arena.allow(GUEST_BASE + 100, 10);
    return arena.check();
  };
  t.regex(touch(PAGE - 1), /1 bytes in front of the region/);
  t.regex(touch(PAGE + 99), /offset 99 /);
  t.regex(touch(PAGE + 110), /offset 110 /);
  t.is(touch(PAGE + 100), '');
  t.is(touch(PAGE + 109), '');
  const from = address(buffer) + 2 * PAGE;
  copyRows(Float64Array.of(address(buffer), from, 1), 1);
  arena.clear();
  t.is(arena.check(), '1 accesses behind the end of a region');
  t.true(arena.holds(0xc3, 4, 0));
  t.false(arena.holds(0xc4, 1, 0));
  arena.close();
});
