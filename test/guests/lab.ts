/**
 * Two Linux guests on a switch of their own, with a card for every kind that their rows need. Guests boot once; of a row
 * only its two cards are up, and have the addresses {@link ADDRESS}. QEMU listens on guest a's sockets, the switch on guest
 * b's, unless told otherwise.
 *
 * Each combination of cards is a VLAN, so that broadcasts stay in it. Both queues of a card are polled by different workers.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { removeScratchDir, scratchDir, which } from '../support/process.ts';
import { type Card, QemuGuest, qemuUnavailable, writeInitramfs } from '../support/qemu.ts';
import { SwitchProcess } from '../support/switch.ts';
import { deviceOf, type Kind, kindOf, nameOf, type Row } from './rows.ts';

export type Side = 'a' | 'b';
export const SIDES: readonly Side[] = ['a', 'b'];
export const other = (side: Side): Side => (side === 'a' ? 'b' : 'a');

export const ADDRESS: Readonly<Record<Side, string>> = { a: '10.9.0.1', b: '10.9.0.2' };
export const ADDRESS6: Readonly<Record<Side, string>> = { a: 'fd09::1', b: 'fd09::2' };

const PROGRAMS = ['iperf3', 'ethtool'];
const KEPT_LINES = 40;

/** Why such guests cannot run here, with what to install, or undefined. */
export function guestsUnavailable(): string | undefined {
  const reason = qemuUnavailable();
  if (reason) return `${reason} (Debian: qemu-system-x86, linux-image-cloud-amd64, busybox-static)`;
  const missing = [...PROGRAMS, 'ldd'].filter((program) => !which(program));
  return missing.length > 0 ? `no ${missing.join(', no ')} (Debian: iperf3, ethtool, libc-bin)` : undefined;
}

/** The initramfs of such guests, in `dir`. @returns its path. */
export const writeArchive = (dir: string): string =>
  writeInitramfs(dir, { programs: Object.fromEntries(PROGRAMS.map((program) => [program, which(program)!])) });

/**
 * What guests are told once. What lies in the buffers of a TCP socket when a sender ends is not counted as received, and
 * they may grow to megabytes; a UDP socket must hold what comes while its reader does not run.
 */
export const SETUP = [
  'echo 4096 131072 262144 >/proc/sys/net/ipv4/tcp_rmem',
  'echo 4096 131072 262144 >/proc/sys/net/ipv4/tcp_wmem',
  'echo 8388608 >/proc/sys/net/core/rmem_max',
  'echo 8388608 >/proc/sys/net/core/rmem_default',
  'httpd -p 80 -h /tmp',
  'iperf3 -s -D',
].join(' && ');

/** CPUs that this process may use. */
export function allowedCpus(): number[] {
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  return list.split(',').flatMap((range) => {
    const [from, to = from] = range.split('-').map(Number);
    return Array.from({ length: to! - from! + 1 }, (_, i) => from! + i);
  });
}

interface Place {
  kind: Kind;
  port: string;
}

export interface LabOptions {
  /** CPUs of the two workers; the same one twice makes one worker. */
  cpus: readonly [number, number];
  /** Who listens on each guest's sockets, seen from QEMU. */
  roles?: Record<Side, Card['role']>;
  /** Further arguments of the QEMU of each guest. */
  more?: (dir: string, side: Side) => readonly string[];
}

const ROLES: Record<Side, Card['role']> = { a: 'server', b: 'client' };

export class GuestLab {
  readonly dir = scratchDir('rwg');
  readonly guests = {} as Record<Side, QemuGuest>;
  sw!: SwitchProcess;
  readonly #places: Record<Side, Place[]> = { a: [], b: [] };
  readonly #options: LabOptions;
  readonly #roles: Record<Side, Card['role']>;
  readonly #stopped: QemuGuest[] = [];
  #archive = '';
  /** Whose cards are up. */
  #row: Row | undefined;

  private constructor(options: LabOptions) {
    this.#options = options;
    this.#roles = options.roles ?? ROLES;
  }

  /** Starts a switch and two guests with the cards that these rows need. */
  static async open(rows: readonly Row[], options: LabOptions): Promise<GuestLab> {
    const lab = new GuestLab(options);
    try {
      await lab.#open(rows);
      return lab;
    } catch (error) {
      (error as Error).message += `\n${lab.said()}`;
      await lab.close();
      throw error;
    }
  }

