/** This switch as a switch under test, through the programs in bin/ as its users run them. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parsePmdStats, sumPmdStats } from '../../test/support/pmd-stats.ts';
import {
  Child,
  type RunResult,
  removeScratchDir,
  run,
  runOk,
  scratchDir,
  until,
  which,
} from '../../test/support/process.ts';
import type { StartOptions, SwitchUnderTest } from './peer.ts';

const BIN = fileURLToPath(new URL('../../bin/', import.meta.url));
const PROGRAMS = ['rw-vswitchd', 'rw-datapathd', 'rw-vsctl', 'rw-ofctl', 'rw-appctl'];

/** Undefined when it can run here, else the reason why not. */
export function ringwayUnavailable(): string | undefined {
  const missing = PROGRAMS.find((program) => !existsSync(join(BIN, program)));
  return missing ? `bin/${missing} is missing` : undefined;
}

export class RingwayPeer implements SwitchUnderTest {
  readonly name = 'Ringway';
  #rundir = '';
  #mainCore = 0;
  #control: Child | undefined;
  #ports = 0;

  get rundir(): string {
    return this.#rundir;
  }

  async start(options: StartOptions): Promise<void> {
    this.#rundir = scratchDir('rw');
    this.#mainCore = options.mainCore;
    this.#ports = 0;
    try {
      await this.startControlPlane();
      const config = {
        'pmd-cpu-mask': `0x${(1 << options.pmdCore).toString(16)}`,
        ...options.otherConfig,
      };
      const settings = Object.entries(config).map(([key, value]) => `other_config:${key}=${value}`);
      await this.vsctl('set', 'Open_vSwitch', '.', ...settings);
      await this.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'datapath_type=netdev', 'fail_mode=secure');
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  /** Starts rw-vswitchd, which starts a data plane or adopts the one that runs. */
  async startControlPlane(): Promise<void> {
    // The daemons' own threads keep off the core of the PMD, as OVS is told by dpdk-lcore-mask.
    const pinned = which('taskset') ? ['taskset', '-c', String(this.#mainCore)] : [];
    const [file, ...args] = [...pinned, join(BIN, 'rw-vswitchd'), '--rundir', this.#rundir, '--no-local-devices'];
    const control = new Child(file!, args, { name: 'rw-vswitchd' });
    this.#control = control;
    const answers = async () => {
      if (control.exit) throw new Error(`rw-vswitchd did not start\n${control.tail()}`);
      return (await this.appctl('version')).code === 0;
    };
    await until('rw-vswitchd to answer', answers, 30_000, () => control.tail());
  }

  async addVhostPort(name: string, socket: string): Promise<void> {
    const settings = ['type=dpdkvhostuserclient', `options:vhost-server-path=${socket}`];
    const ofport = `ofport_request=${++this.#ports}`;
    await this.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, ...settings, ofport);
  }

  async setFlows(flows: string[]): Promise<void> {
    await this.#ok('rw-ofctl', ['replace-flows', 'br0', '-'], `${flows.join('\n')}\n`);
  }

  vsctl(...args: string[]): Promise<string> {
    return this.#ok('rw-vsctl', args);
  }

  ofctl(...args: string[]): Promise<string> {
    return this.#ok('rw-ofctl', args);
  }

  appctl(...args: string[]): Promise<RunResult> {
    return run(join(BIN, 'rw-appctl'), ['--rundir', this.#rundir, ...args]);
  }

  async clearPmdStats(): Promise<void> {
    await this.#ok('rw-appctl', ['dpif-netdev/pmd-stats-clear']);
  }

  async pmdStats() {
    return sumPmdStats(parsePmdStats(await this.#ok('rw-appctl', ['dpif-netdev/pmd-stats-show'])));
  }

  async collections() {
    const text = await this.#ok('rw-appctl', ['--json', 'dpif-netdev/pmd-stats-show']);
    const pmds = JSON.parse(text) as { counters: Record<string, number | string> }[];
    return pmds.reduce((sum, { counters }) => sum + Number(counters['collections']), 0);
  }

  pids(): number[] {
    return [this.pidOf('rw-vswitchd'), this.pidOf('rw-datapathd')];
  }

  /** Pid from `<rundir>/<daemon>.pid`. */
  pidOf(daemon: 'rw-vswitchd' | 'rw-datapathd'): number {
    return Number(readFileSync(join(this.#rundir, `${daemon}.pid`), 'utf8').trim());
  }

  async stop(): Promise<void> {
    // SIGTERM to the control plane ends both; a data plane left over by a crash is ended by its own pid.
    const datapath = existsSync(join(this.#rundir, 'rw-datapathd.pid')) ? this.pidOf('rw-datapathd') : 0;
    await this.#control?.stop('SIGTERM', 5000);
    this.#control = undefined;
    const gone = () => datapath === 0 || !existsSync(`/proc/${datapath}`);
    await until('rw-datapathd to end', gone, 3000).catch(() => process.kill(datapath, 'SIGKILL'));
    removeScratchDir(this.#rundir);
  }

  async #ok(program: string, args: string[], input?: string): Promise<string> {
    try {
      const options = { timeoutMs: 120_000, ...(input === undefined ? {} : { input }) };
      return await runOk(join(BIN, program), ['--rundir', this.#rundir, ...args], options);
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${this.#control?.tail() ?? ''}`);
    }
  }
}
