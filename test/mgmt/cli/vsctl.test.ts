/** rw-vsctl as a program: outputs and exit codes of ovs-vsctl, transactions, what cannot be set up. */
import { join } from 'node:path';
import test from 'ava';
import { unavailable } from '../../support/ovs-dummy.ts';
import { run } from '../../support/process.ts';
import { BIN, ovsTranscript, recorded, transcript, writeInputs } from '../golden.ts';
import { startHarness } from '../harness.ts';

test('rw-vsctl answers as ovs-vsctl was recorded to', async (t) => {
  const harness = await startHarness({ ofproto: true });
  const inputs = join(harness.rundir, 'inputs');
  writeInputs(inputs);
  const now = await transcript('vsctl', `${BIN}/rw-`, { RINGWAY_RUNDIR: harness.rundir }, inputs);
  t.deepEqual(now.split('\n'), recorded('vsctl').split('\n'));
  await harness.stop();
});

const why = unavailable();
const live = why ? test.skip : test;
live(`what was recorded of ovs-vsctl is what it says${why ? ` (${why})` : ''}`, async (t) => {
  t.deepEqual((await ovsTranscript('vsctl')).split('\n'), recorded('vsctl').split('\n'));
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
