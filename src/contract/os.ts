/**
 * The operating system, as far as Ringway needs more of it than Node gives: descriptor passing, shared memory, event
 * descriptors, affinity, the burst copy; os/ holds its parts. Nothing else imports the native addon.
 *
 * Two kinds of function:
 * - set-up calls throw `OsError`;
 * - calls said to return "or -errno" never throw for a failing system call, and allocate nothing.
 * Arguments of a wrong type or range throw TypeError or RangeError in both.
 *
 * Everything works on the main thread and in any worker. Descriptor numbers are the process's; an ArrayBuffer made here
 * belongs to the thread that made it and cannot be transferred.
 */
import { lstatSync, unlinkSync } from 'node:fs';
import { native } from '#native';
import { checked, checkedBuffer, checkedList, OsError } from './os/result.ts';

export * from './os/kernel.ts';
export { EAGAIN, EBADF, ECONNRESET, EINTR, EPIPE, errnoName, OsError } from './os/result.ts';
export * from './os/watcher.ts';

// Sockets and descriptors

/** Longest path of a unix socket in bytes (unix(7): sun_path of 108 with its NUL). */
export const UNIX_PATH_MAX = 107;

const checkedPath = (syscall: string, path: string): string => {
  const bytes = Buffer.byteLength(path);
  if (bytes > UNIX_PATH_MAX) {
    throw new OsError(syscall, 36, `${path} (${bytes} bytes; a unix socket's path has at most ${UNIX_PATH_MAX})`);
  }
  return path;
};

/** `packets`: a sequenced-packet socket, which keeps the borders of messages (unix(7), SOCK_SEQPACKET), not a stream. */
export interface UnixSocketOptions {
  packets?: boolean;
}

/**
 * Listens at a path that must not exist; `mode` are the permission bits, else the umask's. Returns a non-blocking fd.
 * Errors: EADDRINUSE (something is there, see `unlinkIfSocket`), ENOENT, EACCES, ENAMETOOLONG.
 */
export const unixListen = (path: string, options: UnixSocketOptions & { mode?: number } = {}): number =>
  checked('listen', native.unixListen(checkedPath('listen', path), options.mode ?? -1, options.packets ?? false), path);

/**
 * Connects; the fd is non-blocking.
 * Errors: ECONNREFUSED (stale socket), ENOENT, EACCES, EAGAIN (backlog full), EPROTOTYPE (a socket of the other kind).
 */
export const unixConnect = (path: string, options: UnixSocketOptions = {}): number =>
  checked('connect', native.unixConnect(checkedPath('connect', path), options.packets ?? false), path);

/** Accepts one connection: a non-blocking fd, or -errno (-EAGAIN when none waits). */
export const accept = native.accept;

/** Two connected, non-blocking unix stream sockets. */
export const socketPair = (): [number, number] => checkedList('socketpair', native.socketPair());

/** A non-blocking pipe: read end, write end. */
export const pipe = (): [number, number] => checkedList('pipe', native.pipe());

/** Closes a descriptor: 0 or -errno. */
export const close = native.close;

/** A second descriptor of the same open file. */
export const dup = (fd: number): number => checked('dup', native.dup(fd), String(fd));

/** Who connected the unix socket (SO_PEERCRED): the process at the time of its connect(). */
export const peerCredentials = (fd: number): { pid: number; uid: number; gid: number } => {
  const [pid, uid, gid] = checkedList('getsockopt', native.peerCredentials(fd));
  return { pid, uid, gid };
};

/**
 * Receives up to `length` bytes at `buf[offset]`: bytes read, 0 at the end of the stream, or -errno (-EAGAIN: nothing there).
 * Descriptors that came along land in `fds[1..]`, their count in `fds[0]`; those that do not fit are closed.
 */
export const recvWithFds = native.recvWithFds;

/**
 * Sends `buf[offset .. offset+length)` with the first `nfds` (at most 253) of `fds`: bytes taken, which can be fewer than
 * `length`, or -errno (-EAGAIN: socket full, nothing sent). The descriptors go with the first byte; the caller still owns
 * its own. `length` 0 with descriptors is -EINVAL.
 */
