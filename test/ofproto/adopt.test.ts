import test from 'ava';
import { Switch } from '#ofproto/switch.ts';
import { OfprotoRig } from '../support/ofproto-rig.ts';
import { until } from '../support/process.ts';
import { portSpec } from '../support/random-tables.ts';

/** A control plane that finds the data plane of an earlier one. */
async function restart(old: OfprotoRig, flows: readonly string[]): Promise<OfprotoRig> {
  old.theSwitch.close();
  const rig = new OfprotoRig(old.datapath);
  rig.time = old.time + 1000;
  old.datapath.connect();
  await rig.theSwitch.addBridge({ name: 'br0', datapathId: '', failMode: 'secure', otherConfig: {} });
  Object.assign(rig, { bridge: rig.theSwitch.bridges.get('br0') });
  for (const { name } of old.bridge.ports()) await rig.theSwitch.addPort('br0', portSpec(name));
  await rig.add(...flows);
  return rig;
}

test('megaflows are taken over with ids and counters, and forward on all the while', async (t) => {
  const flows = ['in_port=1,actions=2', 'in_port=2,actions=1', 'in_port=3,actions=drop'];
  const old = await OfprotoRig.start([{}, {}, {}]);
  await old.add(...flows);
  for (let n = 0; n < 5; n++) old.send('in_port=1', 100);
  old.send('in_port=2');
  const before = [...old.datapath.flows];
  const { puts, deletes } = old.datapath;
  const rig = await restart(old, flows);
  t.is(rig.fate('in_port=1'), '2');
  await rig.theSwitch.restored();
  t.deepEqual([...rig.datapath.flows], before);
  t.deepEqual([rig.datapath.puts, rig.datapath.deletes], [puts, deletes]);
  const [first] = rig.theSwitch.datapathFlows();
  t.like(first, { id: before[0]![0], packets: 5, bytes: 464 });
  rig.send('in_port=1');
  t.is(rig.bridge.dumpFlows('in_port=1')[0]!.packets, 1, 'packets of the time before are not counted again');
  t.is(rig.theSwitch.datapathFlows()[0]!.packets, 6);
  t.is(rig.fate('in_port=3'), 'flow_drop!');
});

test('only what the tables no longer yield is changed or deleted', async (t) => {
  const old = await OfprotoRig.start([{}, {}, {}]);
  await old.add('in_port=1,actions=2', 'in_port=2,actions=1', 'in_port=3,actions=1');
  for (const port of [1, 2, 3]) old.send(`in_port=${port},udp,udp_dst=1`);
  const [same, other, narrow] = [...old.datapath.flows.keys()];
  const rig = await restart(old, ['in_port=1,actions=2', 'in_port=2,actions=3', 'in_port=3,udp,udp_dst=1,actions=1']);
  const { puts } = rig.datapath;
  await rig.theSwitch.restored();
  t.deepEqual([...rig.datapath.flows.keys()].sort(), [same, other]);
  t.false(rig.datapath.flows.has(narrow!));
  t.is(rig.datapath.puts, puts);
  t.is(rig.fate('in_port=1,udp,udp_dst=1'), '2');
  t.is(rig.fate('in_port=2,udp,udp_dst=1'), '3');
  t.is(rig.fate('in_port=3,udp,udp_dst=2'), 'no_match!');
});

test('stations are known again from the megaflows of their frames', async (t) => {
  const old = await OfprotoRig.start([{}, {}, {}]);
  await old.add('actions=NORMAL');
  const there = 'in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02';
  const back = 'in_port=2,dl_src=02:00:00:00:00:02,dl_dst=02:00:00:00:00:01';
  for (let n = 0; n < 3; n++) {
    old.send(there);
    old.send(back);
  }
  const before = [...old.datapath.flows].sort(([a], [b]) => a - b);
  const rig = await restart(old, ['actions=NORMAL']);
  await rig.theSwitch.restored();
  t.deepEqual(
    [...rig.datapath.flows].sort(([a], [b]) => a - b),
    before,
  );
  t.deepEqual(
    rig.bridge
      .fdb()
      .map(({ mac, port }) => [mac, port])
      .sort(),
    [
      ['02:00:00:00:00:01', 1],
      ['02:00:00:00:00:02', 2],
    ],
  );
  t.is(rig.fate(there), '2');
});

test('ports are matched by name, and megaflows of a port that is gone are deleted', async (t) => {
  const old = await OfprotoRig.start([{}, {}]);
  await old.add('in_port=1,actions=2', 'in_port=2,actions=1');
  old.send('in_port=1');
  old.send('in_port=2');
  old.theSwitch.close();
  const rig = new OfprotoRig(old.datapath);
  old.datapath.connect();
  await rig.theSwitch.addBridge({ name: 'br0', datapathId: '', failMode: 'secure', otherConfig: {} });
  Object.assign(rig, { bridge: rig.theSwitch.bridges.get('br0') });
  const view = await rig.theSwitch.addPort('br0', portSpec('p2'));
  t.is(view.datapath!.portNo, 2);
  t.is(view.ofport, 1);
  await rig.add('in_port=1,actions=IN_PORT');
  await rig.theSwitch.restored();
  t.is(rig.datapath.flows.size, 1);
  t.deepEqual(rig.megaflows(), ['in_port(2) 2']);
});

test('a data plane that lost everything gets its ports again', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('in_port=1,actions=2');
  rig.send('in_port=1');
  rig.datapath.forget();
  rig.datapath.connect();
  await rig.theSwitch.restored();
  await new Promise((resolve) => setImmediate(resolve));
  t.deepEqual(
    rig.datapath.ports().map(({ name }) => name),
    ['p1', 'p2'],
  );
  t.is(rig.fate('in_port=1'), '2!');
});

/** A restarted control plane with nothing configured yet, and one megaflow of the time before. */
async function restartEmpty(adoptAfterMs: number): Promise<{ theSwitch: Switch; old: OfprotoRig }> {
  const old = await OfprotoRig.start([{}, {}]);
  await old.add('in_port=1,actions=2');
  old.send('in_port=1');
  old.theSwitch.close();
  const theSwitch = new Switch(old.datapath, { timer: false, adoptAfterMs });
  return { theSwitch, old };
}

test('megaflows wait for a restore however long it takes', async (t) => {
  const { theSwitch, old } = await restartEmpty(1);
  old.datapath.connect();
  theSwitch.restoring();
  await theSwitch.addBridge({ name: 'br0', datapathId: '', failMode: 'secure', otherConfig: {} });
  // Lost and found again in the middle of it.
  old.datapath.connect();
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.is(old.datapath.flows.size, 1);
  await theSwitch.addPort('br0', portSpec('p1'));
  await theSwitch.addPort('br0', portSpec('p2'));
  await theSwitch.bridges.get('br0')!.modifyFlows([{ command: 'add', flow: 'in_port=1,actions=2' }]);
  const { puts, deletes } = old.datapath;
  await theSwitch.restored();
  t.is(old.datapath.flows.size, 1);
  t.deepEqual([old.datapath.puts, old.datapath.deletes], [puts, deletes]);
  theSwitch.close();
});

test('where nobody restores anything, megaflows go after a while', async (t) => {
  const { theSwitch, old } = await restartEmpty(1);
  old.datapath.connect();
  await until('the megaflow to go', () => old.datapath.flows.size === 0);
  t.is(theSwitch.datapathFlows().length, 0);
  theSwitch.close();
});
