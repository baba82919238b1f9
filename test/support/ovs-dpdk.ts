/**
 * A private OVS-DPDK with one userspace bridge and vhost-user ports, the peer of the side-by-side bench.
 *
 * It needs no hugepages: `--no-huge` with `--legacy-mem` (OVS adds `--in-memory` otherwise, which DPDK refuses beside
 * `--no-huge`) and 2 GiB of plain memory, since OVS asks for 262 144 packet buffers per MTU (ovs-vswitchd(8),
 * other_config:dpdk-extra; "DPDK Device Memory Models" of the OVS manual).
 */
import { join } from 'node:path';
import { type Ovs, ovsUnavailable, startOvs } from './ovs.ts';
import { type PmdStats, parsePmdStats, sumPmdStats } from './pmd-stats.ts';
import { which } from './process.ts';

const DPDK_DAEMON = '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk';

/** Undefined when OVS-DPDK can run here, else the reason why not. */
export function unavailable(): string | undefined {
  if (!which(DPDK_DAEMON)) return 'openvswitch-switch-dpdk is not installed';
  return ovsUnavailable();
}

export const available = (): boolean => unavailable() === undefined;

export interface OvsDpdkOptions {
  /** CPU of the one PMD. */
  pmdCore?: number;
  /** CPU of all other threads. */
  mainCore?: number;
  otherConfig?: Record<string, string>;
}

export class OvsDpdk {
  readonly ovs: Ovs;
  readonly bridge = 'br0';

  private constructor(ovs: Ovs) {
    this.ovs = ovs;
  }

  /** Starts it with bridge br0, which forwards nothing until {@link setFlows}. */
  static async start(options: OvsDpdkOptions = {}): Promise<OvsDpdk> {
    const mask = (core: number) => `0x${(1 << core).toString(16)}`;
    const ovs = await startOvs({
      daemon: DPDK_DAEMON,
      otherConfig: {
        'dpdk-init': 'true',
        'dpdk-extra': `--no-huge --legacy-mem --no-pci -m 2048 --no-shconf --no-telemetry --file-prefix=rwovs${process.pid}`,
        'dpdk-lcore-mask': mask(options.mainCore ?? 0),
        'pmd-cpu-mask': mask(options.pmdCore ?? 1),
        ...options.otherConfig,
      },
    });
    const started = new OvsDpdk(ovs);
    const bridge = ['set', 'bridge', started.bridge, 'datapath_type=netdev', 'fail_mode=secure'];
    try {
      await ovs.vsctl('add-br', started.bridge, '--', ...bridge);
    } catch (error) {
      await ovs.stop();
      throw error;
    }
    return started;
  }

  /**
   * Adds a vhost-user port. `client`: OVS connects to `socket` and retries each second. `server`: OVS listens on a
   * socket named like the port in its own directory. Gives the path of the socket.
   */
  async addVhostPort(name: string, ofport: number, role: 'client' | 'server', socket?: string): Promise<string> {
    const path = role === 'client' ? socket : join(this.ovs.rundir, name);
    if (!path) throw new Error('a port that connects needs the path of the socket');
    const type =
      role === 'client' ? ['type=dpdkvhostuserclient', `options:vhost-server-path=${path}`] : ['type=dpdkvhostuser'];
    await this.ovs.vsctl(
      'add-port',
      this.bridge,
      name,
      '--',
      'set',
      'Interface',
      name,
      ...type,
      `ofport_request=${ofport}`,
    );
    const error = (await this.ovs.vsctl('get', 'Interface', name, 'error')).trim();
    if (error !== '[]') throw new Error(`port ${name}: ${error}`);
    return path;
  }

  /** Replaces the flow tables by these flows, in the syntax of ovs-ofctl(8). */
  async setFlows(flows: string[]): Promise<void> {
    await this.ovs.ofctlOk(['replace-flows', this.bridge, '-'], `${flows.join('\n')}\n`);
  }

  async clearPmdStats(): Promise<void> {
    await this.ovs.appctlOk('dpif-netdev/pmd-stats-clear');
  }

  async pmdStats(): Promise<PmdStats> {
    return sumPmdStats(parsePmdStats(await this.ovs.appctlOk('dpif-netdev/pmd-stats-show')));
  }

  stop(): Promise<void> {
    return this.ovs.stop();
  }
}
