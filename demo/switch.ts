/** The switch of the demo: its two daemons in a private run directory, a bridge with a NORMAL flow, two vhost-user ports. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Api } from './api.ts';

export const BRIDGE = 'demo';

/** What the demo needs of a switch. */
export interface DemoSwitch {
  readonly api: Api;
  /** Sockets of its two ports. */
  readonly sockets: readonly [string, string];
  /** Kills the control plane as a crash would, with SIGKILL. */
  killControl(): Promise<void>;
  /** Starts a control plane again, which adopts the data plane. */
  startControl(): Promise<void>;
  stop(): Promise<void>;
}

const DAEMON = fileURLToPath(new URL('../bin/rw-vswitchd', import.meta.url));
const START_MS = 15_000;

class RealSwitch implements DemoSwitch {
  readonly rundir = mkdtempSync(join(tmpdir(), 'rw-demo-'));
  readonly api = new Api(join(this.rundir, 'api.sock'));
  readonly sockets: readonly [string, string] = [join(this.rundir, 'p1.sock'), join(this.rundir, 'p2.sock')];
  #child: ChildProcess | undefined;
  #output = '';

  async startControl(): Promise<void> {
    const child = spawn(DAEMON, ['--rundir', this.rundir, '--api', '', '--no-local-devices'], {
      stdio: ['ignore', 'pipe', 'pipe'],
      // Ctrl-C at the terminal is the demo's to handle: it stops the switch in order.
      detached: true,
    });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (text: Buffer) => {
        this.#output = (this.#output + text.toString()).slice(-4000);
      });
    }
    let failure = '';
    child.on('error', (error) => {
      failure = error.message;
    });
    const end = Date.now() + START_MS;
    for (;;) {
      const health = await this.api.health().catch(() => undefined);
      if (health?.datapathConnected) return;
      if (failure || child.exitCode !== null || Date.now() > end) {
        throw new Error(`${DAEMON} did not come up: ${failure || this.#output.trim() || 'no output'}`);
      }
      await sleep(50);
    }
  }

  async setUp(): Promise<void> {
    await this.api.addBridge(BRIDGE);
    for (const [i, path] of this.sockets.entries()) {
      await this.api.addPort(BRIDGE, { name: `p${i + 1}`, type: 'vhost-user', options: { path, mode: 'server' } });
    }
  }

  async killControl(): Promise<void> {
    const pid = this.#pid('rw-vswitchd');
    if (pid > 0) process.kill(pid, 'SIGKILL');
    await this.#ended();
  }

  async stop(): Promise<void> {
    // SIGTERM to the control plane stops both planes; without a control plane the data plane is told itself.
    for (const name of ['rw-vswitchd', 'rw-datapathd']) {
      const pid = this.#pid(name);
      if (!alive(pid)) continue;
      process.kill(pid, 'SIGTERM');
      const end = Date.now() + 5000;
      while (alive(pid) && Date.now() < end) await sleep(20);
      if (alive(pid)) process.kill(pid, 'SIGKILL');
    }
    await this.#ended();
    rmSync(this.rundir, { recursive: true, force: true });
  }

  async #ended(): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
    await new Promise((resolve) => child.once('exit', resolve));
  }

  #pid(daemon: string): number {
    const path = join(this.rundir, `${daemon}.pid`);
    return existsSync(path) ? Number.parseInt(readFileSync(path, 'utf8'), 10) || 0 : 0;
  }
}

function alive(pid: number): boolean {
  if (pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Starts the switch and sets it up. @throws Error with the daemon's last words when it does not come up. */
export async function startSwitch(): Promise<DemoSwitch> {
  const started = new RealSwitch();
  try {
    await started.startControl();
    await started.setUp();
    return started;
  } catch (error) {
    await started.stop();
    throw error;
  }
}
