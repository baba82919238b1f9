import { spawnSync } from 'node:child_process';
import {
  closeSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { fileSize, map, release, SEAL_GROW, SEAL_SHRINK, seals } from '#contract/os.ts';
import { type Backing, type FileSettings, fileBacking, memoryBacking } from '#ports/ivshmem/backing.ts';
import { scratchDir } from '../../support/process.ts';

const dir = scratchDir('rwback');
const SIZE = 1 << 20;
const descriptors = (): number => readdirSync('/proc/self/fd').length;
const file = (name: string, more: Partial<FileSettings> = {}): FileSettings => ({
  path: join(dir, name),
  mode: undefined,
  owner: undefined,
  ...more,
});
/** A pool's file begins with 7 here. */
const ours = (start: ArrayBuffer): boolean => new Uint8Array(start)[0] === 7;
const open = (name: string, size = SIZE, more: Partial<FileSettings> = {}): Backing =>
  fileBacking(file(name, more), size, ours);
const mark = (backing: Backing): void => {
  const bytes = map(backing.fd, 0, 4096, { write: true, owner: 0 });
  new Uint8Array(bytes)[0] = 7;
  release(bytes);
};

test.serial('a memfd cannot be shrunk or grown', (t) => {
  const backing = memoryBacking('br0', SIZE);
  t.is(fileSize(backing.fd), SIZE);
  t.is(seals(backing.fd) & (SEAL_SHRINK | SEAL_GROW), SEAL_SHRINK | SEAL_GROW);
  t.throws(() => truncateSync(`/proc/self/fd/${backing.fd}`, 4096), { code: 'EPERM' });
  t.is(backing.where, 'memfd');
  backing.close();
});

test.serial('a file has its size, its mode and its room from the start, and goes with its pool', (t) => {
  const before = descriptors();
  const backing = open('a');
  const about = statSync(join(dir, 'a'));
  t.is(about.mode & 0o777, 0o600);
  t.is(about.size, SIZE);
  t.true(about.blocks * 512 >= SIZE);
  backing.close();
  t.throws(() => statSync(join(dir, 'a')), { code: 'ENOENT' });
  const shared = open('b', SIZE, { mode: 0o666, owner: { uid: -1, gid: process.getgid!() } });
  t.is(statSync(join(dir, 'b')).mode & 0o777, 0o666);
  shared.close();
  t.is(descriptors(), before);
});

test.serial('what a killed switch left behind is used again in place, or replaced where the size is another', (t) => {
  const path = join(dir, 'left');
  const leave = (size: number): number => {
    const bytes = Buffer.alloc(size);
    bytes[0] = 7;
    writeFileSync(path, bytes);
    return statSync(path).ino;
  };
  const inode = leave(SIZE);
  const again = open('left');
  t.is(statSync(path).ino, inode);
  again.close();
  leave(2 * SIZE);
  // A guest of before keeps what it has open.
  const guest = openSync(path, 'r+');
  const fresh = open('left');
  t.is(statSync(path).size, SIZE);
  t.is(fstatSync(guest).size, 2 * SIZE);
  fresh.close();
  closeSync(guest);
});

/** A file system of its own, where this user may mount one. */
const mounted = (type: string, options: string): string | undefined => {
  const at = scratchDir('rwmnt');
  const { status } = spawnSync('mount', ['-t', type, '-o', options, type, at]);
  return status === 0 ? at : undefined;
};

for (const [type, options, size] of [
  ['tmpfs', 'size=512k', SIZE],
  ['hugetlbfs', 'pagesize=2M,size=2M', 4 * SIZE],
] as const) {
  const at = mounted(type, options);
  const maybe = at === undefined ? test.serial.skip : test.serial;
  maybe(`a ${type} without room is found out when the port is made (needs the right to mount)`, (t) => {
    try {
      const settings = { path: join(at!, 'pool'), mode: undefined, owner: undefined };
      t.throws(() => fileBacking(settings, size, ours), {
        message: /^option backing-path: .* has no room for \d+ bytes; make room, or give a smaller size$/,
      });
      t.deepEqual(readdirSync(at!), []);
      if (type === 'hugetlbfs')
        t.throws(() => fileBacking(settings, SIZE, ours), { message: /the pages of .* have 2097152 bytes/ });
    } finally {
      spawnSync('umount', [at!]);
    }
  });
}

test.serial('a file that is no pool, a link, a folder and a file in use are left alone', (t) => {
  const before = descriptors();
  writeFileSync(join(dir, 'mine'), Buffer.alloc(8192, 1));
  writeFileSync(join(dir, 'short'), 'x');
  symlinkSync(join(dir, 'mine'), join(dir, 'link'));
  symlinkSync(join(dir, 'nowhere'), join(dir, 'dangling'));
  for (const name of ['mine', 'short', 'link', 'dangling', '.']) {
    t.throws(() => open(name), { message: /^option backing-path: .* exists and is no pool of a switch; remove it or/ });
  }
  t.is(readFileSync(join(dir, 'mine'))[8191], 1);
  const used = open('used');
  mark(used);
  t.throws(() => open('used'), { message: /another switch uses .*used; choose another path$/ });
  t.throws(() => open('used', 2 * SIZE), { message: /another switch uses/ });
  t.is(statSync(join(dir, 'used')).size, SIZE);
  used.close();
  t.throws(() => open('no/such'), {
    message: /^option backing-path: .*ENOENT.* make the folder, or choose another path$/,
  });
  t.throws(() => open('odd', SIZE + 1), { message: /^option size is 1048577; the pages of .* have 4096 bytes/ });
  t.throws(() => open('owned', SIZE, { path: '/proc/owned' }), { message: /^option backing-path: / });
  t.is(descriptors(), before);
});
