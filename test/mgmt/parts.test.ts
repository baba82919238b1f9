/** Pieces of management on their own: pages, options, diffs, constraints, rates, defaults. */
import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { apply, bridgeSpec } from '#mgmt/apply.ts';
import { checkChange } from '#mgmt/check.ts';
import { CONSTRAINTS, REQUIRED } from '#mgmt/constraints.ts';
import { Coverage } from '#mgmt/coverage.ts';
import { defaultConfiguration } from '#mgmt/defaults.ts';
import { diffFlows } from '#mgmt/flow-diff.ts';
import { Manager } from '#mgmt/manager.ts';
import { decodeMessage, encodeMessage, MESSAGE_NAMES, messageSchema } from '#mgmt/messages.ts';
import { Metrics } from '#mgmt/metrics.ts';
import { emptyModel } from '#mgmt/model.ts';
import { checkOptions, nearest, SWITCH_OPTIONS } from '#mgmt/options.ts';
import { MAX_LIMIT, Pager } from '#mgmt/paging.ts';
import { paged, type RouteContext } from '#mgmt/route.ts';
import { bridgeRoutes } from '#mgmt/routes/bridges.ts';
import { configRoutes } from '#mgmt/routes/config.ts';
import { daemonRoutes } from '#mgmt/routes/daemon.ts';
import { datapathRoutes } from '#mgmt/routes/datapath.ts';
import { openflowRoutes } from '#mgmt/routes/openflow.ts';
import { validationError } from '#mgmt/validation-error.ts';
import { bridgeRecord, portRecord } from '#mgmt/views.ts';
import { FakeSwitch } from './fake-switch.ts';
import { quiet, temporaryFolder } from './harness.ts';

test('routes name messages that there are, constraints fields that there are', (t) => {
  for (const route of [...bridgeRoutes, ...configRoutes, ...daemonRoutes, ...datapathRoutes, ...openflowRoutes]) {
    t.true(MESSAGE_NAMES.includes(route.reply), route.url);
    if (route.body) t.true(MESSAGE_NAMES.includes(route.body), route.url);
    t.is(route.body !== undefined, route.method !== 'GET' && route.method !== 'DELETE', `${route.method} ${route.url}`);
  }
  const page = readFileSync(new URL('../../docs/api.md', import.meta.url), 'utf8');
  for (const { url } of [...bridgeRoutes, ...configRoutes, ...daemonRoutes, ...datapathRoutes, ...openflowRoutes]) {
    t.true(page.includes(`| \`${url}\` |`), `docs/api.md lacks ${url}`);
  }
  const fields = (name: string): string[] => Object.keys(messageSchema(name).properties as object);
  for (const path of Object.keys(CONSTRAINTS)) {
    const [message = '', field = ''] = path.split('.');
    t.true(fields(message).includes(field), path);
  }
  for (const [message, names] of Object.entries(REQUIRED))
    for (const name of names) t.true(fields(message).includes(name));
});

test('pages of any size join to the list', (t) => {
  fc.assert(
    fc.property(fc.array(fc.integer(), { maxLength: 60 }), fc.integer({ min: 1, max: 70 }), (list, limit) => {
      const pager = new Pager();
      const seen: number[] = [];
      let page: string | undefined;
      do {
        const got = pager.page({ limit: String(limit), ...(page ? { page } : {}) }, () => list);
        seen.push(...got.items);
        page = got.nextPage;
      } while (page);
      t.deepEqual(seen, list);
    }),
  );
  t.throws(() => new Pager().page({ limit: String(MAX_LIMIT + 1) }, () => []), { message: /limit must be/ });
  const context = { pager: new Pager() } as RouteContext;
  t.deepEqual(
    paged(context, { params: {}, query: {}, body: undefined }, 'xs', () => [1]),
    { xs: [1], nextPage: '', total: 1 },
  );
});

test('the nearest word is found by few edits, a far one is not', (t) => {
  t.is(nearest('pmd-cpu-msak', Object.keys(SWITCH_OPTIONS)), 'pmd-cpu-mask');
  t.is(nearest('vlan', Object.keys(SWITCH_OPTIONS)), undefined);
  t.notThrows(() => checkOptions(SWITCH_OPTIONS, { gone: '1' }, { gone: '1' }), 'what is stored already stays');
  t.throws(() => checkOptions(SWITCH_OPTIONS, { 'dpdk-init': 'true' }, {}), { message: /unknown key/ });
  t.throws(() => checkOptions(SWITCH_OPTIONS, { 'max-idle': '5' }, {}), {
    message: 'other_config: "5" is not a valid max-idle',
  });
});

