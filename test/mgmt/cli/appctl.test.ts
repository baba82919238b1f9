/** rw-appctl as a program: outputs and exit codes of ovs-appctl; every tool without a daemon. */
import { join } from 'node:path';
import test from 'ava';
import { unavailable } from '../../support/ovs-dummy.ts';
import { removeScratchDir, run, scratchDir } from '../../support/process.ts';
import { BIN, ovsTranscript, recorded, transcript, writeInputs } from '../golden.ts';
import { startHarness } from '../harness.ts';

test('rw-appctl answers as ovs-appctl was recorded to', async (t) => {
  const harness = await startHarness({ ofproto: true });
  const inputs = join(harness.rundir, 'inputs');
  writeInputs(inputs);
  const now = await transcript('appctl', `${BIN}/rw-`, { RINGWAY_RUNDIR: harness.rundir }, inputs);
  t.deepEqual(now.split('\n'), recorded('appctl').split('\n'));
  await harness.stop();
});

const why = unavailable();
const live = why ? test.skip : test;
live(`what was recorded of ovs-appctl is what it says${why ? ` (${why})` : ''}`, async (t) => {
  t.deepEqual((await ovsTranscript('appctl')).split('\n'), recorded('appctl').split('\n'));
});

test('without a daemon every tool says so at once, with exit code 1', async (t) => {
  const folder = scratchDir('cli');
  for (const [tool, ...args] of [
    ['rw-vsctl', 'show'],
    ['rw-vsctl', '--timeout=9', 'add-br', 'br0'],
    ['rw-ofctl', 'dump-flows', 'br0'],
    ['rw-appctl', 'dpctl/show'],
    ['rw-appctl', 'exit'],
  ]) {
    const { code, stderr, stdout } = await run(join(BIN, tool!), ['--rundir', folder, ...args]);
    t.is(code, 1);
    t.is(stdout, '');
    t.is(stderr, `${tool}: control plane is not running (no answer at ${folder}/api.sock)\n`);
  }
  removeScratchDir(folder);
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
