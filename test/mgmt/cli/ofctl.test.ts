/** rw-ofctl as a program: outputs and exit codes of ovs-ofctl; where the tools are found from. */
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { unavailable } from '../../support/ovs-dummy.ts';
import { removeScratchDir, run, scratchDir } from '../../support/process.ts';
import { BIN, ovsTranscript, recorded, transcript, writeInputs } from '../golden.ts';
import { startHarness } from '../harness.ts';

test('rw-ofctl answers as ovs-ofctl was recorded to', async (t) => {
  const harness = await startHarness({ ofproto: true });
  const inputs = join(harness.rundir, 'inputs');
  writeInputs(inputs);
  const now = await transcript('ofctl', `${BIN}/rw-`, { RINGWAY_RUNDIR: harness.rundir }, inputs);
  t.deepEqual(now.split('\n'), recorded('ofctl').split('\n'));
  await harness.stop();
});

const why = unavailable();
const live = why ? test.skip : test;
live(`what was recorded of ovs-ofctl is what it says${why ? ` (${why})` : ''}`, async (t) => {
  t.deepEqual((await ovsTranscript('ofctl')).split('\n'), recorded('ofctl').split('\n'));
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
  // biome-ignore lint/suspicious/noExplicitAny: whatever the API says
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
