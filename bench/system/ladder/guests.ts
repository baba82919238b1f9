/**
 * Two Linux guests with a card or device for every rung of the ladder, and the switch that joins them.
 *
 * Guests' processors share one core of the host, in which the receiver's goes first: it takes frames when they come, and the
 * sender has what is left. As equals they would take long turns, and most frames would find the receiver's ring full. The
 * other core is for what carries the frames: the switch's PMD or, where QEMU carries them, the main threads of both QEMUs.
 * Those only pass on interrupts when the switch carries, which KVM does without them, and then run beside their guests.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findKernel, hasVfio, VFIO_MODULES } from '../../../test/support/initramfs.ts';
import { buildExamples, exampleCompiler } from '../../../test/support/ivshmem-examples.ts';
import { NetnsLab } from '../../../test/support/netns.ts';
import { removeScratchDir, runOk, scratchDir, until } from '../../../test/support/process.ts';
import { QemuGuest, qemuUnavailable, writeInitramfs } from '../../../test/support/qemu.ts';
import { RingwayPeer, ringwayUnavailable } from '../ringway-peer.ts';
import { GUEST_CORE, PMD_CORE } from '../switches.ts';

const SOURCE = fileURLToPath(new URL('frames.c', import.meta.url));
const DEVICES = '/sys/bus/pci/devices';
const BOOT_MS = 120_000;
/** nice(2): at the full distance from -20, the one gets a hundredth of the time that the other has. */
const PRIORITY_STEP = 20;
const VHOST = 0;
const TAP = 1;

const mac = (guest: string, card: number): string => `52:54:00:00:0${guest}:0${card}`;

/** Why the guests cannot run here, or undefined. */
export const guestsUnavailable = (): string | undefined =>
  ringwayUnavailable() ?? qemuUnavailable() ?? (exampleCompiler() ? undefined : 'no C compiler or make');

/** How a guest's programs name their end of each way between the guests. */
export interface Ends {
  tap: string;
  vhost: string;
  shared: string;
  copy: string;
}

export class Guests {
  readonly #dir = scratchDir('bl');
  readonly #lab = new NetnsLab();
  readonly peer = new RingwayPeer();
  /** The sender, and the receiver. */
  a!: QemuGuest;
  b!: QemuGuest;
  from!: Ends;
  to!: Ends;
  /** Addresses of the receiver's cards. */
  readonly macs = { tap: mac('b', TAP), vhost: mac('b', VHOST) };

