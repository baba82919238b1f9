import test from 'ava';
import { OfprotoRig } from '../support/ofproto-rig.ts';
import { portSpec } from '../support/random-tables.ts';

test('the next packet obeys a flow that was added, changed or deleted', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  const web = 'in_port=1,tcp,nw_dst=10.0.0.1,tcp_dst=80';
  await rig.add('in_port=1,actions=2');
  t.is(rig.fate(web), '2!');
  t.is(rig.fate(web), '2');
  await rig.add('priority=40000,tcp,tcp_dst=80,actions=3');
  t.is(rig.fate(web), '3!');
  t.is(rig.fate('in_port=1,tcp,nw_dst=10.0.0.1,tcp_dst=81'), '2!');
  await rig.bridge.modifyFlows([{ command: 'modify', flow: 'tcp,tcp_dst=80,actions=2,3' }]);
  t.is(rig.fate(web), '2,3');
  await rig.bridge.modifyFlows([{ command: 'delete', flow: 'tcp,tcp_dst=80' }]);
  t.is(rig.fate(web), '2');
});

test('only megaflows that a flow can reach are translated again', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.add('in_port=1,udp,udp_dst=1,actions=2', 'in_port=1,udp,udp_dst=2,actions=3', 'priority=1,actions=drop');
  rig.send('in_port=1,udp,udp_dst=1');
  rig.send('in_port=1,udp,udp_dst=2');
  rig.send('in_port=2,udp,udp_dst=2');
  const ids = [...rig.datapath.flows.keys()];
  let runs = 0;
  const { translator } = rig.theSwitch;
  const run = translator.run.bind(translator);
  translator.run = (...args) => {
    runs++;
    run(...args);
  };
  await rig.add('in_port=1,udp,udp_dst=2,actions=2');
  t.is(runs, 1);
  await rig.add('in_port=3,actions=1', 'table=5,actions=drop', 'in_port=1,udp,udp_dst=77,actions=drop');
  t.is(runs, 1);
  t.deepEqual([...rig.datapath.flows.keys()].sort(), ids);
  t.is(rig.fate('in_port=1,udp,udp_dst=2'), '2');
});

test('a change in a later table reaches megaflows through words that actions wrote', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.add('ip,actions=set_field:10.0.0.9->ip_dst,resubmit(,1)', 'table=1,priority=1,actions=2');
  t.is(rig.fate('in_port=1,ip,nw_dst=10.0.0.1'), '2!');
  await rig.add('table=1,ip,nw_dst=10.0.0.9,actions=3');
  t.is(rig.fate('in_port=1,ip,nw_dst=10.0.0.1'), '3');
  await rig.add('table=1,priority=50000,in_port=3,actions=drop');
  await rig.add('ip,actions=resubmit(3,1)');
  t.is(rig.fate('in_port=1,ip,nw_dst=10.0.0.1'), 'flow_drop');
});

test('a change in a later table reaches megaflows whose TTL was decremented on the way', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.add(
    'ip,actions=dec_ttl,resubmit(,1)',
    'table=1,priority=1,ip,nw_ttl=7,actions=drop',
    'table=1,priority=0,actions=2',
  );
  t.is(rig.fate('in_port=1,ip,nw_ttl=9'), '2!');
  await rig.add('table=1,ip,nw_ttl=8,actions=3');
  t.is(rig.fate('in_port=1,ip,nw_ttl=9'), '3');
});

test('the next packet obeys groups: buckets, liveness of a watched port, deletion with its flows', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.bridge.modifyGroups([
    { command: 'add', group: 'group_id=1,type=ff,bucket=watch_port:2,actions=2,bucket=watch_port:3,actions=3' },
  ]);
  await rig.add('in_port=1,actions=group:1', 'priority=1,actions=drop');
  t.is(rig.fate('in_port=1'), '2!');
  rig.datapath.setLink(2, false);
  await rig.theSwitch.revalidator.settle();
  t.is(rig.fate('in_port=1'), '3');
  rig.datapath.setLink(3, false);
  await rig.theSwitch.revalidator.settle();
  t.is(rig.fate('in_port=1'), 'group_no_bucket');
  await rig.bridge.modifyGroups([{ command: 'modify', group: 'group_id=1,type=indirect,bucket=actions=3' }]);
  t.is(rig.fate('in_port=1'), '3');
  await rig.bridge.modifyGroups([{ command: 'delete', group: 'group_id=1' }]);
  t.is(rig.fate('in_port=1'), 'flow_drop');
  t.is(rig.bridge.flowCount, 1);
});

