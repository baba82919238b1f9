/**
 * What the back end of one connection does for its front end beside moving frames: the dirty log, the announcement of a
 * guest, the device configuration, the channel for requests of its own, the record of what is in flight.
 *
 * All of it is state of the main thread. What workers need of it is in `parts`, and reaches them with the next attachment.
 */
import { close, map, release } from '#contract/os.ts';
import { checkFiles } from '../memory.ts';
import { STATE_ANNOUNCE } from './announce.ts';
import { BackendChannel } from './backend-channel.ts';
import { NetConfig } from './config.ts';
import { DirtyLog } from './dirty-log.ts';
import { AREA_BYTES, type InflightName, makeArea, nameOf } from './inflight.ts';
import { Journal } from './journal-file.ts';
import type { Range } from './redo.ts';
import { STATE_WORDS } from './vring.ts';
import * as wire from './wire.ts';

/** Announcements are made by the first queue pair's transmit ring. */
const ANNOUNCER = STATE_WORDS + STATE_ANNOUNCE;
const MOST = BigInt(Number.MAX_SAFE_INTEGER);

/** A file that a front end lent, and where in it. */
export interface LogPlace {
  readonly fd: number;
  readonly offset: number;
  readonly size: number;
}

/** What workers need to know. */
export interface ServiceParts {
  readonly log?: LogPlace;
  /** Address of the guest that is to be announced. */
  readonly announce?: readonly number[];
  /** Name of the rings in flight, and the journal's file. */
  readonly inflight?: InflightName & { readonly fd: number };
  readonly kept?: boolean;
}

export class Services {
  readonly #portNo: number;
  readonly #rundir: string;
  readonly #words: Int32Array;
  readonly #config: NetConfig;
  #log: LogPlace | undefined;
  /** Written by this thread before there was a log. */
  #unlogged: Range[] = [];
  #announce: readonly number[] | undefined;
  #channel: BackendChannel | undefined;
  /** Where rings of this connection are written down; undefined unless the front end keeps an area for us. */
  inflight: { readonly file: Journal; readonly name: InflightName } | undefined;

  /** @param words shared state of all rings, STATE_WORDS each. @param rundir where the journal lies. */
  constructor(portNo: number, rundir: string, queuePairs: number, mtu: number, words: Int32Array) {
    this.#portNo = portNo;
    this.#rundir = rundir;
    this.#words = words;
    this.#config = new NetConfig(queuePairs, mtu);
  }

