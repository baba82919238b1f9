import { Worker } from 'node:worker_threads';
import test from 'ava';
import { HOST_SLOTS, hostCounter } from '#guest/net.ts';
import { CONTROL_BYTES, CONTROL_PINGS, CONTROL_STREAM, CONTROL_WORDS, type GuestSetup } from '#guest/worker.ts';
import { GuestBackend } from '../support/guest-backend.ts';
import { ALL_FEATURES, ALL_PROTOCOL } from '../support/guest-pair.ts';
import { arp, eth, packet } from '../support/packets.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';

test('a guest in a worker answers, streams as told, tells its state, and leaves in order', async (t) => {
  const dir = scratchDir('rwk');
  const path = `${dir}/s`;
  const backend = new GuestBackend({ path, features: ALL_FEATURES, protocol: ALL_PROTOCOL });
  const setup: GuestSetup = {
    name: 'guest',
    port: { path, retryMs: 10 },
    host: { mac: '02:00:00:00:00:02', ip: '10.0.0.2', peer: '10.0.0.1' },
    slots: new SharedArrayBuffer(HOST_SLOTS * 8),
    control: new SharedArrayBuffer(CONTROL_WORDS * 4),
  };
  const control = new Int32Array(setup.control);
  const slots = new Float64Array(setup.slots);
  const worker = new Worker(new URL('../../src/guest/worker.ts', import.meta.url), { workerData: setup });
  const states: string[] = [];
  worker.on('message', ({ state }: { state: string }) => states.push(state));
  try {
    await until('the port to be up', () => states.at(-1) === 'up');
    backend.deliver([{ frame: packet(eth(), arp()) }]);
    const seen: number[] = [];
    const look = (): void => {
      for (const { frame } of backend.take()) seen.push(frame.length);
    };
    await until('the answer', () => {
      look();
      return seen.length === 1;
    });
    control[CONTROL_BYTES] = 100;
    control[CONTROL_STREAM] = 1;
    await until('a stream', () => {
      look();
      return seen.length > 300;
    });
    t.true(seen.slice(1).every((length) => length === 100));
    control[CONTROL_STREAM] = 0;
    control[CONTROL_PINGS] = 100;
    await until('pings', () => {
      look();
      return slots[hostCounter('pings_sent')]! > 3;
    });
    backend.drop();
    await until('the port to be up again', () => states.length >= 4 && states.at(-1) === 'up');
    const exited = new Promise((resolve) => worker.once('exit', resolve));
    worker.postMessage('stop');
    t.is(await exited, 0);
    t.is(backend.messages.at(-1), 'GET_VRING_BASE');
  } finally {
    await worker.terminate();
    backend.close();
    removeScratchDir(dir);
  }
});
