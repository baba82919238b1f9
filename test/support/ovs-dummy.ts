/**
 * A private ovs-vswitchd on its dummy datapath (`--enable-dummy=override`): no privilege, no packets but those that
 * `netdev-dummy/receive` injects. The golden partner for what ovs-ofctl, ovs-appctl and ofproto/trace print.
 */
import { type Ovs, ovsUnavailable, startOvs } from './ovs.ts';
import { which } from './process.ts';

/** Undefined when it can run here, else the reason why not. */
export function unavailable(): string | undefined {
  return which('ovs-vswitchd') ? ovsUnavailable() : 'ovs-vswitchd is not installed';
}

export const available = (): boolean => unavailable() === undefined;

/** Starts one with bridge br0 (dpid 1) and dummy ports p1..pN with OpenFlow numbers 1..N. */
export async function startOvsDummy(ports = 2): Promise<Ovs> {
  const ovs = await startOvs({
    daemon: which('ovs-vswitchd') ?? 'ovs-vswitchd',
    daemonArgs: ['--enable-dummy=override', '--disable-system'],
  });
  const bridge = ['datapath_type=dummy', 'fail_mode=secure', 'other_config:datapath-id=0000000000000001'];
  const args = ['add-br', 'br0', '--', 'set', 'bridge', 'br0', ...bridge];
  for (let n = 1; n <= ports; n++) {
    args.push('--', 'add-port', 'br0', `p${n}`);
    args.push('--', 'set', 'Interface', `p${n}`, 'type=dummy', `ofport_request=${n}`);
  }
  try {
    await ovs.vsctl(...args);
  } catch (error) {
    await ovs.stop();
    throw error;
  }
  return ovs;
}
