import { join } from 'node:path';
import test from 'ava';
import * as dpdk from './ovs-dpdk.ts';
import * as dummy from './ovs-dummy.ts';
import { removeScratchDir, scratchDir } from './process.ts';
import * as testpmd from './testpmd.ts';

const noDummy = dummy.unavailable();
const onDummy = noDummy ? test.skip : test;
const noDpdk = dpdk.unavailable() ?? testpmd.unavailable();
const onDpdk = noDpdk ? test.skip : test;

onDummy(`a dummy switch traces a packet through its flows${noDummy ? ` (${noDummy})` : ''}`, async (t) => {
  const ovs = await dummy.startOvsDummy(3);
  t.teardown(() => ovs.stop());
  await ovs.ofctlOk(['add-flow', 'br0', 'in_port=1,ip,nw_dst=10.0.0.2,actions=3']);
  const trace = await ovs.appctlOk('ofproto/trace', 'br0', 'in_port=1,ip,nw_dst=10.0.0.2');
  t.regex(trace, /^Datapath actions: 3$/m);
  const refused = await ovs.ofctl(['add-flow', 'br0', 'actions=bogus']);
  t.is(refused.code, 1);
  t.regex(refused.stderr, /unknown action bogus/);
});

onDpdk(`OVS-DPDK carries the frames of testpmd${noDpdk ? ` (${noDpdk})` : ''}`, async (t) => {
  const dir = scratchDir('od');
  t.teardown(() => removeScratchDir(dir));
  const ovs = await dpdk.OvsDpdk.start({ pmdCore: 1, mainCore: 0 });
  t.teardown(() => ovs.stop());
  const near = join(dir, 'a.sock');
  await ovs.addVhostPort('vh0', 1, 'client', near);
  const far = await ovs.addVhostPort('vh1', 2, 'server');
  await ovs.setFlows(['in_port=1,actions=2', 'in_port=2,actions=1']);

  const guests = await testpmd.Testpmd.start({ devices: [{ path: near, role: 'server' }, { path: far }], core: 0 });
  t.teardown(() => guests.kill());
  await guests.waitLinkUp();
  await guests.closeLoop(1);
  await guests.waitReceived(0, 100);
  await guests.waitReceived(1, 100);
  const stats = await ovs.pmdStats();
  t.is(stats.core, 1);
  t.true(stats.simpleMatchHits > 0);
  t.true(stats.busyCycles > 0);
  await guests.quit();
});
