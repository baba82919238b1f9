import test from 'ava';
import fc from 'fast-check';
import { checkProgram, decTtl, drop, MAX_ACTION_WORDS, output, popVlan, pushVlan, set } from '#contract/actions.ts';
import { KEY_WORDS } from '#contract/flow-key.ts';

const u32 = fc.integer({ min: 0, max: 0xffffffff });
const action = fc.oneof(
  u32.map(output),
  fc.nat(255).map(drop),
  fc.tuple(fc.nat(KEY_WORDS - 1), u32, u32).map(([word, value, mask]) => set(word, value, mask)),
  fc.tuple(fc.constantFrom(0x8100, 0x88a8), fc.nat(0xffff)).map(([tpid, tci]) => pushVlan(tpid, tci)),
  fc.constant(popVlan()),
  fc.constant(decTtl()),
);

test('whatever the builders put together is sound', (t) => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
      const words = actions.flat();
      t.is(checkProgram(words, KEY_WORDS), undefined);
      t.true(words.every((word) => Number.isInteger(word) && word >= 0 && word <= 0xffffffff));
      // Heads say where the next action begins.
      let at = 0;
      for (const one of actions) {
        t.is(words[at]! & 0xffff, one.length);
        at += words[at]! & 0xffff;
      }
    }),
  );
});

test('a program cut off anywhere inside an action is refused', (t) => {
  fc.assert(
    fc.property(action, (words) => {
      for (let n = 1; n < words.length; n++) t.regex(checkProgram(words.slice(0, n), KEY_WORDS)!, /cut short/);
    }),
  );
});

test('any words are judged, and what passes can be walked', (t) => {
  const heads = fc.tuple(fc.nat(11), fc.nat(6)).map(([op, size]) => ((op << 16) | size) >>> 0);
  fc.assert(
    fc.property(fc.array(fc.oneof(u32, heads), { maxLength: 20 }), (words) => {
      if (checkProgram(words, KEY_WORDS) !== undefined) return;
      let at = 0;
      while (at < words.length) at += words[at]! & 0xffff;
      t.is(at, words.length);
    }),
    { numRuns: 2000 },
  );
  t.pass();
});

test('each fault is named with its place', (t) => {
  const faults: [words: number[], what: RegExp][] = [
    [[...output(1), 0], /unknown action 0 at word 2/],
    [[0x000a0001], /unknown action 10 at word 0/],
    [[0x00070002, 1], /clone at word 0 is cut short/],
    [[0x00090003, 1, 4], /tnl_pop at word 0 names tunnel kind 4/],
    [[0x00080004, 1, 4, 0], /tnl_push at word 0 has Ethernet type 0x0/],
    [[0x00010003, 1, 1], /action 1 at word 0 has 3 words, not 2/],
    [[0x00010000], /has 0 words/],
    [set(KEY_WORDS, 0, 0), /names key word 48/],
    [new Array(MAX_ACTION_WORDS + 1).fill(decTtl()[0]), /at most 8192/],
  ];
  for (const [words, what] of faults) t.regex(checkProgram(words, KEY_WORDS)!, what);
  t.is(checkProgram([], KEY_WORDS), undefined, 'an empty program drops');
});

test('a set keeps the value within its mask', (t) => {
  t.deepEqual(set(3, 0xffffffff, 0x00ff0000).slice(1), [3, 0x00ff0000, 0x00ff0000]);
  t.deepEqual(set(3, 0x80000000, 0xffffffff).slice(1), [3, 0x80000000, 0xffffffff]);
});
