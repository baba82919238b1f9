/**
 * A guest in a worker thread: a port, a host on it, and a loop that answers, pings and streams as it is told.
 *
 *     const worker = new Worker(new URL('../src/guest/worker.ts', import.meta.url), { workerData: setup satisfies GuestSetup });
 *
 * The parent reads counters from `slots` and steers through `control`; the worker posts `{ state, reason }` at every change
 * of its port. The message 'stop' ends it: the port is closed in order, then the thread exits.
 */
import { setImmediate } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { setThreadName } from '#contract/os.ts';
import { Host, type HostOptions } from './net.ts';
import { checkOptions, type PortOptions } from './options.ts';
import { VirtioPort } from './port.ts';

export interface GuestSetup {
  readonly name: string;
  readonly port: PortOptions;
  readonly host: Omit<HostOptions, 'slots'>;
  /** HOST_SLOTS float64. */
  readonly slots: SharedArrayBuffer;
  /** CONTROL_WORDS int32. */
  readonly control: SharedArrayBuffer;
}

/** Words of `control`, written by the parent: stream on (1) or off, bytes of a frame, frames per second (0: as fast as it
 * goes), pings per second. */
export const CONTROL_STREAM = 0;
export const CONTROL_BYTES = 1;
export const CONTROL_RATE = 2;
export const CONTROL_PINGS = 3;
export const CONTROL_WORDS = 4;

/** Milliseconds of work between two turns of the event loop, and of sleep where there is nothing to do. */
const SLICE_MS = 5;
const IDLE_MS = 0.5;
const BURST = 32;

export interface GuestMessage {
  readonly state: string;
  readonly reason: string;
}

/** Runs until `stopped` says so. */
async function run(port: VirtioPort, host: Host, control: Int32Array, stopped: () => boolean): Promise<void> {
  const queue = port.queue(0);
  let nextPing = 0;
  let credit = 0;
  let last = performance.now();
  while (!stopped()) {
    const sliceEnd = performance.now() + SLICE_MS;
    for (let now = performance.now(); now < sliceEnd; now = performance.now()) {
      const rate = control[CONTROL_RATE]!;
      const pings = control[CONTROL_PINGS]!;
      credit = rate === 0 ? BURST : Math.min(credit + ((now - last) * rate) / 1000, 8 * BURST);
      last = now;
      let work = 0;
      for (let turn = 0; turn < 8; turn++) {
        work += host.poll();
        const frames = Math.min(BURST, Math.floor(credit));
        if (control[CONTROL_STREAM] !== 1 || frames === 0) continue;
        const sent = host.stream(frames, control[CONTROL_BYTES]!);
        work += sent;
        if (rate !== 0) credit -= sent;
      }
      if (pings > 0 && now >= nextPing) {
        nextPing = Math.max(now, nextPing + 1000 / pings);
        host.ping();
      }
      if (work > 0) continue;
      if (port.state !== 'up') break;
      queue.waitReadable(IDLE_MS);
    }
    if (port.state === 'up') await setImmediate();
    else await port.whenUp(200).catch(() => undefined);
  }
}

async function main(parent: NonNullable<typeof parentPort>, setup: GuestSetup): Promise<void> {
  setThreadName(setup.name.slice(0, 15));
  let stop = false;
  parent.on('message', (message) => {
    stop ||= message === 'stop';
  });
  const port = new VirtioPort(checkOptions(setup.port));
  port.onState = (state, reason) => parent.postMessage({ state, reason } satisfies GuestMessage);
  const host = new Host(port.queue(0), { ...setup.host, slots: new Float64Array(setup.slots) });
  port.start();
  await run(port, host, new Int32Array(setup.control), () => stop);
  await port.close();
  parent.close();
}

if (parentPort) await main(parentPort, workerData as GuestSetup);
