import test from 'ava';
import fc from 'fast-check';
import { output } from '#contract/actions.ts';
import { KEY_WORDS, VLAN_PRESENT, W_VLAN, W_VLAN_INNER } from '#contract/flow-key.ts';
import { WORDS } from '#ofproto/subtable.ts';
import { TagStack } from '#ofproto/tag-stack.ts';
import { runProgram } from '../support/fake-datapath.ts';

const tagOf = (vid: number): number => ((0x8100 << 16) | VLAN_PRESENT | vid) >>> 0;

type Step = { op: 'push' | 'write'; vid: number } | { op: 'pop' | 'commit' };
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ op: fc.constantFrom('push' as const, 'write' as const), vid: fc.integer({ min: 0, max: 4095 }) }),
  fc.record({ op: fc.constantFrom('pop' as const, 'commit' as const) }),
);

/** The tags that a list of steps leaves, innermost first. */
function naively(tags: readonly number[], steps: readonly Step[]): number[] {
  const stack = [...tags];
  for (const one of steps) {
    if (one.op === 'push') stack.push(one.vid);
    else if (one.op === 'pop') stack.pop();
    else if (one.op === 'write') stack.splice(-1, 1, one.vid);
  }
  return stack;
}

test('the program makes of the packet what the steps made of the flow, wherever it is committed', (t) => {
  const vids = fc.array(fc.integer({ min: 0, max: 4095 }), { maxLength: 2 });
  fc.assert(
    fc.property(vids, fc.array(step, { maxLength: 7 }), (received, steps) => {
      const flow = new Uint32Array(WORDS);
      if (received.length > 0) flow[W_VLAN] = tagOf(received.at(-1)!);
      if (received.length > 1) flow[W_VLAN_INNER] = tagOf(received[0]!);
      const key = flow.slice(0, KEY_WORDS);
      const wc = new Uint32Array(WORDS);
      const stack = new TagStack();
      stack.learn(flow, wc);
      const program: number[] = [];
      const emit = (words: number[]) => program.push(...words) > 0;
      for (const one of [...steps, { op: 'commit' as const }]) {
        if (one.op === 'push') stack.push(0x8100, one.vid);
        else if (one.op === 'pop') stack.pop();
        else if (one.op === 'write') stack.write(tagOf(one.vid), 0xffffffff);
        else t.true(stack.commit(wc, emit));
      }
      stack.show(flow);
      const wanted = naively(received, steps).slice(-2).reverse().map(tagOf);
      t.deepEqual([flow[W_VLAN], flow[W_VLAN_INNER]], [wanted[0] ?? 0, wanted[1] ?? 0]);
      const [sent] = runProgram(Uint32Array.from([...program, ...output(1)]), key).outputs;
      t.deepEqual([sent!.key[W_VLAN], sent!.key[W_VLAN_INNER]], [wanted[0] ?? 0, wanted[1] ?? 0]);
    }),
  );
});

test('no more than eight tags are kept', (t) => {
  const stack = new TagStack();
  stack.learn(new Uint32Array(WORDS), new Uint32Array(WORDS));
  for (let i = 0; i < 8; i++) t.true(stack.push(0x8100, i));
  t.false(stack.push(0x8100, 9));
});
