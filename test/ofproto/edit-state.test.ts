import test from 'ava';
import { output, popVlan, pushVlan, set } from '#contract/actions.ts';
import { W_DL_SRC, W_VLAN } from '#contract/flow-key.ts';
import { EditState } from '#ofproto/edit-state.ts';

const start = (values: Record<number, number> = {}): EditState => {
  const key = new Uint32Array(64);
  for (const [word, value] of Object.entries(values)) key[Number(word)] = value;
  const state = new EditState();
  state.reset(key);
  return state;
};

test('a value that is known to be there already is not set', (t) => {
  const state = start({ [W_DL_SRC]: 7 });
  state.look(W_DL_SRC, 0xffffffff);
  state.write(W_DL_SRC, 7, 0xffffffff);
  state.output(1);
  t.deepEqual(state.program, output(1));
});

test('a value that may be there already is set without a look', (t) => {
  const state = start({ [W_DL_SRC]: 7 });
  state.write(W_DL_SRC, 7, 0xff);
  state.look(W_DL_SRC, 0x1ff);
  state.output(1);
  t.deepEqual(state.program, [...set(W_DL_SRC, 7, 0x1ff), ...output(1)]);
  t.is(state.wc[W_DL_SRC], 0x100);
});

test('restoring undoes in the program what was sent meanwhile, and looks at what it puts back', (t) => {
  const state = start({ [W_DL_SRC]: 7 });
  const saved = state.save();
  state.write(W_DL_SRC, 8, 0xffffffff);
  state.output(1);
  state.restore(saved);
  t.is(state.wc[W_DL_SRC], 0);
  state.output(2);
  t.deepEqual(state.program, [
    ...set(W_DL_SRC, 8, 0xffffffff),
    ...output(1),
    ...set(W_DL_SRC, 7, 0xffffffff),
    ...output(2),
  ]);
  t.is(state.wc[W_DL_SRC], 0xffffffff);
});

test('a tag that was popped for one output is pushed again as it was', (t) => {
  const state = start({ [W_VLAN]: 0x81003005 });
  const tags = state.saveTags();
  state.popTag();
  state.output(1);
  state.restoreTags(tags);
  state.output(2);
  t.deepEqual(state.program, [...popVlan(), ...output(1), ...pushVlan(0x8100, 0x3005), ...output(2)]);
  t.is(state.wc[W_VLAN], 0xffffffff);
});

test('a full program says so, and a dropped one is empty or one drop', (t) => {
  const state = start();
  let outputs = 0;
  while (state.output(1)) outputs++;
  t.is(outputs, 4096);
  state.dropAll(0);
  t.deepEqual(state.program, []);
});
