import test from 'ava';
import { PORT_ROW, portCounter } from '#contract/catalogue.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import { dummyPort, dummySession } from '#ports/dummy/port.ts';
import type { Attachment } from '#ports/port.ts';

test('a dummy port counts what is sent to it and lets it go', (t) => {
  const slots = new Float64Array(2 * PORT_ROW);
  const batch = new PacketBatch();
  const context = { worker: 0, workers: 1, counters: { slots, base: PORT_ROW }, batch };
  const port = dummyPort({ kind: 'dummy', portNo: 1, rxQueues: [] }, context);
  batch.length.set([60, 100, 1500]);
  t.is(port.portNo, 1);
  t.is(port.rx.length, 0);
  t.true(port.tx!.lock());
  t.is(port.tx!.push(batch, Int32Array.of(0, 2, 9), 2), 2);
  port.tx!.publish();
  port.tx!.unlock();
  t.is(slots[PORT_ROW + portCounter('tx_packets')], 2);
  t.is(slots[PORT_ROW + portCounter('tx_bytes')], 1560);
  t.is(batch.rowCount, 0, 'nothing is copied');
  port.close();
});

test('its session is up from the start, takes any options and stays up', async (t) => {
  const attached: (Attachment | undefined)[] = [];
  const host = { attach: async (_: number, a: Attachment | undefined) => void attached.push(a), status() {} };
  const session = dummySession({ portNo: 4, name: 'd', type: 'dummy', options: {}, mtu: 1500 }, host);
  await session.start();
  t.deepEqual(attached, [{ kind: 'dummy', portNo: 4, rxQueues: [] }]);
  t.true(await session.reconfigure({ anything: 'goes' }));
  session.fault('nothing to fault');
  t.like(session.status(), { state: 'up', linkUp: true, lastError: '' });
  await session.stop();
});
