/**
 * Two veth pairs whose far ends lie in namespaces of their own, and a forwarder in this thread that joins the near ends over
 * AF_XDP. Needs root.
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

let numbers = 0;

/** One veth pair: `near` here, `far` in namespace `space`, with addresses 10.`net`.0.`host` and fd00:`net`::`host`. */
export class VethPair {
  readonly near: string;
  readonly far = 'eth0';
  readonly space: string;
  readonly address: string;
  readonly address6: string;

  private constructor(net: number, host: number) {
    const name = `rwx${process.pid % 100_000}${'abcdefghij'[numbers++ % 10]}`;
    this.near = `${name}n`;
    this.space = name;
    this.address = `10.${net}.0.${host}`;
    this.address6 = `fd00:${net}::${host}`;
  }

  static async make(net: number, host: number, options: { mtu?: number; queues?: number } = {}): Promise<VethPair> {
    const pair = new VethPair(net, host);
    await ip('netns', 'add', pair.space);
    try {
      await pair.link(options);
    } catch (error) {
      await pair.remove();
      throw error;
    }
    return pair;
  }

  /** Makes the interfaces, again after `unlink`. */
  async link({ mtu = 1500, queues = 1 }: { mtu?: number; queues?: number } = {}): Promise<void> {
    const many = ['numrxqueues', String(queues), 'numtxqueues', String(queues), 'mtu', String(mtu)];
    await ip('link', 'add', this.near, ...many, 'type', 'veth', 'peer', 'name', this.far, ...many, 'netns', this.space);
    await ip('-n', this.space, 'addr', 'add', `${this.address}/24`, 'dev', this.far);
    await ip('-n', this.space, 'addr', 'add', `${this.address6}/64`, 'dev', this.far, 'nodad');
    await ip('-n', this.space, 'link', 'set', 'lo', 'up');
    await ip('-n', this.space, 'link', 'set', this.far, 'up');
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
    return Number(readFileSync(`/sys/class/net/${this.near}/ifindex`, 'utf8'));
  }

  /** What `ip link` says of XDP programs on the near end. */
  async programs(): Promise<string[]> {
    const text = await ip('-d', 'link', 'show', this.near);
    return text.match(/prog\/xdp\S* id \d+/g) ?? [];
  }

  async remove(): Promise<void> {
    await ip('link', 'del', this.near).catch(() => undefined);
    await ip('netns', 'del', this.space).catch(() => undefined);
  }
}

const ip = (...args: string[]): Promise<string> => runOk('ip', args);

/** Interfaces opened for AF_XDP, joined two by two in this thread. */
export class XdpWire {
  readonly devices: XdpDevice[] = [];
  readonly ports: WorkerPort[] = [];
  readonly batch = new PacketBatch();
  readonly #slots = new Float64Array(PORT_ROW * 4);
  readonly #list = Int32Array.from({ length: 32 }, (_, i) => i);
  #running = true;
  #ended: Promise<void> = Promise.resolve();

  /** @param pairs the two ends; @param options of the ports; @param mtu of both, else that of the interface. */
  constructor(pairs: readonly VethPair[], options: Record<string, string>, mtu = 1500) {
    try {
      for (const [i, pair] of pairs.entries()) {
        const about = { name: pair.near, ifindex: pair.ifindex, mtu, kind: 'veth' };
        this.devices.push(new XdpDevice(about, readXdpOptions(options)));
        const counters = { slots: this.#slots, base: i * PORT_ROW };
        const context = { worker: 0, workers: 1, counters, batch: this.batch };
        this.ports.push(attachXdpPort(this.devices[i]!.piece(mtu), i, context));
      }
    } catch (error) {
      this.#running = false;
      this.#letGo();
      throw error;
    }
    this.#ended = this.#run();
  }

  counter(port: number, name: PortCounter): number {
    return this.#slots[port * PORT_ROW + portCounter(name)]!;
  }

  drops(port: number, name: DropReason): number {
    return this.#slots[port * PORT_ROW + DROP_BASE + dropReason(name)]!;
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
      for (let turn = 0; turn < 200; turn++) for (let i = 0; i < this.ports.length; i++) this.#burst(i);
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
