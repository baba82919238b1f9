/**
 * Numbered frames from one guest to another, with a bounded number under way: what is lost, doubled or out of order shows.
 */
import type { VirtioPort } from '#guest/index.ts';
import { PATIENCE_MS } from './datapath.ts';
import { eth, packet, padded, u32 } from './packets.ts';
import { sleep } from './process.ts';

/** EtherType for local experiments (IEEE 802). */
const TYPE = 0x88b5;
const NUMBER_AT = 14;
/** Frames under way; far fewer than a ring holds, so that a full ring is no excuse. */
const WINDOW = 128;

export class Stream {
  readonly #from: VirtioPort;
  readonly #to: VirtioPort;
  readonly #frame: Uint8Array;
  #sent = 0;
  #next = 0;
  /** Numbers that came out of turn. */
  readonly odd: number[] = [];

  constructor(from: VirtioPort, to: VirtioPort, macs: { src?: string; dst?: string } = {}) {
    this.#from = from;
    this.#to = to;
    this.#frame = padded(packet(eth({ ...macs, type: TYPE }), u32(0)));
  }

  get sent(): number {
    return this.#sent;
  }

  get received(): number {
    return this.#next;
  }

  /** Sends what the window allows, takes what has come. @returns frames taken. */
  step(): number {
    const frames: Uint8Array[] = [];
    for (let number = this.#sent; number < this.#next + WINDOW; number++) {
      const frame = this.#frame.slice();
      new DataView(frame.buffer).setUint32(NUMBER_AT, number);
      frames.push(frame);
    }
    if (frames.length > 0) this.#sent += this.#from.queue(0).send(frames);
    return this.#take();
  }

  #take(): number {
    let taken = 0;
    for (const queue of this.#to.queues) {
      for (const frame of queue.receive()) {
        if (frame[12] !== TYPE >> 8 || frame[13] !== (TYPE & 0xff)) continue;
        const number = new DataView(frame.buffer, frame.byteOffset).getUint32(NUMBER_AT);
        if (number !== this.#next) this.odd.push(number);
        this.#next = number + 1;
        taken++;
      }
    }
    return taken;
  }

  /** Runs until `done` says so. */
  async runUntil(done: () => boolean): Promise<void> {
    const end = performance.now() + PATIENCE_MS;
    while (!done()) {
      if (performance.now() > end)
        throw new Error(`stream stands still: sent ${this.#sent}, received ${this.#next}, odd ${this.odd.slice(0, 5)}`);
      if (this.step() === 0) await sleep(1);
      else await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Runs for at least `count` further frames. */
  run(count: number): Promise<void> {
    const goal = this.#next + count;
    return this.runUntil(() => this.#next >= goal);
  }

  /** Runs while `work` goes on. */
  async during<T>(work: Promise<T>): Promise<T> {
    let over = false;
    const settled = work.finally(() => {
      over = true;
    });
    settled.catch(() => undefined);
    await this.runUntil(() => over);
    return settled;
  }

  /** Takes what is under way. @returns frames lost. */
  async finish(): Promise<number> {
    const end = performance.now() + PATIENCE_MS;
    while (this.#next < this.#sent && performance.now() < end) if (this.#take() === 0) await sleep(1);
    return this.#sent - this.#next + this.odd.length;
  }
}
