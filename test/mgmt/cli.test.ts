/** The command-line tools as programs: outputs and exit codes of Open vSwitch, and what they do without a daemon. */
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { startOvs } from '../support/ovs.ts';
import { unavailable } from '../support/ovs-dummy.ts';
import { removeScratchDir, run, scratchDir, which } from '../support/process.ts';
import { recorded, transcript, writeInputs } from './golden.ts';
import { startHarness } from './harness.ts';

const BIN = join(import.meta.dirname, '../../bin');
const TOOLS = ['vsctl', 'ofctl', 'appctl'];

for (const tool of TOOLS) {
  test(`rw-${tool} answers as ovs-${tool} was recorded to`, async (t) => {
    const harness = await startHarness({ ofproto: true });
    const inputs = join(harness.rundir, 'inputs');
    writeInputs(inputs);
    t.deepEqual(
      (await transcript(tool, `${BIN}/rw-`, { RINGWAY_RUNDIR: harness.rundir }, inputs)).split('\n'),
      recorded(tool).split('\n'),
    );
    await harness.stop();
  });

  const why = unavailable();
  const live = why ? test.skip : test;
  live(`what was recorded of ovs-${tool} is what it says${why ? ` (${why})` : ''}`, async (t) => {
    const ovs = await startOvs({
      daemon: which('ovs-vswitchd') ?? '',
      daemonArgs: ['--enable-dummy=override', '--disable-system'],
    });
    const inputs = join(ovs.rundir, 'inputs');
    writeInputs(inputs);
    const extra = { vsctl: [`--db=unix:${join(ovs.rundir, 'db.sock')}`], appctl: ['-t', join(ovs.rundir, 'vs.ctl')] };
    const now = await transcript(tool, 'ovs-', { OVS_RUNDIR: ovs.rundir }, inputs, extra);
    await ovs.stop();
    t.deepEqual(now.split('\n'), recorded(tool).split('\n'));
  });
}

test('without a daemon every tool says so at once, with exit code 1', async (t) => {
  const folder = scratchDir('cli');
  for (const [tool, ...args] of [
    ['rw-vsctl', 'show'],
    ['rw-vsctl', '--timeout=9', 'add-br', 'br0'],
    ['rw-ofctl', 'dump-flows', 'br0'],
    ['rw-appctl', 'dpctl/show'],
    ['rw-appctl', 'exit'],
  ]) {
    const { code, stderr, stdout } = await run(join(BIN, tool!), ['--rundir', folder, ...args], { timeoutMs: 5_000 });
    t.is(code, 1);
    t.is(stdout, '');
    t.is(stderr, `${tool}: control plane is not running (no answer at ${folder}/api.sock)\n`);
  }
  removeScratchDir(folder);
});

test('the tools work from any folder and through symlinks of symlinks', async (t) => {
  const folder = scratchDir('cli');
  mkdirSync(join(folder, 'a'));
  symlinkSync(join(BIN, 'rw-ofctl'), join(folder, 'a/one'));
  symlinkSync('a/one', join(folder, 'two'));
  const { stdout } = await run('env', ['-C', folder, './two', '--version'], {});
  t.regex(stdout, /^rw-ofctl \(Ringway\) \d/);
  removeScratchDir(folder);
});

test('--json prints what the API says, as JSON', async (t) => {
  const harness = await startHarness({ ofproto: true });
  const tool = async (name: string, ...args: string[]): Promise<any> => {
    const { code, stdout, stderr } = await run(join(BIN, name), ['--rundir', harness.rundir, '--json', ...args]);
    t.is(code, 0, stderr);
    return JSON.parse(stdout);
  };
  await run(join(BIN, 'rw-vsctl'), [
    '--rundir',
    harness.rundir,
    'add-br',
    'br0',
    '--',
    'add-port',
    'br0',
    'p1',
    '--',
    'set',
    'interface',
    'p1',
    'type=dummy',
  ]);
  t.deepEqual(await tool('rw-vsctl', 'list-br'), ['br0']);
  t.is((await tool('rw-vsctl', 'show')).bridges[0].spec.name, 'br0');
  t.deepEqual((await tool('rw-vsctl', 'list', 'interface', 'p1')).headings.slice(0, 2), ['_uuid', 'admin_state']);
  t.like((await tool('rw-ofctl', 'dump-flows', 'br0'))[0], { priority: 0, actions: 'NORMAL' });
  t.is((await tool('rw-ofctl', 'dump-ports', 'br0')).length, 2);
  t.is((await tool('rw-appctl', 'dpif-netdev/pmd-stats-show'))[0].counters.rx_packets, 7);
  t.is((await tool('rw-appctl', 'dpctl/show')).ports[0].name, 'p1');
  t.truthy((await tool('rw-appctl', 'coverage/show')).counters);
  await harness.stop();
});

