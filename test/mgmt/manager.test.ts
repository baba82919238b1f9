/** The manager over the fake switch: transactions, restarts, what is told when something cannot be set up. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { numberPorts, parseFlowFile } from '#mgmt/flow-text.ts';
import { Manager } from '#mgmt/manager.ts';
import { applyChange, type ConfigChange, emptyModel } from '#mgmt/model.ts';
import { change } from '#mgmt/single-change.ts';
import { snapshotOf } from '#mgmt/snapshot.ts';
import { bridgeRecord, portRecord } from '#mgmt/views.ts';
import { RequestError } from '#ofproto/api.ts';
import { Switch } from '#ofproto/switch.ts';
import { FakeDatapath, FakeSwitch } from './fake-switch.ts';
import { quiet, temporaryFolder } from './harness.ts';

const bridge = (name: string, failMode = ''): ConfigChange => ({
  kind: 'SetBridge',
  record: bridgeRecord({ name, failMode }),
});
const port = (name: string, more: object = {}): ConfigChange => ({
  kind: 'SetPort',
  bridge: 'br0',
  record: portRecord({ name, type: 'dummy', ...more }, undefined),
});

async function start(folder: string, fake = new FakeSwitch()): Promise<{ manager: Manager; fake: FakeSwitch }> {
  const manager = new Manager({ switch: fake, datapath: fake.datapath, config: join(folder, 'config'), log: quiet });
  await manager.start();
  return { manager, fake };
}

test('a restart brings back bridges, ports with their numbers, options, groups and flows', async (t) => {
  const folder = await temporaryFolder();
  const { manager, fake } = await start(folder);
  await manager.transact([bridge('br0'), port('p1'), port('p2', { ofportRequest: 9, tag: 5 }), port('gone')]);
  await manager.transact([{ kind: 'DeletePort', bridge: 'br0', name: 'gone' }]);
  await manager.transact([
    {
      kind: 'SetSwitch',
      record: { ...manager.model.switch, otherConfig: { 'pmd-cpu-mask': '0x1' }, externalIds: { a: 'b' } },
    },
  ]);
  await manager.modifyGroups('br0', [{ command: 'add', group: 'group_id=1,type=all,bucket=output:1' }]);
  await manager.modifyFlows('br0', [
    { command: 'delete', flow: '' },
    { command: 'add', flow: 'table=1,priority=5,in_port=p2,actions=p1' },
    { command: 'add', flow: 'cookie=0x12,ip,actions=drop' },
  ]);
  await manager.modifyFlows('br0', [{ command: 'modify', flow: 'ip,actions=output:9' }]);
  const flows = fake.bridges.get('br0')!.dumpFlows('');
  await manager.stop();

  const again = await start(folder);
  t.deepEqual(again.fake.bridges.get('br0')!.dumpFlows(''), flows);
  t.deepEqual(
    again.fake.bridges
      .get('br0')!
      .ports()
      .map(({ name, ofport, tag }) => ({ name, ofport, tag })),
    [
      { name: 'p1', ofport: 1, tag: -1 },
      { name: 'p2', ofport: 9, tag: 5 },
    ],
  );
  t.deepEqual(
    again.fake.calls,
    ['addBridge br0', 'addPort p1', 'addPort p2'],
    'a port of before is not made and deleted again',
  );
  t.deepEqual(again.fake.datapath.options, { 'pmd-cpu-mask': '0x1' });
  t.deepEqual(again.manager.model.switch.externalIds, { a: 'b' });
  t.is(again.fake.bridges.get('br0')!.groups().length, 1);
  t.is(again.manager.model.bridges.get('br0')!.ports.get('p1')!.ofportRequest, 0, 'what was asked for stays as it was');

  await again.manager.compact();
  await again.manager.stop();
  const third = await start(folder);
  const byTable = [...flows].sort((a, b) => a.table - b.table);
  t.deepEqual(third.fake.bridges.get('br0')!.dumpFlows(''), byTable, 'the same from a snapshot');
  await third.manager.stop();
  await rm(folder, { recursive: true });
});

test('the flow that a standalone bridge starts with stays deleted', async (t) => {
  const folder = await temporaryFolder();
  const { manager } = await start(folder);
  await manager.transact([bridge('br0', 'standalone')]);
  await manager.modifyFlows('br0', [{ command: 'delete', flow: '' }]);
  await manager.stop();
  const again = await start(folder);
  t.deepEqual(again.fake.bridges.get('br0')!.dumpFlows(''), []);
  await again.manager.stop();
  await rm(folder, { recursive: true });
});

test('a bridge that turned secure keeps the flows that it had', async (t) => {
  const folder = await temporaryFolder();
  const { manager } = await start(folder);
  await manager.transact([bridge('br0', 'standalone')]);
  await manager.transact([bridge('br0', 'secure')]);
  await manager.stop();
  const again = await start(folder);
  t.is(again.fake.bridges.get('br0')!.dumpFlows('').length, 1);
  await again.manager.stop();
  await rm(folder, { recursive: true });
});

test('a transaction that fails in its middle leaves switch, configuration and store as they were', async (t) => {
  const folder = await temporaryFolder();
  const { manager, fake } = await start(folder);
  await manager.transact([bridge('br0'), port('p1')]);
  await manager.modifyFlows('br0', [{ command: 'add', flow: 'ip,actions=drop' }]);
  const flows = fake.bridges.get('br0')!.dumpFlows('');
  const error = await t.throwsAsync<RequestError>(
    manager.transact([{ kind: 'DeletePort', bridge: 'br0', name: 'p1' }, bridge('br1'), port('p1', { type: 'bogus' })]),
    { instanceOf: RequestError },
  );
  t.is(error.field, 'operations[2].setPort.port');
  t.is(error.message, 'no such port type: bogus');
  t.deepEqual([...fake.bridges.keys()], ['br0']);
  t.deepEqual([...manager.model.bridges.keys()], ['br0']);
  t.is(fake.bridges.get('br0')!.port('p1')?.type, 'dummy');
  t.deepEqual(fake.bridges.get('br0')!.dumpFlows(''), flows);
  await manager.stop();
  const again = await start(folder);
  t.deepEqual([...again.fake.bridges.keys()], ['br0']);
  await again.manager.stop();
  await rm(folder, { recursive: true });
});

test('a deleted bridge comes back whole when the transaction fails behind it', async (t) => {
  const folder = await temporaryFolder();
  const { manager, fake } = await start(folder);
  await manager.transact([bridge('br0'), port('p1'), bridge('br1')]);
  await manager.modifyFlows('br0', [{ command: 'add', flow: 'in_port=p1,actions=drop' }]);
  await t.throwsAsync(
    manager.transact([
      { kind: 'DeleteBridge', name: 'br0' },
      { kind: 'SetPort', bridge: 'br1', record: portRecord({ name: 'p1', type: 'bogus' }, undefined) },
    ]),
  );
  t.is(fake.bridges.get('br0')!.port('p1')?.ofport, 1);
  t.is(fake.bridges.get('br0')!.dumpFlows('').length, 2);
  await manager.stop();
  await rm(folder, { recursive: true });
});

test('a stored port that cannot be set up stays configured and says why', async (t) => {
  const folder = await temporaryFolder();
  const { manager } = await start(folder);
  await manager.transact([bridge('br0'), port('p1'), port('p2')]);
  await manager.stop();
  const fake = new FakeSwitch();
  fake.datapath.addPort = async ({ name }) => {
    throw new Error(`no room for ${name}`);
  };
  const again = await start(folder, fake);
  t.is(again.manager.portError('br0', 'p1'), 'no room for p1');
  t.true(again.manager.model.bridges.get('br0')!.ports.has('p1'));
  await again.manager.transact([{ kind: 'DeletePort', bridge: 'br0', name: 'p1' }]);
  t.is(again.manager.portError('br0', 'p1'), '');
  await again.manager.stop();
  await rm(folder, { recursive: true });
});

test('a transaction on an older generation is refused as a conflict', async (t) => {
  const folder = await temporaryFolder();
  const { manager } = await start(folder);
  const generation = manager.generation;
  await manager.transact([bridge('br0')], generation);
  await t.throwsAsync(manager.transact([bridge('br1')], generation), { message: /changed meanwhile/ });
  await manager.stop();
  await rm(folder, { recursive: true });
});

test('a misspelt option, a second user of a socket and a taken name are refused with field and fix', async (t) => {
  const folder = await temporaryFolder();
  const { manager } = await start(folder);
  await manager.transact([bridge('br0'), port('p1', { options: { path: '/tmp/a.sock' } })]);
  const refuse = async (change: ConfigChange): Promise<RequestError> =>
    (await t.throwsAsync<RequestError>(manager.transact([change]), { instanceOf: RequestError }))!;
  const options = await refuse({
    kind: 'SetSwitch',
    record: { ...manager.model.switch, otherConfig: { 'pmd-cpu-mas': '1' } },
  });
  t.is(options.field, 'operations[0].setSwitch.otherConfig.pmd-cpu-mas');
  t.is(options.hint, 'did you mean pmd-cpu-mask?');
  t.is((await refuse(port('p2', { options: { 'vhost-server-path': '/tmp/a.sock' } }))).code, 'exists');
  t.is((await refuse(port('br0'))).code, 'exists');
  t.is((await refuse(port('a/b'))).code, 'bad_name');
  t.is(
    (await refuse(port('p3', { otherConfig: { 'pmd-rxq-affinity': 'x' } }))).hint,
    'give pairs of rx queue and core, for example 0:1,1:3',
  );
  await manager.stop();
  await rm(folder, { recursive: true });
});

test('flows that expired while the switch was away are not brought back', async (t) => {
  const folder = await temporaryFolder();
  const { manager } = await start(folder);
  await manager.transact([bridge('br0', 'secure')]);
  await manager.modifyFlows('br0', [{ command: 'add', flow: 'hard_timeout=1,ip,actions=drop' }]);
  await manager.modifyFlows('br0', [{ command: 'add', flow: 'hard_timeout=600,arp,actions=drop' }]);
  await manager.stop();
  await new Promise((done) => setTimeout(done, 1050));
  const again = await start(folder);
  t.deepEqual(
    again.fake.bridges
      .get('br0')!
      .dumpFlows('')
      .map(({ match }) => match),
    ['arp'],
  );
  await again.manager.stop();
  await rm(folder, { recursive: true });
});

test('changes at the same time are stored in the order in which they were made', async (t) => {
  const folder = await temporaryFolder();
  const { manager, fake } = await start(folder);
  await manager.transact([bridge('br0', 'secure')]);
  await Promise.all(
    Array.from({ length: 200 }, (_, n) =>
      manager.modifyFlows('br0', [{ command: 'add', flow: `priority=7,ip,actions=output:${n + 1}` }]),
    ),
  );
  const flows = fake.bridges.get('br0')!.dumpFlows('');
  await manager.stop();
  const again = await start(folder);
  t.deepEqual(again.fake.bridges.get('br0')!.dumpFlows(''), flows);
  await again.manager.stop();
  await rm(folder, { recursive: true });
});

test('the real OpenFlow tables are the same after a restart, from journal and snapshot', async (t) => {
  const folder = await temporaryFolder();
  const open = async (): Promise<{ manager: Manager; target: Switch }> => {
    const datapath = new FakeDatapath();
    const target = new Switch(datapath, { timer: false });
    const manager = new Manager({ switch: target, datapath, config: join(folder, 'config'), log: quiet });
    await manager.start();
    return { manager, target };
  };
  const texts = (target: Switch): string[] =>
    target.bridges
      .get('br0')!
      .dumpFlows('')
      .map(({ table, priority, cookie, flags, match, actions }) =>
        [table, priority, cookie, flags.join(), match, actions].join(' '),
      );
  let { manager, target } = await open();
  await manager.transact([bridge('br0', 'secure'), port('p1'), port('p2')]);
  await manager.modifyGroups('br0', [
    { command: 'add', group: 'group_id=7,type=select,bucket=weight:5,actions=output:1,bucket=p2' },
  ]);
  const { mods } = parseFlowFile(`
    table=0,priority=1 actions=resubmit(,1)
    check_overlap,table=1,priority=9,tcp,in_port=p1,tp_dst=80 actions=set_field:02:00:00:00:00:01->dl_dst,group:7
    table=1,priority=9,cookie=0xffffffffffffffff,ipv6,ipv6_dst=fe80::/10 actions=mod_vlan_vid:5,p2
    table=1,importance=3,send_flow_rem,arp,reg0=5 actions=load:7->NXM_NX_REG1[],LOCAL,IN_PORT
    table=2,dl_vlan=7 actions=write_actions(output:2),goto_table:3`);
  await manager.modifyFlows('br0', mods);
  const before = texts(target);
  t.is(before.length, 5);
  for (const compact of [false, true]) {
    if (compact) await manager.compact();
    await manager.stop();
    target.close();
    ({ manager, target } = await open());
    t.deepEqual(texts(target), before, compact ? 'snapshot' : 'journal');
  }
  await manager.stop();
  target.close();
  await rm(folder, { recursive: true });
});

test('port names become numbers where a text may name a port, and only there', (t) => {
  const ports = new Map([
    ['p1', 1],
    ['a b', 2],
    ['ip', 3],
    ['drop', 4],
  ]);
  const cases: [string, string][] = [
    ['in_port=p1,actions=output:p1', 'in_port=1,actions=output:1'],
    ['in_port="a b",ip,actions="a b",p1,drop', 'in_port=2,ip,actions=2,1,drop'],
    ['ip,actions=ip', 'ip,actions=3'],
    ['actions=resubmit(p1,2),p1', 'actions=resubmit(1,2),1'],
    ['out_port=p1', 'out_port=1'],
    [
      'group_id=1,type=ff,bucket=watch_port:p1,actions=p1,bucket=output:p1',
      'group_id=1,type=ff,bucket=watch_port:1,actions=1,bucket=output:1',
    ],
    ['actions=output(port=p1,max_len=64)', 'actions=output(port=1,max_len=64)'],
  ];
  for (const [text, expected] of cases) t.is(numberPorts(text, ports), expected);
});

test('a snapshot makes each table anew, oldest flow first, and keeps the time of hard timeouts', async (t) => {
  const fake = new FakeSwitch();
  const api = await fake.addBridge({ name: 'br0', datapathId: '', failMode: 'secure', otherConfig: {} });
  await api.modifyFlows([
    { command: 'add', flow: 'table=3,ip,actions=drop' },
    { command: 'add', flow: 'arp,hard_timeout=60,actions=drop' },
    { command: 'add', flow: 'udp,actions=drop' },
  ]);
  const views = api.dumpFlows('').map((flow) => (flow.hardTimeout ? { ...flow, duration: 50, hardAge: 40 } : flow));
  api.dumpFlows = (filter) => views.filter(({ table }) => filter === '' || filter === `table=${table}`);
  const model = applyChange(emptyModel('u'), bridge('br0', 'secure') as ConfigChange);
  const list = [...snapshotOf(model, () => api)];
  const flows = list.filter(({ changes: [change] }) => change!.kind === 'ModifyFlows' && !change.reset);
  t.deepEqual(
    flows.map(({ changes: [change] }) => change!.kind === 'ModifyFlows' && change.mods.map(({ flow }) => flow)),
    [
      ['table=0,priority=32768,hard_timeout=60,arp actions=drop'],
      ['table=0,priority=32768,udp actions=drop'],
      ['table=3,priority=32768,ip actions=drop'],
    ],
  );
  t.is(flows[1]!.time - flows[0]!.time, 40_000);
});

test('a change that another one overtakes is derived again', async (t) => {
  const folder = await temporaryFolder();
  const { manager } = await start(folder);
  await manager.transact([bridge('br0'), port('p1')]);
  const seen: number[] = [];
  const bump = (): Promise<void> =>
    change(manager, (model) => {
      const record = model.bridges.get('br0')!.ports.get('p1')!;
      seen.push(record.tag);
      return { kind: 'SetPort', bridge: 'br0', record: { ...record, tag: record.tag + 1 } };
    });
  await Promise.all(Array.from({ length: 8 }, bump));
  t.is(manager.model.bridges.get('br0')!.ports.get('p1')!.tag, 7);
  t.true(seen.length > 8);
  const error = await t.throwsAsync<RequestError>(change(manager, () => port('p1', { otherConfig: { x: 'y' } })));
  t.is(error!.field, 'otherConfig.x');
  await manager.stop();
  await rm(folder, { recursive: true });
});

test('flows come back as they were given, from the journal and from a snapshot', async (t) => {
  const folder = await temporaryFolder();
  const open = async () => {
    const datapath = new FakeDatapath();
    const target = new Switch(datapath, { timer: false });
    const manager = new Manager({ switch: target, datapath, config: join(folder, 'config'), log: quiet });
    await manager.start();
    const dump = () =>
      [...manager.bridge('br0').walkFlows('', { actions: 'exact' })].map(({ flags, actions }) => [...flags, actions]);
    return { manager, dump };
  };
  const first = await open();
  await first.manager.transact([bridge('br0', 'secure')]);
  const flows = [
    'priority=4,actions=push_vlan:0x8100,set_field:4101->vlan_vid,output:2,goto_table:5',
    'priority=3,actions=set_field:0x5->reg0,resubmit(,5)',
    'priority=2,ip,actions=mod_nw_dst:1.2.3.4,write_actions(output:2),goto_table:5',
  ];
  await first.manager.modifyFlows(
    'br0',
    flows.map((flow) => ({ command: 'add', flow, resetCounts: true })),
  );
  const given = flows.map((flow) => ['reset_counts', flow.slice(flow.indexOf('actions=') + 8)]);
  t.deepEqual(first.dump(), given);
  await first.manager.stop();
  const second = await open();
  t.deepEqual(second.dump(), given);
  await second.manager.compact();
  await second.manager.stop();
  const third = await open();
  t.deepEqual(third.dump(), given);
  await third.manager.stop();
  await rm(folder, { recursive: true, force: true });
});

test('the switch is told when a restore begins and when it is over', async (t) => {
  const folder = await temporaryFolder();
  const fake = new FakeSwitch();
  const told: string[] = [];
  const target = Object.assign(fake, {
    restoring: () => told.push(`restoring, ${fake.bridges.size} bridges`),
    restored: async () => void told.push(`restored, ${fake.bridges.size} bridges`),
  });
  const { manager } = await start(folder, target);
  await manager.transact([bridge('br0')]);
  await manager.stop();
  fake.bridges.clear();
  const again = await start(folder, target);
  t.deepEqual(told.slice(2), ['restoring, 0 bridges', 'restored, 1 bridges']);
  await again.manager.stop();
  await rm(folder, { recursive: true, force: true });
});

test('an ivshmem port shares the pool of its bridge unless it names one, or is isolated', async (t) => {
  const folder = await temporaryFolder();
  const { manager, fake } = await start(folder);
  const ivshmem = (name: string, options: object): ConfigChange => port(name, { type: 'ivshmem', options });
  await manager.transact([
    bridge('br0'),
    ivshmem('a', { vectors: '2' }),
    ivshmem('b', { pool: 'mine' }),
    ivshmem('c', { isolation: 'copy' }),
    ivshmem('d', { isolation: 'none' }),
  ]);
  const options = (name: string) => fake.bridges.get('br0')!.port(name)!.options;
  t.deepEqual(options('a'), { pool: 'br0', vectors: '2' });
  t.deepEqual(options('b'), { pool: 'mine' });
  t.deepEqual(options('c'), { isolation: 'copy' });
  t.deepEqual(options('d'), { pool: 'br0', isolation: 'none' });
  // What was asked for stays as it was.
  t.deepEqual(manager.model.bridges.get('br0')!.ports.get('a')!.options, { vectors: '2' });
  await manager.stop();
  await rm(folder, { recursive: true });
});
