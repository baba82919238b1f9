import test from 'ava';
import { PORTS, sessionTypes } from '#pmd/port-types.ts';
import { KIND } from '#ports/memif/attachment.ts';
import { memifPort } from '#ports/memif/factory.ts';
import { MemifRxQueue } from '#ports/memif/rx.ts';
import type { MemifTxQueue } from '#ports/memif/tx.ts';
import { forward, Peer } from './peer.ts';

const frameOf = (length: number, seed: number): Buffer => Buffer.alloc(length, seed);

test('the type memif is registered with its view', (t) => {
  t.is(PORTS.get(KIND), memifPort);
  t.true(sessionTypes('/tmp').has('memif'));
});

test('two workers that take turns on one ring lose and repeat nothing, and exclude each other by its lock', async (t) => {
  for (const role of ['server', 'client'] as const) {
    const peer = await Peer.make(1, { role });
    const ports = [0, 1].map((worker) => peer.attach(worker, 2));
    const tx = ports.map((port) => port.tx as MemifTxQueue);
    t.true(ports.every(({ rx }) => rx[0] instanceof MemifRxQueue) && tx.every(({ shared }) => shared));
    t.true(tx[0]!.lock());
    t.false(tx[1]!.lock());
    tx[0]!.unlock();
    t.true(tx[1]!.lock());
    tx[1]!.unlock();
    const frames = Array.from({ length: 200 }, (_, i) => frameOf(64, i));
    for (const frame of frames) t.true(peer.send(frame));
    for (let i = 0; forward({ port: ports[i % 2]! }, [{ port: ports[(i >> 1) % 2]! }]) > 0; i++);
    t.deepEqual(peer.receive(), frames);
    for (const port of ports) port.close();
    await peer.close();
  }
});

test('queues are spread over workers; a view of the same connection takes the mappings over', async (t) => {
  const peer = await Peer.make(1, { queues: 3 });
  t.deepEqual(peer.attachment.rxQueues, [0, 1, 2]);
  const [first, second] = [peer.attach(0, 2), peer.attach(1, 2)];
  t.deepEqual([first.tx!.queue, second.tx!.queue, first.tx!.shared], [0, 1, false]);
  const regions = (port: unknown) => (port as { regions: object }).regions;
  const next = peer.attach(0, 2, first);
  t.is(regions(next), regions(first));
  t.not(regions(next), regions(second));
  peer.send(frameOf(64, 1), [], 2);
  t.is(forward({ port: next }, [{ port: next }], false, 2), 1);
  t.deepEqual(peer.receive(0), [frameOf(64, 1)]);
  for (const port of [next, second]) port.close();
  await peer.close();
});
