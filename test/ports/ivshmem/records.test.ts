import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { STATE_CLOSED } from '#ports/ivshmem/layout.ts';
import type { Attachment } from '#ports/port.ts';
import type { FloodData } from './flood-worker.ts';
import { Peer } from './peer.ts';
import { endPool, makePool } from './rig.ts';

const CLIENTS = 4;
const WORKERS = 2;
const FRAMES = 3000;
const KILLS = 12;

/** Bytes 14..: who sent it, its number, and that all over. */
const stamp = (sender: number, number: number): Uint8Array => {
  const frame = new Uint8Array(100);
  const view = new DataView(frame.buffer);
  for (let at = 16; at + 8 <= frame.length; at += 8) {
    view.setUint32(at, sender);
    view.setUint32(at + 4, number);
  }
  return frame;
};

/** @returns sender and number. @throws Error when the frame is not as it was sent. */
const readStamp = (frame: Uint8Array): [number, number] => {
  const view = new DataView(frame.buffer, frame.byteOffset);
  const is = [view.getUint32(16), view.getUint32(20)] as [number, number];
  if (Buffer.compare(frame, stamp(...is)) !== 0) throw new Error(`torn frame ${frame}`);
  return is;
};

test('two workers share a pool: frames arrive whole and in order, clients come and go, no buffer is lost', async (t) => {
  const pool = makePool({ size: 1 << 20, slots: CLIENTS + 1, queues: 1, entries: 64, credit: 48, bufferBytes: 1024 });
  const control = new SharedArrayBuffer(4 * (CLIENTS + 1) * (WORKERS + 1));
  const words = new Int32Array(control);
  const attachments: (Attachment | undefined)[] = [undefined];
  for (let slot = 1; slot <= CLIENTS; slot++) {
    const attachment = { kind: 'ivshmem', portNo: slot, rxQueues: [0], pool: pool.place, slot, mtu: 1500 };
    attachments.push({ ...attachment, queues: [{ queue: 0, kickFd: -1, callFd: -1 }] } as Attachment);
  }
  const failures: Error[] = [];
  const settled = async (slot: number): Promise<void> => {
    for (let w = 1; w <= WORKERS; w++) {
      while (Atomics.load(words, w * (CLIENTS + 1) + slot) !== Atomics.load(words, slot)) {
        if (failures.length > 0) throw failures[0];
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  };
  const open = (slot: number): Peer => {
    pool.open(slot, { queues: 1, mtu: 1500, portNo: slot, name: `p${slot}`, plain: true });
    Atomics.add(words, slot, 1);
    return new Peer(pool, slot);
  };
  const workers = Array.from({ length: WORKERS }, (_, worker) => {
    const workerData: FloodData = { attachments, worker, workers: WORKERS, control };
    return new Worker(new URL('./flood-worker.ts', import.meta.url), { workerData });
  });
  for (const worker of workers) worker.on('error', (error) => failures.push(error as Error));
  try {
    const peers: Peer[] = [];
    for (let slot = 1; slot <= CLIENTS; slot++) peers[slot] = open(slot);
    const sent = new Array(CLIENTS + 1).fill(0);
    const last = new Map<string, number>();
    let received = 0;
    let kills = 0;
    const receive = (slot: number): void => {
      const peer = peers[slot]!;
      const frames = peer.receive();
      for (const pieces of frames) {
        const [sender, number] = readStamp(peer.bytes(pieces));
        const key = `${sender}>${slot}`;
        t.true(number > (last.get(key) ?? -1));
        last.set(key, number);
        received++;
      }
      peer.giveBack(frames);
    };
    while (received < FRAMES * CLIENTS || kills < KILLS) {
      if (failures.length > 0) throw failures[0];
      for (let slot = 1; slot <= CLIENTS; slot++) {
        for (let i = 0; i < 8; i++) if (peers[slot]!.send(stamp(slot, sent[slot]))) sent[slot]++;
        receive(slot);
      }
      const a = pool.audit();
      t.is(a.free + a.sending + a.receiving + a.held, a.total);
      t.is(a.stacked, a.free);
      if (received > (kills + 1) * 500) {
        // A client dies with all it has in its hands, while the others go on.
        const slot = 1 + (kills++ % CLIENTS);
        peers[slot]!.take();
        Atomics.add(words, slot, 1);
        await settled(slot);
        pool.shut(slot, STATE_CLOSED);
        t.deepEqual(pool.holdings(slot), { sending: 0, receiving: 0 });
        peers[slot] = open(slot);
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    Atomics.store(words, 0, 1);
    await Promise.all(workers.map((worker) => (worker.threadId > 0 ? once(worker, 'exit') : undefined)));
  }
  t.deepEqual(failures, []);
  t.is(pool.audit().held, 0);
  for (let slot = 1; slot <= CLIENTS; slot++) pool.shut(slot, STATE_CLOSED);
  const { total, free, stacked } = pool.audit();
  t.is(free, total);
  t.is(stacked, total);
  endPool(pool);
});