test('what the switch cannot set up ends rw-vsctl with 65 and leaves nothing behind', async (t) => {
  const harness = await startHarness();
  const vsctl = (...args: string[]) => run(join(BIN, 'rw-vsctl'), ['--rundir', harness.rundir, ...args]);
  t.is((await vsctl('add-br', 'br0')).code, 0);
  const { code, stderr } = await vsctl('add-port', 'br0', 'p1', '--', 'set', 'interface', 'p1', 'type=bogus');
  t.is(code, 65);
  t.is(stderr, "rw-vsctl: Error detected while setting up 'p1': no such port type: bogus\n");
  t.is((await vsctl('list-ports', 'br0')).stdout, '');
  await harness.stop();
});

test('many rw-vsctl at once all get their change in', async (t) => {
  const harness = await startHarness();
  const vsctl = (...args: string[]) => run(join(BIN, 'rw-vsctl'), ['--rundir', harness.rundir, ...args]);
  await vsctl('add-br', 'br0');
  const results = await Promise.all(
    ['a', 'b', 'c', 'd', 'e'].map((name) =>
      vsctl('add-port', 'br0', name, '--', 'set', 'interface', name, 'type=dummy'),
    ),
  );
  t.deepEqual(
    results.map(({ code, stderr }) => `${code}${stderr}`),
    ['0', '0', '0', '0', '0'],
  );
  t.is((await vsctl('list-ports', 'br0')).stdout, 'a\nb\nc\nd\ne\n');
  await harness.stop();
});

test('the layouts of the data plane commands', async (t) => {
  const harness = await startHarness();
  const env = { RINGWAY_RUNDIR: harness.rundir };
  await run(
    join(BIN, 'rw-vsctl'),
    ['add-br', 'br0', '--', 'add-port', 'br0', 'p1', '--', 'set', 'interface', 'p1', 'type=dummy', 'options:a=b'],
    { env },
  );
  const appctl = async (...args: string[]): Promise<string> =>
    (await run(join(BIN, 'rw-appctl'), args, { env })).stdout;
  t.is(
    await appctl('dpctl/show'),
    'netdev@ovs-netdev:\n  lookups: hit:5 missed:2 lost:0\n  flows: 1\n  port 1: p1 (dummy: a=b)\n',
  );
  t.is(
    await appctl('dpif/show'),
    'netdev@ovs-netdev: hit:5 missed:2\n  br0:\n    br0 65534/none: (internal)\n    p1 1/1: (dummy: a=b)\n',
  );
  t.is(
    await appctl('dpctl/dump-flows'),
    'flow-dump from the main thread:\nrecirc_id(0),in_port(1),eth_type(0x0800),ipv4(frag=no), packets:3, bytes:180, used:0.500s, actions:2\n',
  );
  t.regex(await appctl('dpctl/dump-flows', '-m'), /^ufid:[0-9a-f-]{36}, recirc_id\(0\).* dp:ovs, actions:2$/m);
  t.is(
    await appctl('pmd-rxq-show'),
    'Displaying last 60 seconds pmd usage %\npmd thread numa_id 0 core_id 1:\n  isolated : false\n' +
      '  port: p1                queue-id:  0 (enabled)   pmd usage: NOT AVAIL\n  overhead: NOT AVAIL\n',
  );
  t.regex(
    await appctl('dpif-netdev/pmd-stats-show'),
    /^pmd thread numa_id 0 core_id 1:\n {2}packets received: 7\n(?: {2}.*\n){12}$/,
  );
  t.regex(
    await appctl('coverage/show'),
    /^Event coverage, avg rate over last: 5 seconds, last minute, last hour, {2}hash=[0-9a-f]{8}:\npmd_rx_packets {12}/,
  );
  t.is(
    await appctl('drops'),
    'bridge  port  reason             packets\n' +
      'br0     p1    rx_bad_descriptor        2  rx: a descriptor outside guest memory, a loop, or a chain that is too long\n',
  );
  t.is(await appctl('fdb/show', 'br0'), ' port  VLAN  MAC                Age\n    1     0  50:54:00:00:00:05    3\n');
  await harness.stop();
});
