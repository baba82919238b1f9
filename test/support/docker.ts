/**
 * A Docker daemon of the test's own: its data, sockets and pid file lie in a scratch folder, it touches neither the host's
 * firewall nor a default bridge, and it ends with the test. Images are made from folders: nothing is pulled.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { PATIENCE_MS } from './datapath.ts';
import { Child, type RunResult, removeScratchDir, run, runOk, scratchDir, until, which } from './process.ts';

const BUSYBOX = which('busybox');
/** Programs of the image besides busybox itself. */
const APPLETS = ['sh', 'sleep', 'ping', 'ip', 'cat', 'nc', 'ls', 'id', 'route', 'true', 'wget', 'test'];

/**
 * Why no daemon can be started here; empty: one can.
 * @param layers also ask for a storage driver that shares what images have in common: vfs copies all of an image at every
 * step of a build.
 */
export async function whyNoDocker({ layers = false } = {}): Promise<string> {
  if (process.getuid?.() !== 0) return 'needs root';
  for (const program of ['dockerd', 'docker', 'containerd', 'runc', 'ip', 'nsenter', 'tar', 'ps'])
    if (!which(program)) return `needs ${program}`;
  if (!BUSYBOX) return 'needs busybox-static';
  try {
    const daemon = await DockerDaemon.start('');
    try {
      await daemon.importBusybox();
      await daemon.docker('run', '--rm', '--network', 'none', 'busybox', 'true');
      const driver = (await daemon.docker('info', '--format', '{{.Driver}}')).trim();
      if (layers && driver === 'vfs') return 'needs a storage driver other than vfs';
    } finally {
      await daemon.close();
    }
    return '';
  } catch (error) {
    return `dockerd does not run here: ${(error as Error).message.split('\n').slice(0, 2).join(' ').slice(0, 200)}`;
  }
}

export class DockerDaemon {
  readonly folder: string;
  readonly socket: string;
  readonly #extra: readonly string[];
  readonly #netns: string;
  #child: Child | undefined;

  private constructor(netns: string, extra: readonly string[]) {
    this.#netns = netns;
    this.folder = scratchDir('rwd');
    this.socket = join(this.folder, 'docker.sock');
    this.#extra = extra;
  }

  /** @param netns name of the network namespace (ip-netns(8)) that plays the host; empty: this process's. */
  static async start(netns: string, ...extra: string[]): Promise<DockerDaemon> {
    const daemon = new DockerDaemon(netns, extra);
    try {
      await daemon.restart();
    } catch (error) {
      await daemon.close();
      throw error;
    }
    return daemon;
  }

  /** Starts dockerd (again). */
  async restart(): Promise<void> {
    const { folder } = this;
    const args = [
      ...['--data-root', join(folder, 'data'), '--exec-root', join(folder, 'exec'), '--pidfile', join(folder, 'pid')],
      ...['--host', `unix://${this.socket}`, '--bridge', 'none', '--ip-forward=false'],
      ...['--iptables=false', '--ip6tables=false', ...this.#extra],
    ];
    const dockerd = which('dockerd')!;
    // Not by ip-netns(8), whose private mounts would hide the containers' namespaces from the next daemon.
    const inside = [`--net=/run/netns/${this.#netns}`, dockerd, ...args];
    this.#child =
      this.#netns === ''
        ? new Child(dockerd, args, { name: 'dockerd' })
        : new Child('nsenter', inside, { name: 'dockerd' });
    const child = this.#child;
    await until(
      'dockerd to answer',
      async () => {
        if (child.exit) throw new Error(`dockerd ended (${child.exit})\n${child.tail()}`);
        return (await this.tryDocker('version')).code === 0;
      },
      PATIENCE_MS,
      () => child.tail(),
    );
  }

  /** Kill -9. Its containers stay with their shims. */
  async kill(): Promise<void> {
    await this.#child?.stop('SIGKILL');
    // Files that a kill leaves. Where nobody reaps orphans, the pids in them look as if they were alive.
    for (const file of ['pid', 'exec/containerd/containerd.pid']) rmSync(join(this.folder, file), { force: true });
  }

  tail(): string {
    return this.#child?.tail() ?? '';
  }

  get env(): Record<string, string> {
    return { DOCKER_HOST: `unix://${this.socket}`, DOCKER_BUILDKIT: '0', DOCKER_CONFIG: join(this.folder, 'config') };
  }

  /** Any exit code. */
  tryDocker(...args: string[]): Promise<RunResult> {
    return run(which('docker')!, args, { env: this.env, timeoutMs: 2 * PATIENCE_MS });
  }

  /** @returns what it printed. @throws Error with what it said. */
  docker(...args: string[]): Promise<string> {
    return runOk(which('docker')!, args, { env: this.env, timeoutMs: 4 * PATIENCE_MS });
  }

  /** A JSON document that `docker inspect` and its kind print. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it
  async inspect(...args: string[]): Promise<any> {
    return JSON.parse(await this.docker(...args))[0];
  }

  /** Makes the image `name` of a folder's files. */
  async importFolder(folder: string, name: string, ...changes: string[]): Promise<void> {
    const archive = join(this.folder, `${name}.tar`);
    await runOk('tar', ['-C', folder, '-cf', archive, '.'], { timeoutMs: PATIENCE_MS });
    await this.docker('import', ...changes.flatMap((change) => ['--change', change]), archive, name);
    await runOk('rm', [archive]);
  }

  async importBusybox(): Promise<void> {
    const root = join(this.folder, 'busybox');
    mkdirSync(join(root, 'bin'), { recursive: true });
    copyFileSync(BUSYBOX!, join(root, 'bin/busybox'));
    for (const applet of APPLETS) symlinkSync('busybox', join(root, 'bin', applet));
    await this.importFolder(root, 'busybox', 'ENV PATH=/bin');
  }

  /** Ends all containers and the daemon, and takes its folder away. */
  async close(): Promise<void> {
    try {
      if (this.#child && !this.#child.exit) {
        const ids = (await this.tryDocker('ps', '-aq')).stdout.split('\n').filter(Boolean);
        if (ids.length > 0) await this.tryDocker('rm', '--force', ...ids);
      }
    } finally {
      await this.#child?.stop('SIGTERM', 20_000);
      this.#endShims();
      this.#unmount();
      removeScratchDir(this.folder);
    }
  }

  /** Shims of containers that a killed daemon never got back; they name our folder. */
  #endShims(): void {
    for (const line of execFileSync('ps', ['-eo', 'pid=,args='], { encoding: 'utf8' }).split('\n')) {
      const [, pid, args = ''] = /^\s*(\d+) (.*)$/.exec(line) ?? [];
      if (!pid || !args.includes('containerd-shim') || !args.includes(`${this.folder}/`)) continue;
      try {
        process.kill(Number(pid), 'SIGKILL');
      } catch {
        // It ended by itself.
      }
    }
  }

  #unmount(): void {
    const mounts = readFileSync('/proc/mounts', 'utf8').split('\n');
    const ours = mounts.map((line) => line.split(' ')[1] ?? '').filter((path) => path.startsWith(`${this.folder}/`));
    for (const path of ours.reverse()) {
      try {
        execFileSync('umount', ['--lazy', path], { stdio: 'ignore' });
      } catch {
        // Its shim took it away.
      }
    }
  }
}