test('the next packet obeys ports that come, go, or change', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('actions=NORMAL');
  const frame = 'in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02';
  t.is(rig.fate(frame), '2!');
  await rig.theSwitch.addPort('br0', portSpec('p3'));
  t.is(rig.fate(frame), '2,3');
  await rig.theSwitch.setPort('br0', portSpec('p3', { tag: 7 }));
  t.is(rig.fate(frame), '2');
  await rig.theSwitch.setPort('br0', portSpec('p3', { config: ['no-flood'] }));
  t.is(rig.fate(frame), '2');
  await rig.theSwitch.setPort('br0', portSpec('p3', {}));
  t.is(rig.fate(frame), '2,3');
  await rig.theSwitch.deletePort('br0', 'p2');
  t.is(rig.fate(frame), '3');
  await rig.theSwitch.setPort('br0', portSpec('p1', { config: ['no-receive'] }));
  t.is(rig.fate(frame), 'port_blocked');
});

test('the next packet follows a station that is learned, moves, is flushed or ages out', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.add('actions=NORMAL');
  const to = (n: number, port: number): string =>
    `in_port=${port},dl_src=02:00:00:00:00:99,dl_dst=02:00:00:00:00:0${n}`;
  const from = (n: number, port: number): string =>
    `in_port=${port},dl_src=02:00:00:00:00:0${n},dl_dst=02:00:00:00:00:99`;
  t.is(rig.fate(to(1, 1)), '2,3!');
  rig.fate(from(1, 2));
  t.is(rig.fate(to(1, 1)), '2');
  rig.fate(from(1, 3));
  t.is(rig.fate(to(1, 1)), '3');
  t.is(rig.bridge.macs.moves, 1);
  t.is(rig.fate(from(1, 2)), '1!', 'its old megaflow is gone, so that moving back is seen');
  t.is(rig.fate(to(1, 1)), '2');
  await rig.bridge.flushFdb();
  t.is(rig.fate(to(1, 1)), '2,3!');
  rig.fate(from(1, 2));
  t.is(rig.fate(to(1, 1)), '2');
  for (let second = 0; second < 302; second++) {
    rig.time += 1000;
    rig.fate(to(1, 1));
    if (second % 5 === 0) await rig.theSwitch.tick();
  }
  await rig.theSwitch.tick();
  t.is(rig.fate(to(1, 1)), '2,3');
});

test('a station whose frames hit a megaflow stays in the MAC table', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('actions=NORMAL');
  const frame = 'in_port=1,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02';
  for (let second = 0; second < 700; second++) {
    rig.time += 1000;
    rig.fate(frame);
    if (second % 2 === 0) await rig.theSwitch.tick();
  }
  t.is(rig.datapath.upcalls, 1);
  t.is(rig.bridge.fdb().length, 1);
});

test('a full MAC table keeps its size and makes no storm of upcalls', async (t) => {
  const rig = await OfprotoRig.start([{}, {}], { otherConfig: { 'mac-table-size': '4' } });
  await rig.add('actions=NORMAL');
  const send = (n: number): string =>
    rig.fate(`in_port=1,dl_src=02:00:00:00:01:${n.toString(16).padStart(2, '0')},dl_dst=ff:ff:ff:ff:ff:ff`);
  for (let n = 0; n < 20; n++) send(n);
  t.is(rig.bridge.fdb().length, 4);
  const { upcalls } = rig.datapath;
  for (let n = 0; n < 20; n++) t.is(send(n), '2');
  await rig.theSwitch.tick();
  for (let n = 0; n < 20; n++) send(n);
  t.is(rig.datapath.upcalls, upcalls);
});

test('idle megaflows go after max-idle, busy ones stay', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('in_port=1,actions=2', 'in_port=2,actions=1');
  rig.send('in_port=1');
  rig.send('in_port=2');
  for (let second = 0; second < 12; second++) {
    rig.time += 1000;
    rig.send('in_port=2');
    await rig.theSwitch.tick();
  }
  t.deepEqual(rig.megaflows(), ['in_port(2) 1']);
});

