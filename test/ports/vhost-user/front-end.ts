/** A scripted vhost-user front end over a real socket: sends what it is told, reads answers, nothing by itself. */
import {
  accept,
  close,
  EAGAIN,
  eventfd,
  recvWithFds,
  sendWithFds,
  unixConnect,
  unixListen,
  unlinkIfSocket,
} from '#contract/os.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { until } from '../../support/process.ts';
import { type Driver, GUEST_BASE } from './driver.ts';

export class FrontEnd {
  readonly fd: number;
  readonly #reader = new wire.MessageReader();
  readonly #bytes = new Uint8Array(wire.MAX_PAYLOAD);
  readonly #fds = new Int32Array(4);
  readonly events: number[] = [];

  private constructor(fd: number) {
    this.fd = fd;
  }

  static connect(path: string): Promise<FrontEnd> {
    return until(`a connection to ${path}`, () => {
      try {
        return new FrontEnd(unixConnect(path));
      } catch {
        return undefined;
      }
    });
  }

  /** Listens at `path` until the switch has connected once. */
  static async listen(path: string): Promise<FrontEnd> {
    unlinkIfSocket(path);
    const listener = unixListen(path);
    const fd = await until('the switch to connect', () => {
      const got = accept(listener);
      return got >= 0 ? got : undefined;
    });
    close(listener);
    return new FrontEnd(fd);
  }

  send(code: number, payload?: Uint8Array, fds: number[] = [], needReply = false): void {
    const bytes = wire.encodeRequest(code, payload, needReply);
    const sent = sendWithFds(this.fd, bytes, 0, bytes.length, Int32Array.from(fds), fds.length);
    if (sent !== bytes.length) throw new Error(`sent ${sent} of ${bytes.length} bytes`);
  }

  /** The next answer; rejects when the connection ends first. */
  reply(): Promise<wire.Message> {
    return until('an answer', () => {
      for (;;) {
        const got = recvWithFds(this.fd, this.#bytes, 0, this.#reader.want, this.#fds);
        if (got === -EAGAIN) return undefined;
        if (got <= 0) throw new Error('the switch closed the connection');
        const message = this.#reader.push(this.#bytes.subarray(0, got));
        if (message) return message;
      }
    });
  }

  async ask(code: number, payload?: Uint8Array): Promise<bigint> {
    this.send(code, payload);
    return wire.decodeU64((await this.reply()).payload);
  }

  /** Sends with NEED_REPLY; gives the code that came back. */
  async acknowledged(code: number, payload?: Uint8Array, fds: number[] = []): Promise<bigint> {
    this.send(code, payload, fds, true);
    return wire.decodeU64((await this.reply()).payload);
  }

  /** Resolves when the switch has closed the connection. */
  closed(): Promise<true> {
    return until('the connection to be closed', () => {
      const got = recvWithFds(this.fd, this.#bytes, 0, 1, this.#fds);
      return got === 0 || (got < 0 && got !== -EAGAIN) ? true : undefined;
    });
  }

  memoryTable(driver: Driver): [payload: Uint8Array, fds: number[]] {
    const regions = driver.attachment.regions.map((r) => ({
      guestAddress: BigInt(r.guestAddress),
      size: BigInt(r.size),
      userAddress: BigInt(r.guestAddress),
      mmapOffset: BigInt(r.mmapOffset),
    }));
    return [wire.encodeMemoryTable(regions), regions.map(() => driver.fd)];
  }

  /** NUM, BASE, ADDR and KICK of one ring. */
  ring(driver: Driver, index: number, base = 0): void {
    const ring = index === 0 ? driver.rxRing : driver.txRing;
    this.send(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index, num: ring.size }));
    this.send(wire.SET_VRING_BASE, wire.VRING_STATE.encode({ index, num: base }));
    const at = (offset: number) => BigInt(GUEST_BASE + offset);
    const address = {
      index,
      flags: 0,
      descriptors: at(ring.base),
      used: at(ring.usedAt),
      available: at(ring.availAt),
      log: 0n,
    };
    this.send(wire.SET_VRING_ADDR, wire.VRING_ADDRESS.encode(address));
    this.send(wire.SET_VRING_KICK, wire.encodeU64(BigInt(index)), [this.#event()]);
  }

  call(index: number): void {
    this.send(wire.SET_VRING_CALL, wire.encodeU64(BigInt(index)), [this.#event()]);
  }

  enable(index: number, on: boolean): void {
    this.send(wire.SET_VRING_ENABLE, wire.VRING_STATE.encode({ index, num: on ? 1 : 0 }));
  }

  /** All messages, in the order of DPDK's virtio_user. */
  async virtioUser(driver: Driver, features: bigint, base = 0): Promise<void> {
    this.send(wire.SET_OWNER);
    await this.ask(wire.GET_FEATURES);
    await this.ask(wire.GET_PROTOCOL_FEATURES);
    this.send(wire.SET_PROTOCOL_FEATURES, wire.encodeU64(0x10009n));
    for (const index of [0, 1]) this.call(index);
    this.send(wire.SET_FEATURES, wire.encodeU64(features));
    this.send(wire.SET_STATUS, wire.encodeU64(11n));
    if ((await this.ask(wire.GET_STATUS)) !== 11n) throw new Error('the status was not echoed');
    if ((await this.acknowledged(wire.SET_MEM_TABLE, ...this.memoryTable(driver))) !== 0n) throw new Error('no memory');
    for (const index of [0, 1]) this.ring(driver, index, base);
    for (const index of [0, 1]) this.enable(index, true);
  }

  /** All messages, in the order of QEMU. */
  async qemu(driver: Driver, features: bigint, base = 0): Promise<void> {
    await this.ask(wire.GET_FEATURES);
    await this.ask(wire.GET_PROTOCOL_FEATURES);
    this.send(wire.SET_PROTOCOL_FEATURES, wire.encodeU64(0x9n));
    await this.ask(wire.GET_QUEUE_NUM);
    this.send(wire.SET_OWNER);
    await this.ask(wire.GET_FEATURES);
    for (const index of [0, 1]) {
      this.call(index);
      this.send(wire.SET_VRING_ERR, wire.encodeU64(BigInt(index)), [this.#event()]);
    }
    for (const index of [0, 1]) this.enable(index, true);
    this.send(wire.SET_FEATURES, wire.encodeU64(features));
    this.send(wire.SET_MEM_TABLE, ...this.memoryTable(driver));
    for (const index of [0, 1]) this.ring(driver, index, base);
    for (const index of [0, 1]) this.call(index);
  }

  close(): void {
    close(this.fd);
    for (const fd of this.events.splice(0)) close(fd);
  }

  #event(): number {
    const fd = eventfd();
    this.events.push(fd);
    return fd;
  }
}
