import test from 'ava';
import { MegaflowTable, sameWords } from '#ofproto/megaflow.ts';
import { reachedBy, tableBit } from '#ofproto/reach.ts';
import { Subtable } from '#ofproto/subtable.ts';
import { newCredit, TABLES, Table } from '#ofproto/table.ts';
import { datapathFlowView } from '#ofproto/views.ts';
import { OfprotoRig } from '../support/ofproto-rig.ts';

test('megaflows of one mask share their class, programs are shared by value', (t) => {
  const table = new MegaflowTable();
  const wc = new Uint32Array(64);
  wc[0] = 0xffffffff;
  const one = table.classOf(wc);
  t.is(table.classOf(wc.slice()), one);
  wc[9] = 0xff000000;
  t.not(table.classOf(wc), one);
  t.is(table.program([1, 2]), table.program([1, 2]));
  t.true(sameWords(table.program([1, 2]), [1, 2]));
});

test('a rule reaches the megaflows of its table that may hold its packets', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('udp,nw_dst=10.0.0.0/8,actions=2', 'priority=1,actions=resubmit(,7)');
  rig.send('in_port=1,udp,nw_dst=10.0.0.1');
  rig.send('in_port=1,udp,nw_dst=192.168.0.1');
  const flows = [
    'tcp',
    'udp,nw_dst=10.0.0.0/8',
    'in_port=2',
    'udp',
    'reg0=1',
    'in_port=1,udp,nw_dst=192.168.0.1',
    'in_port=1,udp,nw_dst=192.168.0.2',
  ];
  const other = await OfprotoRig.start([{}, {}]);
  await other.add(...flows.map((match, n) => `table=7,priority=${n},${match},actions=drop`));
  const rules = [...other.bridge.tableMap.get(7)!.rules].sort((a, b) => a.priority - b.priority);
  const reached = rules.map((rule) => [...reachedBy(rig.theSwitch.revalidator.megaflows, rig.bridge, rule)].length);
  // The prefix decided alone: that it is UDP was not looked at.
  t.deepEqual(reached, [1, 0, 0, 1, 1, 1, 1]);
  t.is(tableBit(7), 128);
  t.is(tableBit(200), tableBit(31));
});

test('a megaflow is shown with its age and counters', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('in_port=1,actions=2');
  rig.send('in_port=1');
  const [flow] = [...rig.theSwitch.revalidator.megaflows.byId.values()];
  t.is(datapathFlowView(flow!, rig.time).used, -1);
  rig.send('in_port=1', 99);
  rig.theSwitch.revalidator.creditAll();
  t.like(datapathFlowView(flow!, rig.time + 1500), { used: 1.5, packets: 1, bytes: 99, actions: '2' });
});

test('a subtable orders its words by stage and splits those of two stages', (t) => {
  const masks = new Uint32Array(64);
  for (const word of [10, 9, 7, 2, 34, 0]) masks[word] = 0xffffffff;
  const { words, ends } = new Subtable(masks, 0);
  t.deepEqual(words, [0, 34, 2, 7, 7, 9, 10]);
  t.deepEqual(ends, [2, 4, 6, 7]);
});

test('a table starts empty', (t) => {
  const table = new Table(TABLES - 1);
  t.is(table.rules.size, 0);
  t.deepEqual([table.lookups, table.matches], [newCredit(), newCredit()]);
});
