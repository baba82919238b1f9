/**
 * veth pairs whose far ends lie in namespaces of their own, and a forwarder in this thread that joins near ends over AF_XDP.
 * Needs root.
 */
import { readFileSync } from 'node:fs';
import {
  DROP_BASE,
  type DropReason,
  dropReason,
  PORT_ROW,
  type PortCounter,
  portCounter,
} from '#contract/catalogue.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import { attachXdpPort } from '#ports/kernel/xdp/attachment.ts';
import { XdpDevice } from '#ports/kernel/xdp/open.ts';
import { readXdpOptions } from '#ports/kernel/xdp/options.ts';
import type { WorkerPort } from '#ports/port.ts';
import { runOk } from '../../../support/process.ts';

export interface VethShape {
  readonly mtu?: number;
  readonly queues?: number;
  /** The far end lies here too. */
  readonly here?: boolean;
}

let numbers = 0;
/** Between the digits, so that names differ: a letter. */
const LETTERS = 'abcdefghijklmnopqrstuvwxyz';

/** One veth pair: `near` here, `far` in namespace `space`, with addresses 10.77.0.`host` and fd00:77::`host`. */
export class VethPair {
  readonly near: string;
  readonly far: string;
  readonly space: string;
  readonly address: string;
  readonly address6: string;
  /** An address of the same network that nobody has. */
  readonly neighbour = '10.77.0.200';
  readonly #here: boolean;

  private constructor(host: number, here: boolean) {
    const letter = LETTERS[numbers % LETTERS.length]! + LETTERS[Math.floor(numbers++ / LETTERS.length)]!;
    const name = `rx${process.pid}${letter}`;
    this.near = `${name}n`;
    this.far = here ? `${name}f` : 'eth0';
    this.space = name;
    this.address = `10.77.0.${host}`;
    this.address6 = `fd00:77::${host}`;
    this.#here = here;
  }

  static async make(host: number, shape: VethShape = {}): Promise<VethPair> {
    const pair = new VethPair(host, shape.here ?? false);
    if (!shape.here) await ip('netns', 'add', pair.space);
    try {
      await pair.link(shape);
    } catch (error) {
      await pair.remove();
      throw error;
    }
    return pair;
  }

  /** Makes the interfaces, again after `unlink`. */
  async link({ mtu = 1500, queues = 1 }: VethShape): Promise<void> {
    const many = ['numrxqueues', String(queues), 'numtxqueues', String(queues), 'mtu', String(mtu)];
    const there = this.#here ? [] : ['netns', this.space];
    const inside = this.#here ? [] : ['-n', this.space];
    await ip('link', 'add', this.near, ...many, 'type', 'veth', 'peer', 'name', this.far, ...many, ...there);
    await ip(...inside, 'addr', 'add', `${this.address}/24`, 'dev', this.far);
    await ip(...inside, 'addr', 'add', `${this.address6}/64`, 'dev', this.far, 'nodad');
    await ip(...inside, 'link', 'set', this.far, 'up');
    await ip('link', 'set', this.near, 'up');
  }

  async unlink(): Promise<void> {
    await ip('link', 'del', this.near);
  }

  /** Runs a program in the namespace. */
  exec(program: string, ...args: string[]): Promise<string> {
    return runOk('ip', ['netns', 'exec', this.space, program, ...args], { timeoutMs: 60_000 });
  }

  get ifindex(): number {
    return indexOf(this.near);
  }

  /** Of a far end that lies here. */
  get farIfindex(): number {
    return indexOf(this.far);
  }

  /** What `ip -details link` says of the near end. */
  describe(): Promise<string> {
    return ip('-d', 'link', 'show', this.near);
  }

  /** XDP programs on the near end. */
  async programs(): Promise<string[]> {
    return (await this.describe()).match(/prog\/xdp\S* id \d+/g) ?? [];
  }

  async remove(): Promise<void> {
    await ip('link', 'del', this.near).catch(() => undefined);
    if (!this.#here) await ip('netns', 'del', this.space).catch(() => undefined);
  }
}

const ip = (...args: string[]): Promise<string> => runOk('ip', args);

const indexOf = (name: string): number => Number(readFileSync(`/sys/class/net/${name}/ifindex`, 'utf8'));

/** Interfaces opened for AF_XDP, joined two by two in this thread. */
export class XdpWire {
  readonly devices: XdpDevice[] = [];
  readonly ports: WorkerPort[] = [];
  readonly batch = new PacketBatch();
  readonly #slots = new Float64Array(PORT_ROW * 4);
  readonly #list = Int32Array.from({ length: 32 }, (_, i) => i);
  #running: boolean;
  #ended: Promise<void> = Promise.resolve();

  /** @param pairs one or two; @param mtu of what is sent; @param forward false: frames are only given to `take`. */
  constructor(pairs: readonly VethPair[], options: Record<string, string>, mtu = 1500, forward = true) {
    this.#running = forward && pairs.length === 2;
    try {
      for (const [i, { near, ifindex }] of pairs.entries()) {
        const device = new XdpDevice({ name: near, ifindex, mtu, kind: 'veth' }, readXdpOptions(options));
        this.devices.push(device);
        const counters = { slots: this.#slots, base: i * PORT_ROW };
        const context = { worker: 0, workers: 1, counters, batch: this.batch };
        this.ports.push(attachXdpPort(device.piece(mtu), i, context));
      }
    } catch (error) {
      this.#letGo();
      throw error;
    }
    if (this.#running) this.#ended = this.#run();
  }

  counter(port: number, name: PortCounter): number {
    return this.#slots[port * PORT_ROW + portCounter(name)]!;
  }

  drops(port: number, name: DropReason): number {
    return this.#slots[port * PORT_ROW + DROP_BASE + dropReason(name)]!;
  }

  /** The header window of the next received frame that `wanted` is true for. */
  take(port: number, wanted: (head: Uint8Array) => boolean): Uint8Array | undefined {
    const rx = this.ports[port]!.rx[0]!;
    const { batch } = this;
    const n = rx.poll(batch);
    const heads = Array.from({ length: n }, (_, i) =>
      batch.u8.slice(batch.start[i]!, batch.start[i]! + batch.headLength[i]!),
    );
    rx.complete();
    batch.clear();
    return heads.find(wanted);
  }

  async close(): Promise<void> {
    this.#running = false;
    await this.#ended;
    this.#letGo();
  }

  #letGo(): void {
    for (const port of this.ports) port.close();
    for (const device of this.devices) device.close();
  }

  async #run(): Promise<void> {
    while (this.#running) {
      for (let turn = 0; turn < 100; turn++) for (let i = 0; i < this.ports.length; i++) this.#burst(i);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  #burst(from: number): void {
    for (const rx of this.ports[from]!.rx) {
      const n = rx.poll(this.batch);
      if (n === 0) continue;
      const tx = this.ports[from ^ 1]!.tx!;
      tx.push(this.batch, this.#list, n);
      this.batch.copy();
      tx.publish();
      rx.complete();
      this.batch.clear();
    }
  }
}