export const sendWithFds = native.sendWithFds;

/** Opens (creating it) and locks a file, for as long as the fd is open: fd, or -errno (-EAGAIN: another holds it). */
export const lockFile = native.lockFile;

/** Removes the path if it is a socket; says whether it did. A missing path or other file is left alone. */
export const unlinkIfSocket = (path: string): boolean => {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isSocket()) return false;
  unlinkSync(path);
  return true;
};

// Shared memory

/** Bits of `seals()` (fcntl(2)). */
export const SEAL_SEAL = 1;
export const SEAL_SHRINK = 2;
export const SEAL_GROW = 4;

/** An anonymous file of `size` zero bytes; `seal` fixes its size for ever (no shrink, no growth, no further seals). */
export const memfd = (name: string, size: number, options: { seal?: boolean } = {}): number =>
  checked('memfd_create', native.memfd(name, size, options.seal ?? false), name);

/** Seals of a memfd as a bit mask; -1 when the file cannot have any. */
export const seals = native.seals;

/** Size of a file in bytes. */
export const fileSize = (fd: number): number => checked('fstat', native.fileSize(fd), String(fd));

/** Sets a file's size in bytes. Errors: EPERM (sealed), EINVAL. */
export const truncate = (fd: number, size: number): void => {
  checked('ftruncate', native.truncate(fd, size), String(fd));
};

/**
 * Maps `length` bytes of a file from any `offset` on, as an ArrayBuffer that unmaps itself when collected.
 * With `write` the memory is shared both ways; without, stores stay in this process and hide the peer's later ones on that
 * page. `owner` (0 to 2^31-1) is the name under which `takeFaults` reports accesses past the file's end; such an access
 * reads zeros and does not fail.
 *
 * V8 counts the length as memory that a collection could free: a map that is large against the thread's heap limit costs
 * one full collection (4 to 16 ms) when it is made, none later. Where such a pause hurts, start the thread with a
 * `resourceLimits.maxOldGenerationSizeMb` of many times the maps (it is a limit, not a reservation).
 * Errors: EBADF, EACCES, EPERM (write-sealed), ENOMEM, ENFILE (4096 maps in the process).
 */
export const map = (
  fd: number,
  offset: number,
  length: number,
  options: { write: boolean; owner: number },
): ArrayBuffer => {
  const buffer = native.map(fd, offset, length, options.write, options.owner);
  return checkedBuffer('mmap', buffer, `fd ${fd} offset ${offset} length ${length}`);
};

/** `map` with `write` of several files in a row, as one buffer: triples of fd, offset, length, all in whole pages. */
export const mapPieces = (rows: Float64Array, owner: number): ArrayBuffer =>
  checkedBuffer('mmap', native.mapPieces(rows, owner), `${rows.length / 3} pieces`);

/** Private zero pages at a stable address, page-aligned, taken from the system when touched. */
export const mapAnonymous = (length: number): ArrayBuffer =>
  checkedBuffer('mmap', native.mapAnonymous(length), `anonymous length ${length}`);

/** Address of an ArrayBuffer's first byte, for rows of `copyRows`. Stable for buffers of `map` and `mapAnonymous`. */
export const address = native.address;

const released = new WeakSet<ArrayBuffer>();
let releases = 0;

/**
 * Lets go of the memory behind a `map` or `mapAnonymous` buffer at once, not only when it is collected. The buffer stays
 * usable, as private zeros. A second time it does nothing.
 */
export const release = (buffer: ArrayBuffer): void => {
  if (released.has(buffer)) return;
  checked('mmap', native.release(buffer), 'release');
  released.add(buffer);
  releases++;
};

/** Buffers released by this thread so far. Their addresses stay taken until they are collected and the event loop turns. */
export const releasedMaps = (): number => releases;

/** Word 0 counts, process-wide, the accesses to truncated memory survived so far. Read it once per burst. */
export const faultWord: Int32Array = native.getFaultWord();