  parts(): ServiceParts {
    return {
      ...(this.#log && { log: this.#log }),
      ...(this.#announce && { announce: this.#announce }),
      ...(this.inflight && { inflight: { ...this.inflight.name, fd: this.inflight.file.fd }, kept: true }),
    };
  }

  facts(): Record<string, string> {
    return {
      ...(this.#log && { log_bytes: String(this.#log.size) }),
      ...(this.inflight && { inflight: 'tracked' }),
      ...(this.#channel?.open && { backend_channel: 'open' }),
    };
  }

  /**
   * Another log, or none. The front end hands one over before it asks for logging (LOG_ALL), and larger ones later.
   * @returns what is to be done when workers have let go of the old one. @throws RangeError for an impossible one.
   */
  setLog(payload: Uint8Array, fds: number[]): () => void {
    const old = this.#log;
    const letGo = (): void => {
      if (old) close(old.fd);
    };
    if (fds.length === 0) {
      this.#log = undefined;
      return letGo;
    }
    const { size, offset } = wire.LOG.decode(payload);
    if (size === 0n || size > MOST || offset > MOST) throw new RangeError(`a log of ${size} bytes at ${offset}`);
    const next = { fd: fds[0]!, offset: Number(offset), size: Number(size) };
    checkFiles([{ fd: next.fd, mmapOffset: next.offset, size: next.size }]);
    fds[0] = -1;
    this.#log = next;
    this.#mark();
    return letGo;
  }

  /** Rings of the guest were written while no worker had them. A log that comes later hears of it too. */
  wrote(ranges: readonly Range[]): void {
    this.#unlogged.push(...ranges);
    this.#mark();
  }

  #mark(): void {
    if (!this.#log || this.#unlogged.length === 0) return;
    const { fd, offset, size } = this.#log;
    const buffer = map(fd, offset, size, { write: true, owner: this.#portNo });
    const log = new DirtyLog(buffer);
    for (const { at, bytes } of this.#unlogged.splice(0)) log.mark(at, bytes);
    release(buffer);
  }

  /** @param payload SEND_RARP's: an Ethernet address in its first six bytes. */
  announce(payload: Uint8Array): void {
    this.#announce = [...payload.subarray(0, 6)];
    Atomics.store(this.#words, ANNOUNCER, 1);
  }

  /** Whether the announcement was made since the last call. */
  announced(): boolean {
    if (!this.#announce || Atomics.load(this.#words, ANNOUNCER) !== 0) return false;
    this.#announce = undefined;
    return true;
  }

  /** @throws RangeError without a descriptor, OsError for one that cannot be watched. */
  setChannel(fds: number[], acknowledged: boolean): void {
    if (fds.length !== 1) throw new RangeError('SET_BACKEND_REQ_FD came without a descriptor');
    this.#channel?.close();
    this.#channel = undefined;
    this.#channel = new BackendChannel(fds[0]!, acknowledged);
    fds[0] = -1;
  }

  /** As BackendChannel.iotlb; `gone`: there is no channel. */
  sayIotlb(payload: Uint8Array, done: () => void): 'sent' | 'busy' | 'gone' {
    if (this.#channel?.iotlb(payload, done)) return 'sent';
    return this.#channel?.open ? 'busy' : 'gone';
  }

  getConfig(payload: Uint8Array): Uint8Array {
    const part = wire.decodeConfig(payload);
    return wire.encodeConfig({ ...part, bytes: this.#config.read(part) });
  }

  /** @throws RangeError for what cannot be written. */
  setConfig(payload: Uint8Array): void {
    this.#config.write(wire.decodeConfig(payload));
  }

  /** The configuration names another MTU from now on, and the front end hears of it. */
  setMtu(mtu: number): void {
    this.#config.mtu = mtu;
    this.#channel?.configChanged();
  }

  /** A new area for the front end to keep. The descriptor is the caller's. */
  getInflight(payload: Uint8Array): { payload: Uint8Array; fd: number } {
    const { queues, queueSize } = wire.INFLIGHT.decode(payload);
    const answer = new Uint8Array(payload.length);
    wire.INFLIGHT.encode({ size: BigInt(AREA_BYTES), offset: 0n, queues, queueSize }, answer);
    return { payload: answer, fd: makeArea() };
  }

  /** @throws RangeError for an impossible area. */
  setInflight(payload: Uint8Array, fds: number[]): void {
    if (fds.length !== 1) throw new RangeError('SET_INFLIGHT_FD came without a descriptor');
    const { size, offset } = wire.INFLIGHT.decode(payload);
    if (size > MOST || offset > MOST) throw new RangeError(`an inflight area of ${size} bytes at ${offset}`);
    const file = Journal.of(this.#rundir);
    this.inflight = { file, name: nameOf(fds[0]!, Number(offset), Number(size), this.#portNo, file.name) };
  }

  /** Forgets what a reset forgets. @returns as `setLog`. */
  reset(): () => void {
    this.#announce = undefined;
    this.#unlogged = [];
    Atomics.store(this.#words, ANNOUNCER, 0);
    return this.setLog(new Uint8Array(0), []);
  }

  /** Lets go of everything; workers have. */
  close(): void {
    this.reset()();
    this.#channel?.close();
    this.#channel = undefined;
    this.inflight = undefined;
  }
}
