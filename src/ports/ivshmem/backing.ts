/**
 * The shared object behind a pool: a sealed memfd, or a file that guests with `ivshmem-plain` open by its path.
 *
 * A memfd is sealed against a change of its size: no peer can take memory away. A file cannot be; workers survive that
 * (SIGBUS guard), and the port says so. A file is locked while it is in use and removed with its pool. What a switch that
 * was killed left behind is used again, in place, so that guests which have it mapped find the new pool in it.
 */
import {
  chownSync,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  openSync,
  type Stats,
  statfsSync,
  unlinkSync,
} from 'node:fs';
import { dirname } from 'node:path';
import {
  close,
  EAGAIN,
  errnoName,
  faultWord,
  fileSize,
  lockFile,
  map,
  memfd,
  release,
  truncate,
} from '#contract/os.ts';
import type { SocketOwner } from '../options.ts';

/** statfs(2). */
const HUGETLBFS_MAGIC = 0x958458f6;
const PAGE = 4096;
const DEFAULT_MODE = 0o600;

export interface FileSettings {
  readonly path: string;
  /** Permission bits; undefined: for the switch's user only. */
  readonly mode: number | undefined;
  readonly owner: SocketOwner | undefined;
}

export interface Backing {
  readonly fd: number;
  readonly size: number;
  /** Where it lies, as shown: `memfd`, or the file's path. */
  readonly where: string;
  /** Bytes that it has at the moment: a peer may have truncated a file. */
  present(): number;
  /** Gives a truncated file its bytes back. @throws Error when there is no room. */
  restore(): void;
  /** Closes it, and removes the file. */
  close(): void;
}

/** A new memfd that nobody can shrink or let grow. @throws OsError */
export function memoryBacking(name: string, size: number): Backing {
  // Longest name of a memfd: 249 bytes (memfd_create(2)).
  const fd = memfd(`ringway-${name}`.slice(0, 64), size, { seal: true });
  return { fd, size, where: 'memfd', present: () => size, restore: () => undefined, close: () => void close(fd) };
}

/**
 * A file of `size` bytes, all of which the file system has set aside.
 * @param ours says whether an existing file's first bytes are those of a pool. @throws Error that names the fix.
 */
export function fileBacking(settings: FileSettings, size: number, ours: (start: ArrayBuffer) => boolean): Backing {
  const { path } = settings;
  const page = pageSize(path);
  if (size % page !== 0)
    throw new Error(
      `option size is ${size}; the pages of ${dirname(path)} have ${page} bytes: give a multiple of them`,
    );
  reuseOrRemove(path, size, ours);
  const { fd, lock } = openLocked(path);
  const { ino: inode } = fstatSync(fd);
  const backing: Backing = {
    fd,
    size,
    where: path,
    present: () => fileSize(fd),
    restore: () => {
      if (fileSize(fd) !== size) truncate(fd, size);
      reserve(fd, size, page, path);
    },
    close: () => {
      // The lock lasts until the file has gone: nobody can take it over in between.
      if (lstatSync(path, { throwIfNoEntry: false })?.ino === inode) unlinkSync(path);
      close(fd);
      close(lock);
    },
  };
  try {
    setAccess(fd, settings);
    backing.restore();
  } catch (error) {
    backing.close();
    throw error;
  }
  return backing;
}

function pageSize(path: string): number {
  const folder = dirname(path);
  try {
    const { type, bsize } = statfsSync(folder);
    return type === HUGETLBFS_MAGIC ? bsize : PAGE;
  } catch (error) {
    throw new Error(`option backing-path: ${(error as Error).message}; make the folder, or choose another path`);
  }
}

/** Removes a pool's file of another size. @throws Error when the path holds anything that no switch left behind. */
function reuseOrRemove(path: string, size: number, ours: (start: ArrayBuffer) => boolean): void {
  const about = lstatSync(path, { throwIfNoEntry: false });
  if (!about) return;
  const refusal = `option backing-path: ${path} exists and is no pool of a switch; remove it or choose another path`;
  if (!about.isFile()) throw new Error(refusal);
  if (about.size !== 0 && !startsAsPool(path, about, ours)) throw new Error(refusal);
  if (about.size === size) return;
  // Guests may have the old file mapped: it goes by name only.
  close(lockOf(path));
  unlinkSync(path);
}

function startsAsPool(path: string, about: Stats, ours: (start: ArrayBuffer) => boolean): boolean {
  if (about.size < PAGE) return false;
  const fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  let start: ArrayBuffer | undefined;
  try {
    // hugetlbfs has no read(2).
    start = map(fd, 0, PAGE, { write: true, owner: 0 });
    return ours(start);
  } finally {
    if (start) release(start);
    closeSync(fd);
  }
}

/**
 * The file, and its lock: another open file, since clients are given the first, and a lock lasts until all descriptors of its
 * open file are closed (flock(2)). A virtual machine may keep them for longer than the switch lives.
 */
function openLocked(path: string): { fd: number; lock: number } {
  // lockFile would follow a link that somebody put there.
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = constants;
  let fd: number;
  try {
    fd = openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW, DEFAULT_MODE);
  } catch (error) {
    throw new Error(`option backing-path: ${(error as Error).message}; choose another path`);
  }
  try {
    return { fd, lock: lockOf(`/proc/self/fd/${fd}`, path) };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function lockOf(path: string, name = path): number {
  const fd = lockFile(path);
  if (fd === -EAGAIN) throw new Error(`option backing-path: another switch uses ${name}; choose another path`);
  if (fd < 0) throw new Error(`option backing-path: ${name} cannot be locked (${errnoName(fd)}); choose another path`);
  return fd;
}

function setAccess(fd: number, { mode, owner }: FileSettings): void {
  fchmodSync(fd, mode ?? DEFAULT_MODE);
  if (!owner) return;
  const { uid, gid } = owner;
  try {
    chownSync(`/proc/self/fd/${fd}`, uid < 0 ? process.getuid!() : uid, gid < 0 ? process.getgid!() : gid);
  } catch (error) {
    throw new Error(`option backing-owner: ${(error as Error).message}`);
  }
}

/** Touches every page: where the file system is full that fails here, and not in a guest. */
function reserve(fd: number, size: number, page: number, path: string): void {
  const buffer = map(fd, 0, size, { write: true, owner: 0 });
  const bytes = new Uint8Array(buffer);
  const before = faultWord[0];
  for (let at = 0; at < size; at += page) {
    bytes[at] = bytes[at]!;
    if (faultWord[0] !== before) break;
  }
  const full = faultWord[0] !== before;
  release(buffer);
  if (full)
    throw new Error(
      `option backing-path: ${dirname(path)} has no room for ${size} bytes; make room, or give a smaller size`,
    );
}
