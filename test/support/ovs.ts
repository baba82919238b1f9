/**
 * A private Open vSwitch: its own directory, database and sockets, so that it meets neither an installed one nor that
 * of a test beside it. {@link startOvs} is the part that OVS-DPDK and the dummy datapath share.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Child, type RunResult, removeScratchDir, run, runOk, scratchDir, until, which } from './process.ts';

const SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema';

/** Undefined when the programs of Open vSwitch are installed, else the reason why not. */
export function ovsUnavailable(): string | undefined {
  for (const program of ['ovsdb-tool', 'ovsdb-server', 'ovs-vsctl', 'ovs-ofctl', 'ovs-appctl']) {
    if (!which(program)) return `${program} is not installed`;
  }
  return existsSync(SCHEMA) ? undefined : `${SCHEMA} is missing`;
}

export interface OvsOptions {
  daemon: string;
  daemonArgs?: string[];
  /** Command that the daemon is run by, such as `ip netns exec`. */
  under?: readonly string[];
  /** other_config of the Open_vSwitch record, there before the daemon starts. */
  otherConfig?: Record<string, string>;
}

export class Ovs {
  readonly rundir: string;
  readonly #database: Child;
  readonly #daemon: Child;
  readonly #env: Record<string, string>;

  constructor(rundir: string, env: Record<string, string>, database: Child, daemon: Child) {
    this.rundir = rundir;
    this.#env = env;
    this.#database = database;
    this.#daemon = daemon;
  }

  /** Pid of ovs-vswitchd. */
  get pid(): number {
    return this.#daemon.pid;
  }

  /** `ovs-vsctl ARGS`; several commands are joined by '--' as on the command line. Gives standard output. */
  vsctl(...args: string[]): Promise<string> {
    return this.#ok('ovs-vsctl', [`--db=unix:${join(this.rundir, 'db.sock')}`, '--timeout=20', ...args]);
  }

  /** `ovs-ofctl ARGS` with any exit code; bridges are found by name. */
  ofctl(args: string[], input?: string): Promise<RunResult> {
    return run('ovs-ofctl', args, { env: this.#env, timeoutMs: 120_000, ...(input === undefined ? {} : { input }) });
  }

  ofctlOk(args: string[], input?: string): Promise<string> {
    return this.#ok('ovs-ofctl', args, input);
  }

  /** `ovs-appctl ARGS` to ovs-vswitchd, with any exit code. */
  appctl(...args: string[]): Promise<RunResult> {
    return run('ovs-appctl', ['-t', join(this.rundir, 'vs.ctl'), ...args], { env: this.#env });
  }

  appctlOk(...args: string[]): Promise<string> {
    return this.#ok('ovs-appctl', ['-t', join(this.rundir, 'vs.ctl'), ...args]);
  }

  async stop(): Promise<void> {
    await this.#daemon.stop('SIGTERM');
    await this.#database.stop('SIGTERM');
    removeScratchDir(this.rundir);
  }

  async #ok(program: string, args: string[], input?: string): Promise<string> {
    try {
      return await runOk(program, args, {
        env: this.#env,
        timeoutMs: 120_000,
        ...(input === undefined ? {} : { input }),
      });
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${this.#daemon.tail()}`);
    }
  }
}

/** Starts ovsdb-server on a fresh database and the daemon beside it; resolves when the daemon answers. */
export async function startOvs(options: OvsOptions): Promise<Ovs> {
  const rundir = scratchDir('ovs');
  const env = { OVS_RUNDIR: rundir, OVS_LOGDIR: rundir, OVS_SYSCONFDIR: rundir, OVS_DBDIR: rundir };
  const at = (name: string) => join(rundir, name);
  await runOk('ovsdb-tool', ['create', at('conf.db'), SCHEMA], { env });
  const database = new Child(
    'ovsdb-server',
    [at('conf.db'), `--remote=punix:${at('db.sock')}`, `--unixctl=${at('db.ctl')}`],
    {
      env,
    },
  );
  let daemon: Child | undefined;
  try {
    await until(
      'the socket of ovsdb-server',
      () => existsSync(at('db.sock')),
      10_000,
      () => database.tail(),
    );
    const settings = Object.entries(options.otherConfig ?? {}).map(([key, value]) => `other_config:${key}="${value}"`);
    const db = `--db=unix:${at('db.sock')}`;
    await runOk(
      'ovs-vsctl',
      [db, '--no-wait', 'init', ...(settings.length ? ['--', 'set', 'Open_vSwitch', '.', ...settings] : [])],
      { env },
    );
    const args = [`unix:${at('db.sock')}`, `--unixctl=${at('vs.ctl')}`, ...(options.daemonArgs ?? [])];
    const [file, ...rest] = [...(options.under ?? []), options.daemon, ...args];
    daemon = new Child(file!, rest, { env, cwd: rundir, name: 'ovs-vswitchd' });
    const watched = daemon;
    const answers = async () => {
      if (watched.exit) throw new Error(`ovs-vswitchd did not start\n${watched.tail()}`);
      return existsSync(at('vs.ctl')) && (await run('ovs-appctl', ['-t', at('vs.ctl'), 'version'], { env })).code === 0;
    };
    await until('ovs-vswitchd to answer', answers, 30_000, () => watched.tail());
    return new Ovs(rundir, env, database, daemon);
  } catch (error) {
    await daemon?.stop('SIGKILL');
    await database.stop('SIGKILL');
    removeScratchDir(rundir);
    throw error;
  }
}
