/**
 * A Linux guest under QEMU, with network cards (vhost-user, or QEMU's own back end on a tap) and ivshmem devices, driven
 * line by line through its serial console.
 *
 * The processor is emulated (TCG), so this runs anywhere. QEMU 7.2 crashes there with vhost-user and MSI-X: the cards have
 * no vectors. Options: QEMU's "System Emulation" manual, `-device virtio-net-pci,help`.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PATIENCE_MS } from './datapath.ts';
import { GuestShell } from './guest-shell.ts';
import { type Additions, findBusybox, findKernel, initramfs } from './initramfs.ts';
import { Child, which } from './process.ts';

const QEMU = 'qemu-system-x86_64';
const MEMORY_MB = 256;
// An emulated timer comes late on a busy machine, which the kernel would take for a broken one and stop.
const COMMAND_LINE =
  'console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off tsc=reliable random.trust_cpu=on no_timer_check';

export interface Card {
  mac: string;
  /** Path of the vhost-user socket. */
  socket: string;
  /** Who listens: QEMU (`server`), or the switch, to which QEMU connects again every second. */
  role: 'client' | 'server';
  /** Further options of virtio-net-pci. */
  device?: string;
  /** Queue pairs; one without. The guest's driver uses as many as it is told to (ethtool -L). */
  queues?: number;
}

/** A card whose back end is QEMU itself: it reads and writes the frames of a tap. */
export interface TapCard {
  mac: string;
  /** Name of the tap, which is there already. */
  tap: string;
}

export interface GuestOptions {
  /** Cards beside those of vhost-user, after them in {@link QemuGuest.interfaces}. */
  taps?: readonly TapCard[];
  /** Command that QEMU is run by, such as `ip netns exec`. It must become QEMU, not start it. */
  under?: readonly string[];
  /** Further arguments of QEMU. */
  more?: readonly string[];
  /** The cards of vhost-user are behind an IOMMU; further words of the kernel's command line about it. */
  vIommu?: string;
}

/** A memory that guest and switch share (QEMU, docs/system/devices/ivshmem.rst). */
export type Ivshmem =
  | {
      kind: 'doorbell';
      /** Path of the server's socket. */
      socket: string;
      vectors: number;
    }
  | {
      kind: 'plain';
      /** The backing file. */
      file: string;
      bytes: number;
    };

/** Why guests cannot run here, or undefined. */
export function qemuUnavailable(): string | undefined {
  if (process.arch !== 'x64') return 'not an x86-64 machine';
  if (!which(QEMU)) return `no ${QEMU}`;
  if (!findKernel()) return 'no readable /boot/vmlinuz-*-cloud-amd64 with its modules';
  if (!findBusybox()) return 'no static busybox';
  return undefined;
}

/** Writes the initramfs for {@link QemuGuest.start} into `dir`. @returns its path. */
export function writeInitramfs(dir: string, additions: Additions = {}): string {
  const path = join(dir, 'initramfs');
  writeFileSync(path, initramfs(findKernel()!, findBusybox()!, additions));
  return path;
}

function ivshmemArguments(devices: readonly Ivshmem[]): string[] {
  return devices.flatMap((device, i) =>
    device.kind === 'doorbell'
      ? [
          ...['-chardev', `socket,id=iv${i},path=${device.socket}`],
          ...['-device', `ivshmem-doorbell,chardev=iv${i},vectors=${device.vectors}`],
        ]
      : [
          ...['-object', `memory-backend-file,id=iv${i},share=on,mem-path=${device.file},size=${device.bytes}`],
          ...['-device', `ivshmem-plain,memdev=iv${i}`],
        ],
  );
}

export class QemuGuest extends GuestShell {
  readonly child: Child;
  /** Interface of each card, in the order of the cards. */
  interfaces: string[] = [];

