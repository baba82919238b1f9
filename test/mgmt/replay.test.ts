import test from 'ava';
import type { FlowHistory } from '#mgmt/model.ts';
import { replay } from '#mgmt/replay.ts';
import type { BridgeApi, FlowMod, GroupMod } from '#ofproto/api.ts';

/** A bridge that notes what it is asked to do, and refuses what names `bad`. */
function noting() {
  const calls: string[] = [];
  const note = (mods: readonly (FlowMod | GroupMod)[]): Promise<void> => {
    const texts = mods.map((mod) => ('flow' in mod ? mod.flow : mod.group));
    if (texts.some((text) => text.includes('bad'))) return Promise.reject(new Error('no such group'));
    calls.push(texts.join(' | '));
    return Promise.resolve();
  };
  return { calls, bridge: { modifyFlows: note, modifyGroups: note } as unknown as BridgeApi };
}

const flows = (time: number, ...texts: string[]): FlowHistory => ({
  kind: 'ModifyFlows',
  bridge: 'br0',
  reset: false,
  mods: texts.map((flow) => ({ command: 'add', flow })),
  time,
});
const groups = (...texts: string[]): FlowHistory => ({
  kind: 'ModifyGroups',
  bridge: 'br0',
  mods: texts.map((group) => ({ command: 'add', group })),
  time: Date.now(),
});

test('neighbours of one kind go together, and the order of kinds stays', async (t) => {
  const { calls, bridge } = noting();
  const now = Date.now();
  await replay(bridge, [flows(now, 'a'), flows(now, 'b', 'c'), groups('g'), flows(now, 'd')], () => t.fail());
  t.deepEqual(calls, ['a | b | c', 'g', 'd']);
});

test('what cannot be applied again is told, and the others count', async (t) => {
  const { calls, bridge } = noting();
  const told: unknown[] = [];
  await replay(bridge, [flows(Date.now(), 'a', 'bad', 'b')], (mod) => told.push(mod));
  t.deepEqual(calls, ['a', 'b']);
  t.deepEqual(told, [{ command: 'add', flow: 'bad' }]);
});

test('flows whose hard timeout passed meanwhile stay away', async (t) => {
  const { calls, bridge } = noting();
  const history = [flows(Date.now() - 60_000, 'hard_timeout=30,a', 'hard_timeout=3600,b', 'c')];
  await replay(bridge, history, () => t.fail());
  t.deepEqual(calls, ['hard_timeout=3600,b | c']);
});
