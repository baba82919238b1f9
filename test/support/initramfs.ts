/**
 * An initramfs for a Linux guest, made of what is installed: a static busybox and a few modules of the kernel.
 *
 * The archive is cpio's "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst): for every entry a header
 * of 6 magic bytes and 13 fields of 8 hexadecimal digits, name and contents, each padded to 4 bytes.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { which } from './process.ts';

interface Entry {
  name: string;
  mode: number;
  data?: Uint8Array;
  /** Major and minor number of a device node. */
  device?: [number, number];
}

const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;
const CHARACTER = 0o020600;

/** Packs entries into a newc archive. */
export function newc(entries: readonly Entry[]): Buffer {
  const parts: Buffer[] = [];
  const pad = (bytes: number): void => void parts.push(Buffer.alloc(-bytes & 3));
  for (const [i, entry] of [...entries, { name: 'TRAILER!!!', mode: 0 } as Entry].entries()) {
    const data = entry.data ?? new Uint8Array(0);
    const name = Buffer.from(`${entry.name}\0`);
    const [major, minor] = entry.device ?? [0, 0];
    const fields = [i + 1, entry.mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0];
    const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
    parts.push(header, name);
    pad(header.length + name.length);
    parts.push(Buffer.from(data));
    pad(data.length);
  }
  return Buffer.concat(parts);
}

/** In the order in which they must be loaded; those that a kernel has built in are not there as files. */
const MODULES = [
  'virtio_ring',
  'virtio',
  'virtio_pci_legacy_dev',
  'virtio_pci_modern_dev',
  'virtio_pci',
  'failover',
  'net_failover',
  'virtio_net',
];

/** For programs that drive a PCI device themselves: with those that they need, in that order. */
export const VFIO_MODULES: readonly string[] = [
  'vfio',
  'vfio_iommu_type1',
  'irqbypass',
  'vfio_virqfd',
  'vfio-pci-core',
  'vfio-pci',
];

/** What a guest's initramfs holds beside busybox and the drivers of virtio. */
export interface Additions {
  /** Further modules, in the order in which they must be loaded. */
  modules?: readonly string[];
  /** Programs: name in /bin → file here. Libraries that they need come along. */
  programs?: Readonly<Record<string, string>>;
}

/** Mounts what commands need, loads the modules, and runs every line of the console. */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
stty -echo -onlcr
for module in $(cat /modules/order); do insmod /modules/$module; done
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
for conf in all default; do echo 0 >/proc/sys/net/ipv6/conf/$conf/accept_dad; done
ip link set lo up
echo '#ready#'
while read -r line; do
  eval "$line"
  echo "#ended $?#"
done
poweroff -f
`;

export interface Kernel {
  image: string;
  version: string;
  /** Folder of its modules; by default where depmod(8) looks for them. */
  modules?: string;
}

const readable = (path: string): boolean => {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
};

/** The newest installed cloud kernel of Debian that can be read, with its modules. */
export function findKernel(): Kernel | undefined {
  if (!existsSync('/boot')) return undefined;
  return readdirSync('/boot')
    .map((name) => /^vmlinuz-(.*-cloud-amd64)$/.exec(name)?.[1])
    .filter((version) => version !== undefined)
    .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
    .map((version) => ({ image: `/boot/vmlinuz-${version}`, version }))
    .find(({ image, version }) => readable(image) && existsSync(`/lib/modules/${version}/kernel`));
}

/** A busybox that needs no library: one that names no dynamic loader. */
export function findBusybox(): string | undefined {
  const path = which('busybox');
  return path && !readFileSync(path).subarray(0, 4096).includes('ld-linux') ? path : undefined;
}

/** Modules of a kernel that are files: name → path. */
function moduleFiles(kernel: Kernel): Map<string, string> {
  const root = kernel.modules ?? join('/lib/modules', kernel.version, 'kernel');
  const files = new Map<string, string>();
  for (const folder of ['drivers/virtio', 'drivers/net', 'net/core', 'drivers/vfio', 'drivers/vfio/pci', 'virt/lib']) {
    const path = join(root, folder);
    if (!existsSync(path)) continue;
    for (const name of readdirSync(path)) files.set(name.replace(/\.ko(\.gz)?$/, ''), join(path, name));
  }
  return files;
}

/** Shared libraries that a program needs, and its loader, as ldd(1) finds them. */
function librariesOf(program: string): string[] {
  const { stdout, status } = spawnSync('ldd', [program], { encoding: 'utf8' });
  return status === 0 ? [...stdout.matchAll(/^\s*(?:\S+ => )?(\/\S+) \(0x/gm)].map(([, path]) => path!) : [];
}

/** Every folder above these paths, outer ones first, without the leading slash. */
function foldersOf(paths: readonly string[]): string[] {
  const folders = new Set<string>();
  for (const path of paths)
    for (let folder = dirname(path); folder !== '/'; folder = dirname(folder)) folders.add(folder.slice(1));
  return [...folders].sort((a, b) => a.length - b.length);
}

/** Whether the kernel lets a program in the guest drive a PCI device, interrupts included. */
export const hasVfio = (kernel: Kernel): boolean => moduleFiles(kernel).has('vfio-pci');

/** The archive for this kernel: its init runs commands from the console, see {@link INIT}. */
export function initramfs(
  kernel: Kernel,
  busybox: string,
  { modules: more = [], programs = {} }: Additions = {},
): Buffer {
  const files = moduleFiles(kernel);
  const modules = [...MODULES, ...more]
    .flatMap((module) => files.get(module) ?? [])
    .map((path) => ({
      name: `modules/${basename(path, '.gz')}`,
      mode: 0o100644,
      data: path.endsWith('.gz') ? gunzipSync(readFileSync(path)) : readFileSync(path),
    }));
  const order = modules.map(({ name }) => basename(name)).join('\n');
  const libraries = [...new Set(Object.values(programs).flatMap(librariesOf))];
  return newc([
    ...['bin', 'dev', 'proc', 'sys', 'tmp', 'modules', ...foldersOf(libraries)].map((name) => ({
      name,
      mode: DIRECTORY,
    })),
    ...libraries.map((path) => ({ name: path.slice(1), mode: PROGRAM, data: readFileSync(path) })),
    { name: 'dev/console', mode: CHARACTER, device: [5, 1] },
    { name: 'bin/busybox', mode: PROGRAM, data: readFileSync(busybox) },
    ...Object.entries(programs).map(([name, path]) => ({
      name: `bin/${name}`,
      mode: PROGRAM,
      data: readFileSync(path),
    })),
    { name: 'init', mode: PROGRAM, data: Buffer.from(INIT) },
    { name: 'modules/order', mode: 0o100644, data: Buffer.from(order) },
    ...modules,
  ]);
}