  private constructor(
    name: string,
    archive: string,
    cards: readonly Card[],
    ivshmem: readonly Ivshmem[],
    { taps = [], under = [], more = [], vIommu }: GuestOptions,
  ) {
    super();
    // A program gets a device's interrupts through vfio, which wants an IOMMU; its interrupts are remapped outside of the
    // kernel's own interrupt controller only.
    const iommu = ivshmem.length > 0 || vIommu !== undefined;
    const args = [
      ...['-name', 'guest,debug-threads=on'],
      ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
      ...['-accel', 'tcg,thread=multi', '-cpu', 'qemu64', '-smp', '1', '-m', `${MEMORY_MB}`],
      ...['-object', `memory-backend-memfd,id=mem,size=${MEMORY_MB}M,share=on`],
      ...['-machine', `q35,memory-backend=mem${iommu ? ',kernel-irqchip=split' : ''}`],
      ...(iommu
        ? ['-device', `intel-iommu,intremap=on,${vIommu === undefined ? 'caching-mode' : 'device-iotlb'}=on`]
        : []),
      ...['-kernel', findKernel()!.image, '-initrd', archive],
      ...['-append', `${COMMAND_LINE}${iommu ? ` intel_iommu=on ${vIommu ?? ''}` : ''}`],
      ...ivshmemArguments(ivshmem),
      ...more,
    ];
    for (const [i, { mac, socket, role, device, queues = 1 }] of cards.entries()) {
      const link = role === 'server' ? 'server=on,wait=off' : 'reconnect=1';
      args.push('-chardev', `socket,id=c${i},path=${socket},${link}`);
      args.push('-netdev', `vhost-user,id=n${i},chardev=c${i},vhostforce=on,queues=${queues}`);
      const options = `netdev=n${i},mac=${mac},vectors=0,romfile=${queues > 1 ? ',mq=on' : ''}`;
      // Address translation services are a matter of PCI Express: behind a port of the root complex.
      if (vIommu !== undefined) args.push('-device', `pcie-root-port,id=rp${i},chassis=${i + 1},slot=${i + 1}`);
      const behind = vIommu === undefined ? '' : `,bus=rp${i},iommu_platform=on,ats=on,disable-legacy=on`;
      args.push('-device', `virtio-net-pci,${options}${behind}${device ? `,${device}` : ''}`);
    }
    for (const [i, { mac, tap }] of taps.entries()) {
      args.push('-netdev', `tap,id=t${i},ifname=${tap},script=no,downscript=no,vhost=off`);
      args.push('-device', `virtio-net-pci,netdev=t${i},mac=${mac},vectors=0,romfile=`);
    }
    const [file, ...rest] = [...under, QEMU, ...args];
    this.child = new Child(file!, rest, { name });
  }

  /** Boots a guest; resolves when its shell takes commands. */
  static async start(
    name: string,
    archive: string,
    cards: readonly Card[],
    ivshmem: readonly Ivshmem[] = [],
    options: GuestOptions = {},
  ): Promise<QemuGuest> {
    const guest = new QemuGuest(name, archive, cards, ivshmem, options);
    try {
      await guest.child.waitFor(/#ready#/, `${name} to boot`, 2 * PATIENCE_MS);
      const all = [...cards, ...(options.taps ?? [])];
      const found = all.length > 0 ? await guest.run('cd /sys/class/net && grep . */address /dev/null') : '';
      guest.interfaces = all.map(({ mac }) => new RegExp(`^(eth\\d+)/address:${mac}$`, 'm').exec(found)?.[1] ?? '');
      if (guest.interfaces.includes('')) throw new Error(`${name} lacks a card; it has\n${found}`);
      return guest;
    } catch (error) {
      await guest.stop();
      throw error;
    }
  }

  /**
   * An empty QEMU that `guest` may move to: the same machine with cards of its own. It listens at `uri`, or with `defer` when
   * it is told where. @param more further arguments of QEMU.
   */
  static toReceive(
    guest: QemuGuest,
    archive: string,
    cards: readonly Card[],
    uri: string,
    more: readonly string[] = [],
  ): QemuGuest {
    const options = { more: ['-incoming', uri, ...more] };
    const receiver = new QemuGuest(`${guest.child.name} moved`, archive, cards, [], options);
    receiver.interfaces = guest.interfaces;
    return receiver;
  }

  /** Bits of the virtio features that the guest's driver and the switch agreed on for card `i`. */
  async features(i: number): Promise<Set<number>> {
    const text = (await this.run(`cat /sys/class/net/${this.interfaces[i]}/device/features`)).trim();
    return new Set([...text].flatMap((bit, number) => (bit === '1' ? [number] : [])));
  }

  async stop(): Promise<void> {
    await this.child.stop('SIGKILL');
  }
}
