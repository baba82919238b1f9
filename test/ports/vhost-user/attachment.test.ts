import test from 'ava';
import { PORT_ROW } from '#contract/catalogue.ts';
import { attachVhostUser, type VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { VhostRxQueue } from '#ports/vhost-user/rx.ts';
import { PackedRxQueue } from '#ports/vhost-user/rx-packed.ts';
import { VhostTxQueue } from '#ports/vhost-user/tx.ts';
import { PackedTxQueue } from '#ports/vhost-user/tx-packed.ts';
import { Driver } from './driver.ts';
import { batch } from './test-port.ts';

type Rx = VhostRxQueue | PackedRxQueue;
type Tx = VhostTxQueue | PackedTxQueue;

const list = Int32Array.from({ length: 32 }, (_, i) => i);
const context = (worker: number, workers: number) => ({
  worker,
  workers,
  counters: { slots: new Float64Array(PORT_ROW), base: 0 },
  batch,
});

/** Receives at most 32 frames from one queue and sends them on another. */
function pass(rx: Rx, tx: Tx): number {
  const n = rx.poll(batch);
  if (n === 0) return 0;
  tx.push(batch, list, n);
  batch.copy();
  tx.publish();
  rx.complete();
  batch.clear();
  return n;
}

for (const packed of [false, true]) {
  const kind = packed ? 'packed' : 'split';
  test(`two workers that take turns on one ${kind} ring lose and repeat nothing, and exclude each other by its lock`, (t) => {
    const driver = new Driver(1, { packed, size: packed ? 203 : 256 });
    driver.startAt(packed ? 100 : 0);
    const ports = [0, 1].map((worker) => attachVhostUser(driver.attachment, context(worker, 2), undefined));
    const rx = ports.map((port) => port.rx[0] as Rx);
    const tx = ports.map((port) => port.tx as Tx);
    t.true(rx[0] instanceof (packed ? PackedRxQueue : VhostRxQueue));
    t.true(tx[0] instanceof (packed ? PackedTxQueue : VhostTxQueue));
    t.true(tx.every((queue) => queue.shared));
    t.true(tx[0]!.lock());
    t.false(tx[1]!.lock());
    tx[0]!.unlock();
    t.true(tx[1]!.lock());
    tx[1]!.unlock();

    const frames = Array.from({ length: 200 }, (_, i) => Buffer.alloc(64, i));
    for (const frame of frames) {
      driver.post(256);
      driver.send(frame);
    }
    for (let i = 0; pass(rx[i % 2]!, tx[(i >> 1) % 2]!) > 0; i++);
    t.deepEqual(
      driver.receive().map(({ frame }) => frame),
      frames,
    );
    for (const port of ports) port.close();
    driver.close();
  });
}

test('with a queue for every worker none is shared; workers are spread over queues', (t) => {
  const driver = new Driver(1);
  const pairs = driver.attachment.rings.map((ring) => ({ ...ring, index: ring.index + 2 }));
  const attachment: VhostUserAttachment = {
    ...driver.attachment,
    rings: [...driver.attachment.rings, ...pairs],
    rxQueues: [0, 1],
  };
  const ports = [0, 1].map((worker) => attachVhostUser(attachment, context(worker, 2), undefined));
  t.deepEqual(
    ports.map(({ tx }) => [tx!.queue, tx!.shared]),
    [
      [0, false],
      [1, false],
    ],
  );
  t.deepEqual(
    ports[0]!.rx.map(({ queue }) => queue),
    [0, 1],
  );
  const alone = attachVhostUser(
    { ...attachment, rings: attachment.rings.filter((r) => r.index % 2 === 1) } as VhostUserAttachment,
    context(0, 1),
    undefined,
  );
  t.is(alone.tx, undefined);
  for (const port of [...ports, alone]) port.close();
  driver.close();
});

test('an attachment of the same memory table takes the mappings over, another one does not', (t) => {
  const driver = new Driver(1);
  const first = attachVhostUser(driver.attachment, context(0, 1), undefined);
  const second = attachVhostUser(driver.attachment, context(0, 1), first);
  const memoryOf = (port: unknown) => (port as { memory: unknown }).memory;
  t.is(memoryOf(second), memoryOf(first));
  const third = attachVhostUser({ ...driver.attachment, generation: 7 } as VhostUserAttachment, context(0, 1), second);
  t.not(memoryOf(third), memoryOf(first));
  driver.post(256);
  driver.send(Buffer.alloc(64, 9));
  t.is(pass(third.rx[0] as VhostRxQueue, third.tx as VhostTxQueue), 1);
  third.close();
  driver.close();
});
