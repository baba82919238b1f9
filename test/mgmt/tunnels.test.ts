/** The networks under the tunnels by API and by rw-appctl. */
import { join } from 'node:path';
import test from 'ava';
import { tunnelCommands } from '../../src/mgmt/cli/appctl/tunnels.ts';
import { tunnelRoutes } from '../../src/mgmt/routes/tunnels.ts';
import { run } from '../support/process.ts';
import { BIN } from './golden.ts';
import { startHarness } from './harness.ts';

test('routes, neighbours and listening ports are shown and set in the words of ovs-appctl', async (t) => {
  const harness = await startHarness();
  try {
    const appctl = async (...args: string[]): Promise<string> => {
      const { stdout, stderr } = await run(join(BIN, 'rw-appctl'), args, { env: { RINGWAY_RUNDIR: harness.rundir } });
      return stdout + stderr;
    };
    t.is(await appctl('ovs/route/show'), 'Route Table:\nUser: 10.0.0.0/24 dev br0 SRC 10.0.0.1\n');
    t.is(await appctl('ovs/route/add', '10.1.0.0/16', 'br0', '10.0.0.9', 'src=10.0.0.1'), 'OK\n');
    t.is(await appctl('ovs/route/del', '10.1.0.0/16'), 'OK\n');
    t.is(await appctl('ovs/route/lookup', '10.0.0.7'), 'src 10.0.0.1\ndev br0\n');
    t.is(
      await appctl('tnl/neigh/show'),
      `IP                                            MAC                 Bridge\n${'='.repeat(74)}\n10.0.0.2                                      02:00:00:00:00:02   br0\n`,
    );
    t.is(await appctl('tnl/arp/set', 'br0', '10.0.0.3', '02:00:00:00:00:03'), 'OK\n');
    t.is(await appctl('tnl/neigh/flush'), 'OK\n');
    t.is(await appctl('tnl/ports/show'), 'Listening ports:\nvxlan_sys_4789 (3) ref_cnt=2\n');
    t.is(
      await appctl('tnl/ports/show', '-v'),
      'Listening ports:\nvxlan_sys_4789 (3) : dst=10.0.0.1,proto=17,dst_port=4789\n',
    );
    t.regex(await appctl('ovs/route/add', '10.1.0.0/16', 'br0', 'mark=1'), /mark=1: Invalid parameter/);
    t.true(tunnelRoutes.length > 0 && Object.keys(tunnelCommands).length > 0);
  } finally {
    await harness.stop();
  }
});