/** Survived accesses per owner since any thread's last call. Empty in the normal case. */
export const takeFaults = (): Array<{ owner: number; faults: number }> => {
  const pairs = native.takeFaults();
  const totals = new Map<number, number>();
  for (let i = 0; i < pairs.length; i += 2) totals.set(pairs[i]!, (totals.get(pairs[i]!) ?? 0) + pairs[i + 1]!);
  return Array.from(totals, ([owner, faults]) => ({ owner, faults }));
};

// Events

/** A new non-blocking event descriptor, counter 0 (eventfd(2)). */
export const eventfd = (): number => checked('eventfd', native.eventfd());

/**
 * Adds 1: 0, also when the counter is full, or -errno. Never waits, whatever a peer that shares the descriptor does to its
 * counter and flags. Errors: EINVAL (neither an eventfd nor a pipe).
 */
export const eventfdSignal = native.eventfdSignal;

/** Takes the counter: its value (at most 2^31-1), or -errno (-EAGAIN when it is 0). Never waits either. */
export const eventfdDrain = native.eventfdDrain;

/** @throws OsError EINVAL for a peer's descriptor that is no eventfd, pipe or socket, and so may make who polls it wait. */
export const checkEvent = (fd: number): void => {
  checked('event descriptor', native.checkEvent(fd));
};

/** Writes one zero byte: 0 or -errno. */
export const writeByte = native.writeByte;

/**
 * Blocks the calling thread until one of `fds[0..count)` (at most 1024) is readable, hung up or closed: their number; 0 after
 * `timeoutMicros` (-1: none) or a signal; or -errno. A worker in it cannot be terminated before it returns.
 */
export const pollFds = native.pollFds;

// Threads and clocks

/** Binds the calling thread to these CPUs. Errors: EINVAL (none of them is allowed). */
export const setAffinity = (cpus: number[]): void => {
  checked('sched_setaffinity', native.setAffinity(Int32Array.from(cpus)), cpus.join(','));
};

/** CPUs that the process's main thread may run on. */
export const allowedCpus = (): number[] => checkedList('sched_getaffinity', native.getAffinity(process.pid));

/** CPUs that the calling thread may run on. */
export const threadCpus = (): number[] => checkedList('sched_getaffinity', native.getAffinity(0));

/** CPUs online in the system. */
export const cpuCount = native.cpuCount;

/** The calling thread's kernel id. */
export const getTid = native.getTid;

/** Names the calling thread for ps, top and gdb; at most 15 bytes. */
export const setThreadName = (name: string): void => {
  checked('prctl', native.setThreadName(name), name);
};

/** Time stamp counter, in cycles. Allocates its result: in hot code use `sampleTsc`. */
export const tsc = native.tsc;

/** Writes the time stamp counter to `tscSample[0]` without allocating. */
export const sampleTsc = native.sampleTsc;
export const tscSample: Float64Array = native.tscCell();

/** Time stamp counter cycles per second. The first call in a process may take 20 ms to measure. */
export const tscHz = native.tscHz;

// Burst copy

/**
 * Copies `count` rows, each three doubles of `rows`: destination address, source address, length (0 to 1 MiB). Returns the
 * number of rows skipped for an impossible length or address. The caller has checked that the ranges are mapped and do not
 * overlap.
 */
export const copyRows = native.copyRows;

/**
 * Registers rows, which must lie in a `mapAnonymous` buffer, for `copyRun`: a handle that is valid as long as the thread lives.
 * Errors: EINVAL (other memory), ENOSPC (64 per thread).
 */
export const copyContext = (rows: Float64Array): number => checked('copyContext', native.copyContext(rows));

/** `copyRows` for registered rows, at half the call's cost: rows skipped, or -EINVAL for a wrong handle or count. */
export const copyRun = native.copyRun;

/**
 * Another ArrayBuffer over part of a `map` or `mapAnonymous` buffer of any thread of this process. It must not be used once
 * that buffer is collected. Errors: EINVAL (no such map).
 */
export const alias = (at: number, length: number): ArrayBuffer =>
  checkedBuffer('alias', native.alias(at, length), `${at} length ${length}`);

/** Page faults that another process serves (userfaultfd(2)); native/index.ts says what each does. */
export { userfault } from '#native';
