/** NORMAL through ports of every VLAN mode, beside what Open vSwitch 3.1 does with the same frames. */
import test from 'ava';
import type { PortSpec } from '#ofproto/api.ts';
import { OfprotoRig } from '../support/ofproto-rig.ts';
import type { Ovs } from '../support/ovs.ts';
import { startOvsDummy, unavailable } from '../support/ovs-dummy.ts';
import { readGolden } from './golden.ts';

/** Ports 1.. of the matrix, and the same in words of ovs-vsctl. */
const PORTS: readonly [Partial<PortSpec>, string][] = [
  [{}, ''],
  [{ tag: 10 }, 'tag=10'],
  [{ trunks: [10, 20] }, 'trunks=10,20'],
  [{ tag: 10, vlanMode: 'native-tagged' }, 'tag=10 vlan_mode=native-tagged'],
  [{ tag: 10, vlanMode: 'native-untagged' }, 'tag=10 vlan_mode=native-untagged'],
  [{ tag: 10, vlanMode: 'dot1q-tunnel' }, 'tag=10 vlan_mode=dot1q-tunnel'],
  [{ tag: 20, vlanMode: 'native-untagged', trunks: [20, 30] }, 'tag=20 vlan_mode=native-untagged trunks=20,30'],
  [{ tag: 10, otherConfig: { 'priority-tags': 'if-nonzero' } }, 'tag=10 other_config:priority-tags=if-nonzero'],
  [{ tag: 10, otherConfig: { 'priority-tags': 'always' } }, 'tag=10 other_config:priority-tags=always'],
  [{ trunks: [0, 30] }, 'trunks=0,30'],
  [
    { tag: 10, vlanMode: 'native-untagged', otherConfig: { 'priority-tags': 'always' } },
    'tag=10 vlan_mode=native-untagged other_config:priority-tags=always',
  ],
  [
    { tag: 10, vlanMode: 'native-untagged', otherConfig: { 'priority-tags': 'if-nonzero' } },
    'tag=10 vlan_mode=native-untagged other_config:priority-tags=if-nonzero',
  ],
];

const TAGS: readonly (readonly [string, readonly string[]])[] = [
  ['vlan_tci=0x0000', []],
  ['dl_vlan=0,dl_vlan_pcp=0', ['0.0']],
  ['dl_vlan=0,dl_vlan_pcp=3', ['0.3']],
  ['dl_vlan=10,dl_vlan_pcp=0', ['10.0']],
  ['dl_vlan=10,dl_vlan_pcp=3', ['10.3']],
  ['dl_vlan=20,dl_vlan_pcp=5', ['20.5']],
  ['dl_vlan=30,dl_vlan_pcp=0', ['30.0']],
];

/** `port:tags` of every copy that a list of datapath actions sends, tags as `[tpid/]vid.pcp`, outermost first. */
function copies(actions: string, tags: readonly string[]): string {
  const left = [...tags];
  const sent: string[] = [];
  for (const [action] of actions.matchAll(/\w+(\([^)]*\))?/g)) {
    const push = /^push_vlan\((?:tpid=0x(\w+),)?vid=(\d+),pcp=(\d+)\)/.exec(action);
    if (push) left.unshift(`${push[1] ? `${push[1]}/` : ''}${push[2]}.${push[3]}`);
    else if (action === 'pop_vlan') left.shift();
    // Port 100 is the bridge's own port of the dummy data plane.
    else if (/^\d+$/.test(action) && action !== '100') sent.push(`${action.padStart(2, '0')}:${left.join('+')}`);
  }
  return sent.sort().join(' ') || 'drop';
}

/**
 * Every port with every tag, but one pair: Open vSwitch loses a customer's tag with VID 0 and priority 0 at the entry of a
 * tunnel, Ringway carries it through.
 */
const cases = PORTS.flatMap(([{ vlanMode }], i) =>
  TAGS.filter(([, tags]) => vlanMode !== 'dot1q-tunnel' || tags[0] !== '0.0').map(([text, tags]) => ({
    flow: `in_port=${i + 1},dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,${text}`,
    tags,
  })),
);

async function ringway(): Promise<OfprotoRig> {
  const rig = await OfprotoRig.start(PORTS.map(([spec]) => spec));
  await rig.add('actions=NORMAL');
  return rig;
}

test('every VLAN mode treats every tag as Open vSwitch was recorded to do', async (t) => {
  const golden = new Map(readGolden('normal-vlan.txt').map(({ input, output }) => [input, output]));
  const rig = await ringway();
  t.is(golden.size, cases.length);
  for (const { flow, tags } of cases)
    t.is(copies(rig.bridge.trace(flow).datapathActions, tags), golden.get(flow)!, flow);
});

const reason = unavailable();
const live = reason === undefined ? test : test.skip;

live(`a real Open vSwitch gives what is recorded${reason ? ` (${reason})` : ''}`, async (t) => {
  const ovs = await startMatrix();
  try {
    const golden = new Map(readGolden('normal-vlan.txt').map(({ input, output }) => [input, output]));
    for (const { flow, tags } of cases) t.is(await ask(ovs, flow, tags), golden.get(flow)!, flow);
  } finally {
    await ovs.stop();
  }
});

async function startMatrix(): Promise<Ovs> {
  const ovs = await startOvsDummy(PORTS.length);
  await ovs.vsctl('set', 'Open_vSwitch', '.', 'other_config:vlan-limit=2');
  for (const [i, [, words]] of PORTS.entries())
    if (words) await ovs.vsctl('set', 'Port', `p${i + 1}`, ...words.split(' '));
  await ovs.ofctlOk(['add-flow', 'br0', 'actions=NORMAL']);
  return ovs;
}

async function ask(ovs: Ovs, flow: string, tags: readonly string[]): Promise<string> {
  const text = await ovs.appctlOk('ofproto/trace', 'br0', flow);
  return copies(/Datapath actions: (.*)/.exec(text)![1]!, tags);
}

test('frames to 01-80-c2-00-00-0x are dropped unless forward-bpdu says otherwise', async (t) => {
  const rig = await ringway();
  t.is(rig.fate('in_port=1,dl_dst=01:80:c2:00:00:0e'), 'reserved_multicast!');
  t.is(rig.fate('in_port=1,dl_dst=01:80:c2:00:00:10'), '10!');
  await rig.theSwitch.setBridge({ ...rig.bridge.spec, otherConfig: { 'forward-bpdu': 'true' } });
  t.is(rig.fate('in_port=1,dl_dst=01:80:c2:00:00:0e'), '10');
});

test('a frame for a station behind the port it came from is a hairpin', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('actions=NORMAL');
  rig.send('in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:99');
  t.is(rig.fate('in_port=1,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01'), 'hairpin!');
});

test('group addresses are never learned', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('actions=NORMAL');
  rig.send('in_port=1,dl_src=03:00:00:00:00:01,dl_dst=02:00:00:00:00:99');
  t.deepEqual(rig.bridge.fdb(), []);
});