test('the flow limit is kept: packets beyond it are answered without a megaflow', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  rig.theSwitch.setOptions({ 'flow-limit': '10' });
  await rig.add('udp,udp_dst=9999,actions=drop', 'priority=1,actions=2', 'priority=40000,udp,udp_src=77,actions=drop');
  for (let n = 0; n < 30; n++) rig.send(`in_port=1,udp,udp_dst=${n},udp_src=${n}`);
  t.is(rig.datapath.flows.size, 10);
  rig.time += 200;
  await rig.theSwitch.tick();
  t.is(rig.datapath.flows.size, 0);
});

test('every packet is counted once: flows, tables, groups and buckets add up', async (t) => {
  const rig = await OfprotoRig.start([{}, {}, {}]);
  await rig.bridge.modifyGroups([{ command: 'add', group: 'group_id=1,type=all,bucket=actions=2,bucket=actions=3' }]);
  await rig.add(
    'in_port=1,actions=resubmit(,1)',
    'table=1,udp,actions=group:1',
    'table=1,priority=1,actions=2',
    'in_port=2,udp,actions=1',
  );
  let bytes = 0;
  const send = (text: string, length: number): void => {
    rig.send(text, length);
    bytes += length;
  };
  for (let n = 0; n < 300; n++) {
    send(`in_port=1,udp,udp_dst=${n % 3}`, 60 + n);
    send('in_port=1,tcp', 60);
    send('in_port=2,udp', 1000);
    send('in_port=2,tcp', 60);
    // Changes take megaflows away, give them other actions, and make ids be used again.
    if (n % 7 === 0) await rig.add(`table=1,priority=2,tcp,tcp_dst=${n},actions=3`);
    if (n % 11 === 0)
      await rig.bridge.modifyFlows([{ command: 'modify', flow: 'table=0,in_port=1,actions=resubmit(,1)' }]);
    if (n % 13 === 0) await rig.theSwitch.tick();
    if (n % 17 === 0) await rig.theSwitch.flushDatapathFlows();
  }
  const flows = rig.bridge.dumpFlows('');
  const counted = (match: string, table: number): number =>
    flows.filter((flow) => flow.table === table && flow.match === match).reduce((sum, flow) => sum + flow.packets, 0);
  t.is(counted('in_port=1', 0), 600);
  t.is(counted('udp,in_port=2', 0), 300);
  t.is(counted('udp', 1), 300);
  t.is(
    flows.filter(({ table }) => table === 1).reduce((sum, flow) => sum + flow.packets, 0),
    600,
  );
  t.is(rig.bridge.aggregate('table=0').bytes, bytes - 300 * 60);
  const [zero, one] = rig.bridge.tables();
  t.like(zero, { lookup: 1200, matched: 900 });
  t.like(one, { lookup: 600, matched: 600 });
  const [group] = rig.bridge.groups();
  t.is(group!.packets, 300);
  t.deepEqual(
    group!.buckets.map(({ packets }) => packets),
    [300, 300],
  );
  const { hit, missed } = rig.theSwitch.datapathLookups();
  t.is(hit + missed, 1200);
});

test('a storm of one flow costs one translation and one megaflow', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('in_port=1,actions=2');
  let answer = rig.datapath.receive(rig.packet('in_port=1'));
  t.true(answer.upcall);
  rig.datapath.deaf = true;
  for (let n = 0; n < 50; n++) answer = rig.send('in_port=1');
  t.is(answer.outputs[0]?.port, 2);
  t.is(rig.datapath.puts, 1);
  t.is(rig.bridge.dumpFlows('')[0]!.packets, 51);
});

test('thousands of megaflows are translated again in turns, and the promise waits for the last', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('priority=1,actions=2', 'priority=40000,udp,udp_dst=65535,udp_src=65535,actions=drop');
  for (let n = 0; n < 3000; n++) rig.send(`in_port=1,udp,udp_src=${n},udp_dst=7`);
  const before = rig.datapath.flows.size;
  t.true(before > 1000);
  await rig.bridge.modifyFlows([
    { command: 'modify', flow: 'in_port=1,actions=drop' },
    { command: 'delete_strict', flow: 'priority=1' },
  ]);
  for (let n = 0; n < 3000; n += 100)
    t.is(rig.fate(`in_port=1,udp,udp_src=${n},udp_dst=7`).replace('!', ''), 'flow_drop');
  t.true([...rig.datapath.flows.values()].every(({ actions }) => actions[1] !== 2));
});
