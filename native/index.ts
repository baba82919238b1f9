/**
 * The addon's exports as C gives them: system calls return a value or a negative errno, wrong arguments throw.
 * `src/contract/os.ts` turns these into the project's API and is the only importer.
 */
import { createRequire } from 'node:module';

/** A result of 0 or more, or a negative errno. */
export type Result = number;

export interface Native {
  unixListen(path: string, mode: number, packets: boolean): Result;
  unixConnect(path: string, packets: boolean): Result;
  accept(fd: number): Result;
  socketPair(): [number, number] | Result;
  pipe(): [number, number] | Result;
  close(fd: number): Result;
  dup(fd: number): Result;
  peerCredentials(fd: number): [number, number, number] | Result;
  recvWithFds(fd: number, buf: Uint8Array, offset: number, length: number, fds: Int32Array): Result;
  sendWithFds(
    fd: number,
    buf: Uint8Array,
    offset: number,
    length: number,
    fds: Int32Array | null,
    nfds: number,
  ): Result;
  lockFile(path: string): Result;

  map(fd: number, offset: number, length: number, write: boolean, owner: number): ArrayBuffer | Result;
  mapPieces(rows: Float64Array, owner: number): ArrayBuffer | Result;
  mapAnonymous(length: number): ArrayBuffer | Result;
  address(buffer: ArrayBuffer): number;
  release(buffer: ArrayBuffer): Result;
  memfd(name: string, size: number, seal: boolean): Result;
  seals(fd: number): number;
  fileSize(fd: number): Result;
  truncate(fd: number, size: number): Result;

  getFaultWord(): Int32Array;
  takeFaults(): number[];

  eventfd(): Result;
  eventfdSignal(fd: number): Result;
  eventfdDrain(fd: number): Result;
  checkEvent(fd: number): Result;
  writeByte(fd: number): Result;
  pollFds(fds: Int32Array, count: number, timeoutMicros: number): Result;

  watchStart(callback: (id: number, events: number) => void): Result;
  watchSet(fd: number, id: number, events: number): Result;
  watchRemove(fd: number): Result;
  watchRef(on: boolean): Result;

  tsc(): number;
  tscCell(): Float64Array;
  sampleTsc(): void;
  tscHz(): number;
  setAffinity(cpus: Int32Array): Result;
  getAffinity(pid: number): number[] | Result;
  getTid(): number;
  setThreadName(name: string): Result;
  cpuCount(): number;

  copyRows(rows: Float64Array, count: number): number;
  copyContext(rows: Float64Array): Result;
  copyRun(handle: number, count: number): Result;

  tapOpen(name: string, fresh: boolean, several: boolean): Result;
  tapOffload(fd: number, flags: number): Result;
  packetOpen(): Result;
  packetOption(fd: number, name: number, value: number): Result;
  packetRing(fd: number, blockBytes: number, blocks: number, frameBytes: number): Result;
  packetBind(fd: number, ifindex: number, promiscuous: boolean): Result;
  packetDrops(fd: number): Result;
  socketBuffers(fd: number, sendBytes: number, receiveBytes: number): Result;
  netlinkOpen(protocol: number, groups: number): Result;
  sendFrames(
    fd: number,
    socket: boolean,
    pieces: Float64Array,
    counts: Int32Array,
    n: number,
    results: Int32Array,
  ): Result;
  receiveFrames(fd: number, socket: boolean, pieces: Float64Array, n: number, lengths: Int32Array): Result;

  bpf(command: number, attributes: Uint8Array): Result;
  xskOpen(): Result;
  xskBind(fd: number, flags: number, ifindex: number, queue: number): Result;
  xskSet(fd: number, level: number, option: number, value: Uint8Array): Result;
  xskGet(fd: number, level: number, option: number, value: Uint8Array): Result;
  xskSend(fd: number): Result;
  xskReceive(fd: number): Result;
  promiscuous(ifindex: number): Result;
  alias(address: number, length: number): ArrayBuffer | Result;

  userfaultOpen(): Result;
  userfaultRegister(fd: number, address: number): Result;
  userfaultUnregister(fd: number, address: number): Result;
  userfaultAbandon(fd: number, address: number): Result;
  userfaultTouch(address: number, length: number): Promise<number> | Result;
}

const load = (): Native => {
  try {
    return createRequire(import.meta.url)('./build/ringway.node') as Native;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.split('\n')[0] : String(cause);
    throw new Error(
      `the native addon is not usable (${why}); build it with "npm run build", which needs make and a C compiler`,
      { cause },
    );
  }
};

export const native: Native = load();

/**
 * Page faults that another process serves (userfaultfd(2)). All but `open` take an address in a `map` and mean the whole map;
 * results are 0 or -errno, a wrong address throws.
 */
export const userfault = {
  /** A descriptor, non-blocking, API agreed on; or -errno (-EPERM, -ENOSYS, -EOPNOTSUPP): not for this process. */
  open: native.userfaultOpen,
  /** All pages that are missing in the file are asked for from now on. */
  register: native.userfaultRegister,
  /** None is any more; who waits for one looks again. */
  unregister: native.userfaultUnregister,
  /** The map becomes private zeros, and who waits goes on. */
  abandon: native.userfaultAbandon,
  /** Resolves when all pages of a range have been read, by a thread of its own. */
  touch: native.userfaultTouch,
} as const;
