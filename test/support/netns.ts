/**
 * Network namespaces for tests of kernel ports: one for the switch, others as hosts, joined by veth pairs. Names hold the pid
 * of the test, and everything goes with `close`. Needs root.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { Child, type RunResult, run, runOk, until, which } from './process.ts';

const STEP_MS = 60_000;
let labs = 0;

/** Why namespaces cannot be used here; empty where they can. */
export function netnsMissing(...programs: string[]): string {
  if (process.getuid?.() !== 0) return 'needs root';
  const missing = ['ip', ...programs].filter((program) => which(program) === undefined);
  if (missing.length > 0) return `needs ${missing.join(', ')}`;
  if (!existsSync('/dev/net/tun')) return 'needs /dev/net/tun';
  const caps = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  // CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN.
  const needed = (1n << 12n) | (1n << 13n) | (1n << 21n);
  return (BigInt(`0x${caps}`) & needed) === needed ? '' : 'needs the capabilities to make network namespaces';
}

/** Whether the kernel can make tunnel devices of a type. */
export function kernelMakes(type: 'vxlan' | 'geneve' | 'gre'): boolean {
  if (netnsMissing() !== '') return false;
  const key = type === 'gre' ? ['type', 'gretap', 'key', '1'] : ['type', type, 'id', '1'];
  const port = type === 'vxlan' ? ['dstport', '4789'] : [];
  const name = `rwp${process.pid}`;
  const made = spawnSync('ip', ['link', 'add', name, ...key, ...port, 'remote', '192.0.2.1']);
  if (made.status === 0) spawnSync('ip', ['link', 'delete', name]);
  return made.status === 0;
}

/** What busybox ping said. */
export interface Pings {
  readonly sent: number;
  readonly received: number;
}

export class NetnsLab {
  readonly #prefix = `rwt${process.pid}x${labs++}`;
  readonly #spaces = new Set<string>();
  readonly #children: Child[] = [];

  /** Name of a namespace, for ip-netns(8). */
  space(name: string): string {
    return `${this.#prefix}${name}`;
  }

  /** The command that runs another one in a namespace. */
  under(name: string): string[] {
    return ['ip', 'netns', 'exec', this.space(name)];
  }

  /** Makes a namespace with its loopback up. */
  async add(name: string): Promise<void> {
    this.#spaces.add(name);
    await runOk('ip', ['netns', 'add', this.space(name)]);
    await this.ip(name, 'link', 'set', 'lo', 'up');
  }

  /** ip(8) in a namespace. */
  ip(name: string, ...args: string[]): Promise<string> {
    return runOk('ip', ['-n', this.space(name), ...args], { timeoutMs: STEP_MS });
  }

  /** Any program in a namespace; its exit code must be 0. */
  exec(name: string, file: string, ...args: string[]): Promise<string> {
    return runOk('ip', ['netns', 'exec', this.space(name), file, ...args], { timeoutMs: STEP_MS });
  }

  /** The same with any exit code. */
  tryExec(name: string, file: string, ...args: string[]): Promise<RunResult> {
    return run('ip', ['netns', 'exec', this.space(name), file, ...args], { timeoutMs: STEP_MS });
  }

  /** A program that goes on running. */
  start(name: string, file: string, ...args: string[]): Child {
    const child = new Child('ip', ['netns', 'exec', this.space(name), file, ...args], { name: `${file} in ${name}` });
    this.#children.push(child);
    return child;
  }

  /** A veth pair: `near` in the namespace `inside`, up; `eth0` in namespace `host`, up with these addresses. */
  async veth(inside: string, near: string, host: string, ...addresses: string[]): Promise<void> {
    const ends = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', this.space(host)];
    await runOk('ip', ['link', 'add', near, 'netns', this.space(inside), ...ends]);
    await this.ip(inside, 'link', 'set', near, 'up');
    for (const address of addresses) {
      const nodad = address.includes(':') ? ['nodad'] : [];
      await this.ip(host, 'address', 'add', address, 'dev', 'eth0', ...nodad);
    }
    await this.ip(host, 'link', 'set', 'eth0', 'up');
  }

  /** Pings by busybox, one a second; `wait` seconds for the last answer. */
  async ping(from: string, to: string, count = 1, bytes = 56, wait = 5): Promise<Pings> {
    const six = to.includes(':') ? 'ping6' : 'ping';
    const args = ['-c', String(count), '-W', String(wait), '-s', String(bytes), to];
    const { stdout } = await this.tryExec(from, 'busybox', six, ...args);
    const found = /(\d+) packets transmitted, (\d+) packets received/.exec(stdout);
    return { sent: Number(found?.[1] ?? 0), received: Number(found?.[2] ?? 0) };
  }

  /** Resolves when a ping is answered. */
  async reaches(from: string, to: string): Promise<void> {
    await until(`${from} to reach ${to}`, async () => (await this.ping(from, to)).received === 1, STEP_MS);
  }

  /** Runs iperf3 between two namespaces. @returns what the client reports (`end` of its JSON). */
  async iperf(from: string, to: string, address: string, ...options: string[]): Promise<IperfEnd> {
    // What lies in socket buffers when the sender ends is not counted as received, and they may grow to 32 MB.
    const small = 'echo 4096 131072 1048576 | tee /proc/sys/net/ipv4/tcp_rmem > /proc/sys/net/ipv4/tcp_wmem';
    for (const name of [from, to]) await this.exec(name, 'sh', '-c', small);
    const server = this.start(to, 'iperf3', '-s', '-1', '--forceflush');
    await server.waitFor(/Server listening/, 'iperf3 to listen', STEP_MS);
    const text = await this.exec(from, 'iperf3', '-J', '-c', address, ...options);
    await server.waitExit(STEP_MS);
    return (JSON.parse(text) as { end: IperfEnd }).end;
  }

  /** A number of /proc/net/snmp in a namespace, such as `Udp`, `NoPorts`. */
  async snmp(name: string, protocol: string, counter: string): Promise<number> {
    const lines = (await this.exec(name, 'cat', '/proc/net/snmp')).split('\n');
    const [names, values] = lines.filter((line) => line.startsWith(`${protocol}:`)).map((line) => line.split(' '));
    return Number(values?.[names?.indexOf(counter) ?? -1] ?? Number.NaN);
  }

  async close(): Promise<void> {
    for (const child of this.#children) await child.stop('SIGKILL').catch(() => undefined);
    for (const name of this.#spaces) await run('ip', ['netns', 'delete', this.space(name)]).catch(() => undefined);
  }
}

export interface IperfEnd {
  readonly sum_sent: { readonly bytes: number };
  readonly sum_received: { readonly bytes: number; readonly bits_per_second: number };
  readonly sum?: { readonly packets: number; readonly lost_packets: number };
}

/** A lab for one test, torn down afterwards. */
export async function withLab(body: (lab: NetnsLab) => Promise<void>): Promise<void> {
  const lab = new NetnsLab();
  try {
    await body(lab);
  } finally {
    await lab.close();
  }
}
