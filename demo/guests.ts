/** The demo's two guests: worker threads with a virtio port and a host each, steered and read through shared memory. */
import { Worker } from 'node:worker_threads';
import { HISTOGRAM_SLOTS } from '#guest/histogram.ts';
import { HOST_SLOTS, type HostCounter, hostCounter } from '#guest/net.ts';
import type { PortOptions } from '#guest/options.ts';
import {
  CONTROL_BYTES,
  CONTROL_PINGS,
  CONTROL_RATE,
  CONTROL_STREAM,
  CONTROL_WORDS,
  type GuestMessage,
  type GuestSetup,
} from '#guest/worker.ts';

export interface GuestOptions {
  readonly name: string;
  readonly port: PortOptions;
  readonly mac: string;
  readonly ip: string;
  readonly peer: string;
  /** Bytes of a stream frame. */
  readonly frameBytes: number;
  /** Frames per second; 0 = as fast as it goes. */
  readonly rate: number;
  readonly pingsPerSecond: number;
}

export class Guest {
  readonly options: GuestOptions;
  readonly slots: Float64Array;
  /** State of its port as the guest sees it. */
  state = 'waiting';
  reason = '';
  readonly #control: Int32Array;
  readonly #worker: Worker;
  readonly #exited: Promise<void>;

  constructor(options: GuestOptions) {
    this.options = options;
    const slots = new SharedArrayBuffer(HOST_SLOTS * 8);
    const control = new SharedArrayBuffer(CONTROL_WORDS * 4);
    this.slots = new Float64Array(slots);
    this.#control = new Int32Array(control);
    this.#control[CONTROL_BYTES] = options.frameBytes;
    this.#control[CONTROL_RATE] = options.rate;
    this.#control[CONTROL_PINGS] = options.pingsPerSecond;
    const { name, port, mac, ip, peer } = options;
    const workerData: GuestSetup = { name, port, host: { mac, ip, peer }, slots, control };
    this.#worker = new Worker(new URL('../src/guest/worker.ts', import.meta.url), { workerData });
    this.#worker.on('message', ({ state, reason }: GuestMessage) => {
      this.state = state;
      this.reason = reason;
    });
    this.#worker.on('error', (error: unknown) => {
      this.state = 'failed';
      this.reason = error instanceof Error ? error.message : String(error);
    });
    this.#exited = new Promise((resolve) => {
      this.#worker.once('exit', () => resolve());
    });
  }

  get streaming(): boolean {
    return this.#control[CONTROL_STREAM] === 1;
  }

  set streaming(on: boolean) {
    this.#control[CONTROL_STREAM] = on ? 1 : 0;
  }

  counter(name: HostCounter): number {
    return this.slots[hostCounter(name)]!;
  }

  /** A copy of one of its histograms, to measure from. */
  histogram(at: number): Float64Array {
    return this.slots.slice(at, at + HISTOGRAM_SLOTS);
  }

  async stop(): Promise<void> {
    this.streaming = false;
    this.#worker.postMessage('stop');
    await this.#exited;
  }
}