  async #open(rows: readonly Row[]): Promise<void> {
    this.sw = await SwitchProcess.start('--default');
    const mask = [...new Set(this.#options.cpus)].reduce((bits, cpu) => bits | (1n << BigInt(cpu)), 0n);
    await this.sw.vsctl('set', 'Open_vSwitch', '.', `other_config:pmd-cpu-mask=0x${mask.toString(16)}`);
    for (const side of SIDES) {
      const kinds = new Map(rows.map((row) => [nameOf(kindOf(row, side)), kindOf(row, side)]));
      for (const kind of kinds.values()) this.#places[side].push({ kind, port: `${side}${this.#places[side].length}` });
    }
    await this.sw.vsctl(...SIDES.flatMap((side) => this.#places[side].flatMap((place) => this.#addPort(side, place))));
    const archive = (this.#archive = writeArchive(this.dir));
    await bootAll(
      SIDES.map((side) => async () => {
        const more = this.#options.more?.(this.dir, side) ?? [];
        this.guests[side] = await QemuGuest.start(`guest ${side}`, archive, this.#cards(side), [], { more });
      }),
    );
    await Promise.all(SIDES.map((side) => this.guests[side].run(SETUP)));
  }

  /** Arguments of vsctl, to be joined by its `--`. */
  #addPort(side: Side, { kind, port }: Place): string[] {
    const tag = 1 + this.#vlans.indexOf(vlanOf(kind));
    const socket = this.sw.socket(port);
    const type =
      this.#roles[side] === 'server'
        ? ['type=dpdkvhostuserclient', `options:vhost-server-path=${socket}`]
        : ['type=vhost-user', `options:path=${socket}`];
    const settings = [
      ...type,
      `mtu_request=${kind.mtu}`,
      ...(kind.queues === '2q'
        ? [`other_config:pmd-rxq-affinity=0:${this.#options.cpus[0]},1:${this.#options.cpus[1]}`]
        : []),
    ];
    return ['--', 'add-port', 'br0', port, `tag=${tag}`, '--', 'set', 'Interface', port, ...settings];
  }

  get #vlans(): string[] {
    return [...new Set(SIDES.flatMap((side) => this.#places[side].map(({ kind }) => vlanOf(kind))))];
  }

  #cards(side: Side): Card[] {
    return this.#places[side].map(({ kind, port }, i) => ({
      mac: `52:54:00:00:0${side}:${i.toString(16).padStart(2, '0')}`,
      socket: this.sw.socket(port),
      role: this.#roles[side],
      queues: kind.queues === '2q' ? 2 : 1,
      device: deviceOf(kind),
    }));
  }

  #index(side: Side): number {
    const wanted = nameOf(kindOf(this.#row!, side));
    return this.#places[side].findIndex(({ kind }) => nameOf(kind) === wanted);
  }

  /** Of the row that is up: the guest's interface, and its port of the switch. */
  interface(side: Side): string {
    return this.guests[side].interfaces[this.#index(side)]!;
  }

  port(side: Side): string {
    return this.#places[side][this.#index(side)]!.port;
  }

  features(side: Side): Promise<Set<number>> {
    return this.guests[side].features(this.#index(side));
  }

  /** Gives the cards of a row their queues and addresses, for as long as `work` runs. */
  async withRow<T>(row: Row, work: () => Promise<T>): Promise<T> {
    this.#row = row;
    try {
      for (const side of SIDES) {
        const device = this.interface(side);
        const queues = row.queues === '2q' ? `ethtool -L ${device} combined 2 && ` : '';
        await this.guests[side].run(`${queues}ip link set ${device} up`);
        await this.guests[side].run(`ip addr add ${ADDRESS[side]}/24 dev ${device}`);
        await this.guests[side].run(`ip addr add ${ADDRESS6[side]}/64 dev ${device}`);
      }
      return await work();
    } finally {
      for (const side of SIDES) {
        const device = this.interface(side);
        if (!this.guests[side].child.exit)
          await this.guests[side].tryRun(`ip addr flush dev ${device}; ip link set ${device} down`).catch(() => {});
      }
      this.#row = undefined;
    }
  }

  /** An empty QEMU that guest `side` may move to, on ports of its own; it listens at `uri`. */
  async twin(side: Side, uri: string): Promise<QemuGuest> {
    for (const place of this.#places[side]) place.port += 'm';
    await this.sw.vsctl(...this.#places[side].flatMap((place) => this.#addPort(side, place)));
    return QemuGuest.toReceive(this.guests[side], this.#archive, this.#cards(side), uri);
  }

  /** Guest `side` lives in another QEMU from now on; the one before does no more. */
  moved(side: Side, to: QemuGuest): void {
    this.#stopped.push(this.guests[side]);
    this.guests[side] = to;
  }

  /** Counters of a port, drops included, by name. */
  async statistics(side: Side): Promise<Record<string, number>> {
    const text = await this.sw.vsctl('get', 'Interface', this.port(side), 'statistics');
    return Object.fromEntries([...text.matchAll(/(\w+)=(\d+)/g)].map(([, name, value]) => [name, Number(value)]));
  }

  /** The last words of the switch, its data plane and the guests. */
  said(): string {
    const log = this.sw ? join(this.sw.rundir, 'rw-datapathd.log') : '';
    const lines = existsSync(log) ? readFileSync(log, 'utf8').trimEnd().split('\n').slice(-KEPT_LINES) : [];
    return [
      this.sw?.child?.tail(),
      `--- rw-datapathd.log ---\n${lines.join('\n')}`,
      ...SIDES.map((side) => this.guests[side]?.child.tail()),
    ]
      .filter((text) => text)
      .join('\n');
  }

  async close(): Promise<void> {
    await Promise.all([...this.#stopped, ...SIDES.map((side) => this.guests[side])].map((guest) => guest?.stop()));
    await this.sw?.close();
    removeScratchDir(this.dir);
  }
}

const vlanOf = ({ era, ring, queues, mtu }: Kind): string => [era, ring, queues, mtu].join('-');

/** Runs all to their end, so that what one has started is known when another fails. */
export async function bootAll(boots: readonly (() => Promise<void>)[]): Promise<void> {
  const ends = await Promise.allSettled(boots.map((boot) => boot()));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}
