/** The whole switch under test: bin/rw-vswitchd and the data process that it starts, driven by the command-line tools. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openVirtioPort, type PortOptions, type VirtioPort } from '#guest/index.ts';
import { PATIENCE_MS } from './datapath.ts';
import { Child, type RunResult, removeScratchDir, run, runOk, scratchDir, until } from './process.ts';

const BIN = fileURLToPath(new URL('../../bin/', import.meta.url));

/** True while the process is there and no zombie. */
export function alive(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

export class SwitchProcess {
  readonly rundir: string;
  child!: Child;
  readonly #args: readonly string[];
  /** Command that the switch is run by; empty: none, and then bridges make no devices on this host. */
  readonly #under: readonly string[];
  readonly #guests: VirtioPort[] = [];

  private constructor(args: readonly string[], under: readonly string[]) {
    this.rundir = scratchDir('rws');
    this.#args = args;
    this.#under = under;
  }

  /** Starts a switch of its own, without an HTTP address. */
  static async start(...args: string[]): Promise<SwitchProcess> {
    return SwitchProcess.startUnder([], ...args);
  }

  /** The same run by a command, such as `ip netns exec`, with a device for each bridge. */
  static async startUnder(under: readonly string[], ...args: string[]): Promise<SwitchProcess> {
    const made = new SwitchProcess(args, under);
    try {
      await made.restart();
    } catch (error) {
      await made.close();
      throw error;
    }
    return made;
  }

  /** Starts rw-vswitchd (again); it adopts a data plane that runs. */
  async restart(): Promise<void> {
    const args = [...this.#args, '--rundir', this.rundir, '--api', ''];
    const [file, ...rest] = [...this.#under, join(BIN, 'rw-vswitchd'), ...args];
    const devices = this.#under.length > 0 ? [] : ['--no-local-devices'];
    this.child = new Child(file!, [...rest, ...devices], { name: 'rw-vswitchd' });
    await this.child.waitFor(/Ringway is up/, 'the switch to be up', PATIENCE_MS);
  }

  /** Pid of the data process, as its pid file says; 0 without one. */
  get datapathPid(): number {
    try {
      return Number(readFileSync(join(this.rundir, 'rw-datapathd.pid'), 'utf8'));
    } catch {
      return 0;
    }
  }

  #tool(name: string, args: readonly string[]): [string, string[]] {
    return [join(BIN, name), ['--rundir', this.rundir, ...args]];
  }

  vsctl(...args: string[]): Promise<string> {
    return runOk(...this.#tool('rw-vsctl', args), { timeoutMs: PATIENCE_MS });
  }

  ofctl(...args: string[]): Promise<string> {
    return runOk(...this.#tool('rw-ofctl', args), { timeoutMs: PATIENCE_MS });
  }

  appctl(...args: string[]): Promise<string> {
    return runOk(...this.#tool('rw-appctl', args), { timeoutMs: PATIENCE_MS });
  }

  /** Any exit code. */
  tool(name: 'rw-vsctl' | 'rw-ofctl' | 'rw-appctl', ...args: string[]): Promise<RunResult> {
    return run(...this.#tool(name, args), { timeoutMs: PATIENCE_MS });
  }

  socket(port: string): string {
    return join(this.rundir, `${port}.sock`);
  }

  async guest(port: string, options: Partial<PortOptions> = {}): Promise<VirtioPort> {
    const path = options.path ?? this.socket(port);
    if (options.role !== 'server') await until(`the socket of ${port}`, () => existsSync(path), PATIENCE_MS);
    const guest = await openVirtioPort({ timeoutMs: PATIENCE_MS, replyMs: PATIENCE_MS, ...options, path });
    this.#guests.push(guest);
    return guest;
  }

  async linkUp(...ports: string[]): Promise<void> {
    for (const port of ports) {
      const check = async () => (await this.vsctl('get', 'Interface', port, 'link_state')).trim() === 'up';
      await until(`the link of ${port}`, check, PATIENCE_MS, () => this.child.tail());
    }
  }

  /** `n_packets` of every line of dump-flows, by the line's match and actions. */
  async packets(bridge: string, ...match: string[]): Promise<Record<string, number>> {
    const lines = (await this.ofctl('dump-flows', bridge, ...match))
      .split('\n')
      .filter((line) => line.includes('actions='));
    return Object.fromEntries(
      lines.map((line) => [
        line.replace(/^.*idle_age=\d+,( hard_age=\d+,)? /, ''),
        Number(/n_packets=(\d+)/.exec(line)![1]),
      ]),
    );
  }

  async close(): Promise<void> {
    for (const guest of this.#guests) await guest.close({ abrupt: true });
    const datapath = this.datapathPid;
    await this.child.stop('SIGTERM', 20_000);
    if (datapath > 0 && alive(datapath)) process.kill(datapath, 'SIGKILL');
    removeScratchDir(this.rundir);
  }
}

/** Runs `body` on a switch of its own; shows what both processes said last when it fails. */
export async function withSwitch(
  args: readonly string[],
  body: (sw: SwitchProcess) => Promise<void>,
  under: readonly string[] = [],
): Promise<void> {
  const sw = await SwitchProcess.startUnder(under, ...args);
  try {
    await body(sw);
  } catch (error) {
    const log = join(sw.rundir, 'rw-datapathd.log');
    const said = existsSync(log) ? readFileSync(log, 'utf8').trimEnd().split('\n').slice(-15).join('\n') : '';
    (error as Error).message += `\n${sw.child.tail()}\n--- ${log} ---\n${said}`;
    throw error;
  } finally {
    await sw.close();
  }
}
