/**
 * A worker thread that polls every second slot of a pool and floods what comes in to all other slots, until word 0 of `control`
 * is set. Word s of slot s: odd, its port is wanted; even, it is not. Row w of what follows: what worker w has done.
 */
import { workerData } from 'node:worker_threads';
import { PORT_ROW } from '#contract/catalogue.ts';
import { BURST, PacketBatch } from '#datapath/packet/batch.ts';
import { ivshmemPort } from '#ports/ivshmem/attachment.ts';
import type { Attachment, WorkerPort } from '#ports/port.ts';

export interface FloodData {
  /** By slot; the first is empty. */
  readonly attachments: (Attachment | undefined)[];
  readonly worker: number;
  readonly workers: number;
  readonly control: SharedArrayBuffer;
}

const { attachments, worker, workers, control } = workerData as FloodData;
const words = new Int32Array(control);
const slots = attachments.length;
const done = words.subarray((1 + worker) * slots, (2 + worker) * slots);
const batch = new PacketBatch();
const list = Int32Array.from({ length: BURST }, (_, i) => i);
const ports: (WorkerPort | undefined)[] = [];
const counters = { slots: new Float64Array(PORT_ROW), base: 0 };

const follow = (): void => {
  for (let slot = 1; slot < slots; slot++) {
    const wanted = Atomics.load(words, slot);
    if (wanted === done[slot]) continue;
    ports[slot]?.close();
    ports[slot] =
      wanted % 2 === 1 ? ivshmemPort(attachments[slot]!, { worker, workers, counters, batch }, undefined) : undefined;
    Atomics.store(done, slot, wanted);
  }
};

const flood = (from: number, whole: boolean): void => {
  const rx = ports[from]?.rx[0];
  const n = rx?.poll(batch, whole) ?? 0;
  if (!rx || n === 0) return;
  for (let to = 1; to < slots; to++) {
    const tx = to === from ? undefined : ports[to]?.tx;
    if (!tx?.lock()) continue;
    tx.push(batch, list, n);
    batch.copy();
    tx.publish();
    tx.unlock();
  }
  rx.complete();
  batch.clear();
};

for (let turn = 0; Atomics.load(words, 0) === 0; turn++) {
  follow();
  for (let slot = 1 + worker; slot < slots; slot += workers) flood(slot, turn % 2 === 0);
}
for (const port of ports) port?.close();