  /** Starts everything; what there is by then ends with `close`, also when this fails. */
  async open(taps: boolean): Promise<void> {
    const { rwi, echo } = await buildExamples();
    const frames = join(this.#dir, 'frames');
    await runOk('cc', ['-O2', '-std=c11', '-static', '-o', frames, SOURCE], { timeoutMs: 60_000 });
    const programs = { rwi, 'rwi-echo': echo, frames };
    const archive = writeInitramfs(this.#dir, { modules: VFIO_MODULES, programs });
    if (taps) await this.#bridge();
    await this.peer.start({ pmdCore: PMD_CORE, mainCore: GUEST_CORE });
    for (const guest of ['a', 'b']) await this.#ports(guest);
    const flows = ['v', 's', 'c'].flatMap((way) =>
      [`${way}a`, `${way}b`].map((port, i, both) => `in_port=${port},actions=output:${both[1 - i]}`),
    );
    await this.peer.setFlows(flows);
    const booting = [this.#boot('a', archive, taps), this.#boot('b', archive, taps)] as const;
    const [a, b] = await Promise.allSettled(booting);
    if (a.status === 'fulfilled') this.a = a.value;
    if (b.status === 'fulfilled') this.b = b.value;
    await Promise.all(booting);
    this.from = await this.#ends(this.a);
    this.to = await this.#ends(this.b);
    await placeProcessor(this.a, PRIORITY_STEP);
    await placeProcessor(this.b, 0);
  }

  async close(): Promise<void> {
    await Promise.all([this.a?.stop(), this.b?.stop()]);
    await this.peer.stop();
    await this.#lab.close();
    removeScratchDir(this.#dir);
  }

  #socket(port: string): string {
    return join(this.#dir, `${port}.sock`);
  }

  /** A kernel bridge with two taps, in a namespace of its own. */
  async #bridge(): Promise<void> {
    await this.#lab.add('l');
    await this.#lab.ip('l', 'link', 'add', 'br0', 'type', 'bridge');
    for (const tap of ['ta', 'tb']) {
      await this.#lab.ip('l', 'tuntap', 'add', 'dev', tap, 'mode', 'tap', 'vnet_hdr');
      await this.#lab.ip('l', 'link', 'set', tap, 'master', 'br0', 'up');
    }
    await this.#lab.ip('l', 'link', 'set', 'br0', 'up');
  }

  async #ports(guest: string): Promise<void> {
    const add = (port: string, ...settings: string[]) =>
      this.peer.vsctl('add-port', 'br0', port, '--', 'set', 'Interface', port, ...settings);
    await add(`v${guest}`, 'type=dpdkvhostuserclient', `options:vhost-server-path=${this.#socket(`v${guest}`)}`);
    const pool = (port: string) => ['type=ivshmem', `options:path=${this.#socket(port)}`, 'options:size=64M'];
    await add(`s${guest}`, ...pool(`s${guest}`));
    await add(`c${guest}`, ...pool(`c${guest}`), 'options:isolation=copy');
  }

  #boot(name: string, archive: string, taps: boolean): Promise<QemuGuest> {
    const device = (port: string) => ({ kind: 'doorbell' as const, socket: this.#socket(port), vectors: 1 });
    return QemuGuest.start(
      `guest ${name}`,
      archive,
      [{ mac: mac(name, VHOST), socket: this.#socket(`v${name}`), role: 'server' }],
      [device(`s${name}`), device(`c${name}`)],
      taps ? { taps: [{ mac: mac(name, TAP), tap: `t${name}` }], under: this.#lab.under('l') } : {},
    );
  }

  async #ends(guest: QemuGuest): Promise<Ends> {
    for (const name of guest.interfaces) await guest.run(`ip link set ${name} up`);
    const found = await guest.run(`grep -l 0x1110 ${DEVICES}/*/device`);
    const places: Record<string, string> = {};
    for (const [, address] of found.matchAll(/devices\/(\S+)\/device/g)) {
      if (hasVfio(findKernel()!)) {
        await guest.run(`echo vfio-pci >${DEVICES}/${address}/driver_override`);
        await guest.run(`echo ${address} >/sys/bus/pci/drivers/vfio-pci/bind`);
      }
      const port = /port "(\w)\w"/.exec(await guest.run(`rwi info pci:${address}`))![1]!;
      places[port] = `pci:${address}`;
    }
    return {
      tap: guest.interfaces[TAP] ?? '',
      vhost: guest.interfaces[VHOST]!,
      shared: places['s']!,
      copy: places['c']!,
    };
  }

  /** Says who carries the next packets: the main threads of QEMU, or the switch. */
  async carriedBy(who: 'qemu' | 'switch'): Promise<void> {
    for (const { child } of [this.a, this.b]) await place(child.pid, who === 'qemu' ? PMD_CORE : GUEST_CORE);
  }

  /** Seconds that the main threads of both QEMUs have run; packets of a tap are their work. */
  carrierSeconds(): number {
    return [this.a, this.b].reduce((sum, { child: { pid } }) => {
      // Linux, Documentation/scheduler/sched-stats.rst: nanoseconds on a CPU come first.
      const ran = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8');
      return sum + Number(ran.split(' ')[0]) / 1e9;
    }, 0);
  }

  async linkUp(port: string): Promise<void> {
    const check = async () => (await this.peer.vsctl('get', 'Interface', port, 'link_state')).trim() === 'up';
    await until(`the link of ${port}`, check, BOOT_MS);
  }

  async statistic(port: string, name: string): Promise<number> {
    return Number(await this.peer.vsctl('get', 'Interface', port, `statistics:${name}`));
  }
}

const place = (thread: number, core: number): Promise<string> =>
  runOk('taskset', ['-p', '-c', String(core), String(thread)]);

/** Holds a guest's processor to one core, that much nicer than this process. */
async function placeProcessor({ child: { pid } }: QemuGuest, nicer: number): Promise<void> {
  for (const thread of readdirSync(`/proc/${pid}/task`).map(Number)) {
    if (!readFileSync(`/proc/${pid}/task/${thread}/comm`, 'utf8').startsWith('CPU ')) continue;
    await place(thread, GUEST_CORE);
    setPriority(thread, Math.min(19, getPriority() + nicer));
  }
}
