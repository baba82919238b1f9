/** Open vSwitch with DPDK as a switch under test. */
import { OvsDpdk, unavailable } from '../../test/support/ovs-dpdk.ts';
import type { StartOptions, SwitchUnderTest } from './peer.ts';

export const ovsUnavailable = unavailable;

export class OvsPeer implements SwitchUnderTest {
  readonly name = 'OVS-DPDK';
  #running: OvsDpdk | undefined;
  #ports = 0;

  get #ovs(): OvsDpdk {
    if (!this.#running) throw new Error('OVS-DPDK is not started');
    return this.#running;
  }

  async start(options: StartOptions): Promise<void> {
    this.#running = await OvsDpdk.start(options);
    this.#ports = 0;
  }

  async addVhostPort(name: string, socket: string): Promise<void> {
    await this.#ovs.addVhostPort(name, ++this.#ports, 'client', socket);
  }

  vsctl(...args: string[]): Promise<string> {
    return this.#ovs.ovs.vsctl(...args);
  }

  setFlows(flows: string[]): Promise<void> {
    return this.#ovs.setFlows(flows);
  }

  ofctl(...args: string[]): Promise<string> {
    return this.#ovs.ovs.ofctlOk(args);
  }

  appctl(...args: string[]) {
    return this.#ovs.ovs.appctl(...args);
  }

  clearPmdStats(): Promise<void> {
    return this.#ovs.clearPmdStats();
  }

  pmdStats() {
    return this.#ovs.pmdStats();
  }

  pids(): number[] {
    return [this.#ovs.ovs.pid];
  }

  async stop(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    await running?.stop();
  }
}