test('two flow files differ by what they mean, not by how it is written', (t) => {
  t.deepEqual(
    diffFlows('tcp,nw_dst=10.0.0.0/255.0.0.0 actions=2', 'dl_type=0x800,nw_proto=6,ip_dst=10.0.0.0/8,actions=output:2'),
    [],
  );
  t.deepEqual(diffFlows('table=2,ip,actions=drop', 'table=2,ip,cookie=7,idle_timeout=5,actions=drop'), [
    '-table=2 ip actions=drop',
    '+table=2 ip cookie=0x7 idle_timeout=5 actions=drop',
  ]);
  t.throws(() => diffFlows('', '\n\nnope actions=drop'), { message: /nope/ });
});

test('64-bit numbers of messages are plain numbers again', (t) => {
  const sums = { packets: 2 ** 40, bytes: Number.MAX_SAFE_INTEGER, flows: 3 };
  t.deepEqual(decodeMessage('Aggregate', encodeMessage('Aggregate', sums)), sums);
});

test('what a schema refuses is said with path and fix', (t) => {
  const found = (keyword: string, instancePath: string, params: object) =>
    validationError(
      Object.assign(new Error('x'), {
        code: 'x',
        validation: [{ keyword, instancePath, params, schemaPath: '', message: 'm' }],
      }) as never,
    );
  t.like(found('required', '/mods/3', { missingProperty: 'flow' }), { field: 'mods[3].flow', hint: 'give flow' });
  t.like(found('type', '/a~1b', { type: 'string' }), { field: 'a/b', hint: 'give a value of type string' });
});

test('rates come from the samples, totals from now', async (t) => {
  const { datapath } = new FakeSwitch();
  const coverage = new Coverage(datapath);
  coverage.start();
  await new Promise((done) => setTimeout(done, 20));
  const pmds = await datapath.pmds();
  pmds[0]!.counters.rx_packets = 57;
  datapath.pmds = async () => pmds;
  const { rows, neverHit } = await coverage.rows();
  coverage.stop();
  t.like(
    rows.find(({ name }) => name === 'pmd_rx_packets'),
    { recent: 10, total: 57 },
  );
  t.true(neverHit > 10);
  t.is(
    rows.find(({ name }) => name === 'pmd_flows'),
    undefined,
  );
});

test('the default configuration is a standalone bridge with two listening ports, made once', async (t) => {
  const folder = await temporaryFolder();
  const start = async (): Promise<{ manager: Manager; fake: FakeSwitch }> => {
    const fake = new FakeSwitch();
    const manager = new Manager({ switch: fake, datapath: fake.datapath, config: join(folder, 'c'), log: quiet });
    await manager.start(defaultConfiguration(folder));
    return { manager, fake };
  };
  let { manager, fake } = await start();
  t.deepEqual(
    fake.bridges
      .get('br0')!
      .ports()
      .map(({ type, options }) => [type, options.path]),
    [
      ['vhost-user', join(folder, 'vhost0.sock')],
      ['vhost-user', join(folder, 'vhost1.sock')],
    ],
  );
  t.is(fake.bridges.get('br0')!.dumpFlows('')[0]!.actions, 'NORMAL');
  await manager.transact([{ kind: 'DeletePort', bridge: 'br0', name: 'vhost1' }]);
  await manager.stop();
  ({ manager, fake } = await start());
  t.is(fake.bridges.get('br0')!.ports().length, 1, 'what was configured since is not made default again');
  fake.datapath.connected = false;
  t.regex(await new Metrics(manager).text(), /^ringway_datapath_connected 0$/m);
  await manager.stop();
  await rm(folder, { recursive: true });
});

test('a change is applied with the way back', async (t) => {
  const fake = new FakeSwitch();
  const record = bridgeRecord({ name: 'br0', failMode: 'secure', otherConfig: { 'datapath-id': '0x1' } });
  t.is(bridgeSpec(record).datapathId, '0000000000000001');
  const made = await apply(fake, { kind: 'SetBridge', record });
  t.is(made.flowsChanged, 'br0');
  const port = portRecord({ name: 'p', type: 'dummy', otherConfig: { 'pmd-rxq-affinity': '0:1' } }, undefined);
  const set = await apply(fake, { kind: 'SetPort', bridge: 'br0', record: port });
  t.true(set.change.kind === 'SetPort' && set.change.record.ofport === 1);
  t.is(fake.datapath.ports()[0]!.options['pmd-rxq-affinity'], '0:1', 'the data plane reads it among the options');
  await set.undo();
  t.is(fake.bridges.get('br0')!.ports().length, 0);
  await made.undo();
  t.is(fake.bridges.size, 0);
  t.throws(
    () => checkChange(emptyModel('u'), { kind: 'SetBridge', record: { ...record, otherConfig: { hwaddr: 'x' } } }),
    { message: /hwaddr/ },
  );
});
