import test from 'ava';
import { PORT_ROW } from '#contract/catalogue.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import { attachXdpPort } from '#ports/kernel/xdp/attachment.ts';
import { FakeKernel } from './fake-kernel.ts';

test('every worker sees all rx queues and sends on its own socket, shared where there are fewer than workers', (t) => {
  const sockets = [0, 1].map((queue) => ({ ...new FakeKernel(16, 2048, 0).place, queue }));
  const piece = {
    sockets,
    txQueues: 2,
    longest: 1514,
    needWakeup: true,
    busyPoll: false,
    multiBuffer: true,
    txChecksum: false,
    partialChecksums: false,
  };
  const batch = new PacketBatch();
  const counters = { slots: new Float64Array(PORT_ROW), base: 0 };
  for (const workers of [1, 2, 3]) {
    for (let worker = 0; worker < workers; worker++) {
      const port = attachXdpPort(piece, 9, { worker, workers, counters, batch });
      t.deepEqual(
        port.rx.map(({ queue, kickFd }) => [queue, kickFd]),
        sockets.map(({ queue, fd }) => [queue, fd]),
      );
      t.is(port.tx!.queue, worker % 2);
      t.is(port.tx!.shared, workers > 2);
      port.close();
      const narrow = attachXdpPort({ ...piece, txQueues: 1 }, 9, { worker, workers, counters, batch });
      t.deepEqual([narrow.rx.length, narrow.tx!.queue, narrow.tx!.shared], [2, 0, workers > 1]);
      narrow.close();
    }
  }
});
