/**
 * A Linux guest whose kernel is a process of this machine (user-mode Linux): no emulation, so it is as fast as the machine is.
 * Its driver virtio_uml is a vhost-user front end of its own. Driven line by line through its console, as QemuGuest is.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PATIENCE_MS } from './datapath.ts';
import { GuestShell } from './guest-shell.ts';
import { findBusybox, initramfs, type Kernel } from './initramfs.ts';
import { Child, which } from './process.ts';

const PROGRAM = 'linux.uml';
const MODULES = '/usr/lib/uml/modules';
const SHIM = fileURLToPath(new URL('uml-shim.c', import.meta.url));
/** Where a guest's memory lies, a file that the switch maps. */
const MEMORY_DIR = '/dev/shm';
const POWEROFF_MS = 5000;

/**
 * Features that a back end must not offer such a guest. Those that need a control queue (CTRL_VQ, CTRL_RX, CTRL_VLAN,
 * GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR; virtio 1.2 section 5.1.3): its driver would use one, which no back end serves. QEMU
 * serves it itself. And packed rings: virtio_uml starts them at base 0, without wrap counters, and DPDK takes that at its
 * word and finds nothing in them.
 */
export const UML_WITHOUT = 0xee_0000n | (1n << 34n);

function findUml(): Kernel | undefined {
  const image = which(PROGRAM);
  const version = existsSync(MODULES) ? readdirSync(MODULES).sort().at(-1) : undefined;
  return image && version ? { image, version, modules: join(MODULES, version, 'kernel') } : undefined;
}

/** Why such guests cannot run here, with what to install, or undefined. */
export function umlUnavailable(): string | undefined {
  if (process.arch !== 'x64') return 'not an x86-64 machine';
  if (!findUml()) return `no ${PROGRAM} with modules (Debian: user-mode-linux)`;
  if (!findBusybox()) return 'no static busybox (Debian: busybox-static)';
  const missing = ['cc', 'setarch', 'ldd'].find((program) => !which(program));
  return missing && `no ${missing} (Debian: gcc, util-linux, libc-bin)`;
}

/** What guests boot from. */
export interface UmlImage {
  readonly archive: string;
  readonly shim: string;
}

/** Writes it into `dir`; `programs`: name in /bin → file here. */
export function writeUmlImage(dir: string, programs: Readonly<Record<string, string>>): UmlImage {
  const image = { archive: join(dir, 'uml.cpio'), shim: join(dir, 'uml-shim.so') };
  writeFileSync(image.archive, initramfs(findUml()!, findBusybox()!, { programs }));
  execFileSync('cc', ['-shared', '-fPIC', '-O2', '-o', image.shim, SHIM, '-ldl']);
  return image;
}

export class UmlGuest extends GuestShell {
  readonly child: Child;
  /** Interface of each socket, in their order. */
  readonly interfaces: readonly string[];

  private constructor(name: string, { archive, shim }: UmlImage, sockets: readonly string[], under: readonly string[]) {
    super();
    const args = [
      ...['mem=192M', `initrd=${archive}`, 'rdinit=/init', 'con0=fd:0,fd:1', 'con=null', 'quiet', 'panic=-1'],
      ...sockets.map((socket) => `virtio_uml.device=${socket}:1`),
    ];
    // Without random addresses the kernel needs no memory of a gigabyte to span them.
    const [file, ...rest] = [...under, 'setarch', '-R', findUml()!.image, ...args];
    this.child = new Child(file!, rest, { name, env: { LD_PRELOAD: shim, TMPDIR: MEMORY_DIR } });
    this.interfaces = sockets.map((_, i) => `eth${i}`);
  }

  /** Boots a guest that connects to these sockets; resolves when its shell takes commands. */
  static async start(
    name: string,
    image: UmlImage,
    sockets: readonly string[],
    under: readonly string[] = [],
  ): Promise<UmlGuest> {
    const guest = new UmlGuest(name, image, sockets, under);
    try {
      await guest.child.waitFor(/#ready#/, `${name} to boot`, PATIENCE_MS);
      return guest;
    } catch (error) {
      await guest.stop();
      throw error;
    }
  }

  /** Powers off: the processes that stand for those of the guest end with it. */
  async stop(): Promise<void> {
    if (this.child.exit) return;
    this.child.write('poweroff -f\n');
    await this.child.waitExit(POWEROFF_MS).catch(() => this.child.stop('SIGTERM', POWEROFF_MS));
  }
}
