/** Scripted ends of memif's control channel over a real socket, and a port's session in a data process of one worker. */
import { join } from 'node:path';
import { PORT_ROW } from '#contract/catalogue.ts';
import {
  accept,
  close,
  EAGAIN,
  eventfd,
  map,
  memfd,
  recvWithFds,
  sendWithFds,
  unixConnect,
  unixListen,
  unlinkIfSocket,
} from '#contract/os.ts';
import { memifPort, memifSessions } from '#ports/memif/factory.ts';
import * as wire from '#ports/memif/wire.ts';
import type { PortSession, PortStatus, WorkerPort } from '#ports/port.ts';
import { scratchDir, sleep, until } from '../../support/process.ts';
import { batch, DESC, HEAD } from './peer.ts';

export const dir = scratchDir('rwmi');
let names = 0;
export const newPath = (): string => join(dir, `m${names++}`);

export class Rig {
  readonly counters = new Float64Array(PORT_ROW);
  readonly states: string[] = [];
  readonly errors: string[] = [];
  readonly session: PortSession;
  port: WorkerPort | undefined;

  constructor(options: Record<string, string>, portNo = 5) {
    const config = { portNo, name: `p${portNo}`, type: 'memif', options, mtu: 1500 };
    this.session = memifSessions(dir)(config, {
      attach: async (_, attachment) => {
        await sleep(1);
        const previous = this.port;
        const context = { worker: 0, workers: 1, counters: { slots: this.counters, base: 0 }, batch };
        this.port = attachment && memifPort(attachment, context, previous);
        if (!attachment) previous?.close();
      },
      status: (_, { state, lastError }: PortStatus) => {
        if (this.states.at(-1) !== state) this.states.push(state);
        if (lastError && this.errors.at(-1) !== lastError) this.errors.push(lastError);
      },
    });
  }

  reach(state: string): Promise<unknown> {
    return until(
      `state ${state}`,
      () => this.session.status().state === state,
      10_000,
      () => JSON.stringify(this.session.status()),
    );
  }

  /** Waits for an error that was told, now or before. */
  told(pattern: RegExp): Promise<unknown> {
    return until(
      `error ${pattern}`,
      () => this.errors.some((error) => pattern.test(error)),
      10_000,
      () => this.errors.join('\n'),
    );
  }
}

/** One end of a channel, which does nothing by itself. */
export class Control {
  readonly fd: number;
  readonly #bytes = new Uint8Array(256);
  readonly #fds = new Int32Array(4);
  readonly kept: number[] = [];

  constructor(fd: number) {
    this.fd = fd;
  }

  static connect(path: string): Promise<Control> {
    return until(`a connection to ${path}`, () => {
      try {
        return new Control(unixConnect(path, { packets: true }));
      } catch {
        return undefined;
      }
    });
  }

  /** Listens at `path` until a client has connected once. */
  static async listen(path: string): Promise<Control> {
    unlinkIfSocket(path);
    const listener = unixListen(path, { packets: true });
    const fd = await until('a client', () => {
      const got = accept(listener);
      return got >= 0 ? got : undefined;
    });
    close(listener);
    return new Control(fd);
  }

  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    sendWithFds(this.fd, bytes, 0, bytes.length, Int32Array.from(fds), fds.length);
  }

  /** The next message; undefined when the channel has ended. Descriptors go to `kept`. */
  async receive(): Promise<Uint8Array | undefined> {
    const got = await until('a message', () => {
      const n = recvWithFds(this.fd, this.#bytes, 0, 256, this.#fds);
      return n === -EAGAIN ? undefined : { n };
    });
    for (let i = 1; i <= this.#fds[0]!; i++) this.kept.push(this.#fds[i]!);
    return got.n > 0 ? this.#bytes.slice(0, got.n) : undefined;
  }

  /** The next message, which has to be of this type. */
  async expect(type: number): Promise<Uint8Array> {
    const bytes = await this.receive();
    const name = (n: number) => wire.MESSAGES.get(n)?.name ?? n;
    if (bytes && wire.typeOf(bytes) === type) return bytes;
    const what = bytes ? `${name(wire.typeOf(bytes))} ${Buffer.from(bytes.subarray(6)).toString('latin1')}` : 'the end';
    throw new Error(`${name(type)} was due, not ${what.replaceAll('\0', '')}`);
  }

  /** The reason of the DISCONNECT that has to come, the last message. */
  async refusal(): Promise<string> {
    const { reason } = wire.DISCONNECT_LAYOUT.decode(await this.expect(wire.DISCONNECT), 2);
    if (await this.receive()) throw new Error('something came after DISCONNECT');
    return reason;
  }

  close(): void {
    close(this.fd);
    for (const fd of this.kept) close(fd);
  }
}

export const init = (more: Partial<wire.Init> = {}): Uint8Array =>
  wire.encodeInit({ version: wire.VERSION, id: 0, mode: 0, secret: '', name: 'script', ...more });

const SIZE = 16;
const RING = DESC + 16 * SIZE;
const BYTES = 2 * RING + 2 * SIZE * 2048;

/** A scripted client: region 0 with a ring of 16 descriptors each way, and their buffers. */
export class Client {
  readonly control: Control;
  readonly region = memfd('script', BYTES, { seal: true });
  readonly view = new DataView(map(this.region, 0, BYTES, { write: true, owner: 0 }));
  readonly events = [eventfd(), eventfd()];

  constructor(control: Control) {
    this.control = control;
    for (let ring = 0; ring < 2; ring++) {
      this.view.setUint32(ring * RING, wire.COOKIE, true);
      for (let i = 0; i < SIZE; i++) {
        const d = ring * RING + DESC + 16 * i;
        this.view.setUint32(d + 4, 2048, true);
        this.view.setUint32(d + 8, 2 * RING + (ring * SIZE + i) * 2048, true);
      }
    }
  }

  static async connect(path: string): Promise<Client> {
    return new Client(await Control.connect(path));
  }

  /** The messages of a connection after HELLO, in order. */
  steps(more: Partial<wire.Init> = {}): [bytes: Uint8Array, fds: number[]][] {
    const ring = { index: 0, region: 0, log2RingSize: 4, privateHeader: 0 };
    return [
      [init(more), []],
      [wire.encodeAddRegion({ index: 0, size: BigInt(BYTES) }), [this.region]],
      [wire.encodeAddRing({ ...ring, flags: 1, offset: 0 }), [this.events[0]!]],
      [wire.encodeAddRing({ ...ring, flags: 0, offset: RING }), [this.events[1]!]],
      [wire.encodeConnect('script0'), []],
    ];
  }

  /** Goes through the first `count` steps, each answered. */
  async negotiate(more: Partial<wire.Init> = {}, count = 5): Promise<void> {
    await this.control.expect(wire.HELLO);
    for (const [i, [bytes, fds]] of this.steps(more).slice(0, count).entries()) {
      this.control.send(bytes, fds);
      await this.control.expect(i === 4 ? wire.CONNECTED : wire.ACK);
    }
    if (count === 5) this.view.setUint16(RING + HEAD, SIZE, true);
  }

  /** Puts one frame of `length` bytes into the ring. */
  sendFrame(length: number): void {
    const head = this.view.getUint16(HEAD, true);
    this.view.setUint32(DESC + 16 * (head % SIZE) + 4, length, true);
    this.view.setUint16(HEAD, head + 1, true);
  }

  close(): void {
    this.control.close();
    for (const fd of [this.region, ...this.events]) close(fd);
  }
}
