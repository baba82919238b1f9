import test from 'ava';
import fc from 'fast-check';
import { RequestError } from '#ofproto/api.ts';
import { parseFlowMod } from '#ofproto/flow-parse.ts';
import { NaiveSwitch } from '../support/naive-switch.ts';
import { OfprotoRig } from '../support/ofproto-rig.ts';

const texts = (rig: OfprotoRig, filter = ''): string[] =>
  rig.bridge
    .dumpFlows(filter)
    .map((flow) => `${flow.table}|${flow.priority}|${flow.match}|${flow.actions}|${flow.cookie}`);

const refusal = async (t: { throwsAsync: Function }, run: Promise<void>): Promise<RequestError> =>
  (await t.throwsAsync(run, { instanceOf: RequestError })) as RequestError;

const MATCHES = [
  '',
  'in_port=1',
  'in_port=2',
  'ip',
  'tcp',
  'tcp,tcp_dst=80',
  'ip,nw_dst=10.0.0.0/8',
  'ip,nw_dst=10.0.0.1',
  'in_port=1,tcp',
];
const modArb = fc.record({
  command: fc.constantFrom('add', 'add', 'add', 'modify', 'modify_strict', 'delete', 'delete_strict'),
  table: fc.constantFrom('', 'table=0', 'table=1'),
  match: fc.constantFrom(...MATCHES),
  priority: fc.constantFrom('', 'priority=5', 'priority=6'),
  cookie: fc.constantFrom('', '', 'cookie=0x1', 'cookie=0x1/0x1', 'cookie=0x2/-1'),
  out: fc.constantFrom('', '', 'out_port=2'),
  actions: fc.constantFrom('drop', 'output:1', 'output:2', 'write_actions(output:2)'),
});

test('random lists of flow_mods leave the same flows as on a naive list', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(modArb, { maxLength: 40 }), async (mods) => {
      const rig = await OfprotoRig.start([{}, {}]);
      const naive = new NaiveSwitch();
      for (const { command, table, match, priority, cookie, out, actions } of mods) {
        const deletes = command.startsWith('delete');
        const strict = command === 'add' || command.endsWith('strict');
        // A masked cookie selects; a plain one sets, which a deletion cannot.
        const cookieFits = cookie.includes('/') ? command !== 'add' : !deletes;
        const terms = [
          table,
          strict ? priority : '',
          cookieFits ? cookie : '',
          match,
          deletes ? out : '',
          deletes ? '' : `actions=${actions}`,
        ];
        const flow = terms.filter(Boolean).join(',');
        const name = command as Parameters<typeof parseFlowMod>[0];
        const spec = parseFlowMod(name, flow);
        await rig.bridge.modifyFlows([{ command: name, flow }]);
        if (deletes && out !== '') {
          const kept = naive.flows.filter(
            ({ actions }) =>
              !JSON.stringify(actions, (_, v) => (typeof v === 'bigint' ? String(v) : v)).includes('"port":2'),
          );
          const touched = naive.flows.filter((one) => !kept.includes(one));
          naive.flows = touched;
          naive.apply(spec);
          naive.flows = [...kept, ...naive.flows];
        } else naive.apply(spec);
      }
      const expected = naive.flows
        .map(({ table, priority, newCookie }) => `${table}|${priority}|0x${(newCookie ?? 0n).toString(16)}`)
        .sort();
      const actual = rig.bridge
        .dumpFlows('')
        .map(({ table, priority, cookie }) => `${table}|${priority}|${cookie}`)
        .sort();
      t.deepEqual(actual, expected);
      for (const flow of naive.flows)
        t.truthy(rig.bridge.tableMap.get(flow.table)!.rules.find(flow.match, flow.priority));
      rig.theSwitch.close();
    }),
    { numRuns: 150 },
  );
});

test('a list with one bad flow_mod changes nothing', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add(
    'priority=1,cookie=0x7,idle_timeout=5,actions=1',
    'priority=2,in_port=1,actions=2',
    'table=1,actions=drop',
  );
  rig.send('in_port=1');
  const before = [texts(rig), rig.bridge.timed.size, rig.bridge.flowCount];
  const error = await refusal(
    t,
    rig.bridge.modifyFlows([
      { command: 'add', flow: 'priority=9,actions=1' },
      { command: 'delete', flow: 'table=1' },
      { command: 'modify', flow: 'cookie=0x9,actions=drop' },
      { command: 'add', flow: 'priority=1,reset_counts,actions=drop' },
      { command: 'delete', flow: '' },
      { command: 'add', flow: 'actions=group:77' },
    ]),
  );
  t.is(error.code, 'OFPBAC_BAD_OUT_GROUP');
  t.is(error.field, 'flows[5].actions');
  t.deepEqual([texts(rig), rig.bridge.timed.size, rig.bridge.flowCount], before);
  t.is(rig.fate('in_port=1'), '2');
});

test('a flow text that does not parse undoes what stands before it', async (t) => {
  const rig = await OfprotoRig.start([{}]);
  const error = await refusal(
    t,
    rig.bridge.modifyFlows([
      { command: 'add', flow: 'actions=drop' },
      { command: 'add', flow: 'nonsense=1,actions=drop' },
    ]),
  );
  t.true(error.field.startsWith('flows[1]'));
  t.is(rig.bridge.flowCount, 0);
});

test('check_overlap refuses a flow of the same priority that shares packets', async (t) => {
  const rig = await OfprotoRig.start([{}]);
  await rig.add('priority=5,tcp,actions=drop');
  const add = (flow: string) => rig.bridge.modifyFlows([{ command: 'add', flow }]);
  t.is((await refusal(t, add('priority=5,check_overlap,in_port=1,actions=drop'))).code, 'OFPFMFC_OVERLAP');
  t.is((await refusal(t, add('priority=5,check_overlap,tcp,actions=drop'))).code, 'OFPFMFC_OVERLAP');
  await add('priority=6,check_overlap,in_port=1,actions=drop');
  await add('priority=5,check_overlap,udp,actions=drop');
  t.is(rig.bridge.flowCount, 3);
});

test('an addition that replaces keeps the counters unless it says reset_counts, and takes the new cookie', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('in_port=1,cookie=1,actions=2');
  rig.send('in_port=1');
  rig.send('in_port=1');
  await rig.add('in_port=1,cookie=2,actions=drop');
  const [kept] = rig.bridge.dumpFlows('');
  t.like(kept, { packets: 2, bytes: 128, cookie: '0x2', actions: 'drop' });
  rig.send('in_port=1');
  await rig.add('in_port=1,reset_counts,actions=2');
  t.like(rig.bridge.dumpFlows('')[0], { packets: 0, bytes: 0, cookie: '0x0' });
  rig.send('in_port=1');
  t.is(rig.bridge.dumpFlows('')[0]!.packets, 1);
});

test('filters by cookie, out_port, out_group and table select flows of dump and aggregate', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.bridge.modifyGroups([{ command: 'add', group: 'group_id=4,type=all,bucket=actions=2' }]);
  await rig.add(
    'cookie=0x11,in_port=1,actions=1',
    'cookie=0x12,in_port=2,actions=group:4',
    'table=3,cookie=0x11,actions=write_actions(output:1)',
  );
  const select = (filter: string): number => rig.bridge.aggregate(filter).flows;
  t.is(select(''), 3);
  t.is(select('cookie=0x11/-1'), 2);
  t.is(select('cookie=0x10/0xf0'), 3);
  t.is(select('out_port=1'), 2);
  t.is(select('out_group=4'), 1);
  t.is(select('table=3'), 1);
  t.is(select('in_port=1'), 1);
});

test('hard timeouts count from the addition, idle timeouts from the last packet of any megaflow', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  await rig.add('in_port=1,hard_timeout=5,actions=2', 'in_port=2,idle_timeout=5,actions=1');
  for (let second = 1; second <= 12; second++) {
    rig.time += 1000;
    if (second <= 6) rig.send('in_port=2');
    await rig.theSwitch.tick();
    const flows = rig.bridge.dumpFlows('').map(({ match }) => match);
    t.is(flows.includes('in_port=1'), second < 5, `hard at ${second} s`);
    t.is(flows.includes('in_port=2'), second < 11, `idle at ${second} s`);
  }
  t.is(rig.fate('in_port=2'), 'no_match');
});

test('an addition by the rules of OpenFlow 1.0 clears the counters, and says so', async (t) => {
  const rig = await OfprotoRig.start([{}, {}]);
  const mod = { command: 'add', flow: 'in_port=1,send_flow_rem,actions=2', resetCounts: true } as const;
  await rig.bridge.modifyFlows([mod]);
  rig.send('in_port=1');
  await rig.bridge.modifyFlows([mod]);
  t.like(rig.bridge.dumpFlows('')[0], { packets: 0, flags: ['send_flow_rem', 'reset_counts'] });
  await rig.bridge.modifyFlows([{ ...mod, command: 'modify' }]);
  t.deepEqual([...rig.bridge.dumpFlows('')[0]!.flags], ['send_flow_rem', 'reset_counts']);
});
