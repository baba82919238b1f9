import test from 'ava';
import { close, eventfd } from '#contract/os.ts';
import { ChainWalker } from '#ports/vhost-user/chain.ts';
import { PackedChainWalker } from '#ports/vhost-user/chain-packed.ts';
import { GuestMemory } from '#ports/vhost-user/guest-memory.ts';
import { IommuView } from '#ports/vhost-user/iommu-view.ts';
import { ASKED, IotlbShared, keyOf, MAX_IOTLB_WORKERS } from '#ports/vhost-user/iotlb-shared.ts';
import { AskingSpace, IommuWorker } from '#ports/vhost-user/iova-space.ts';
import { PackedLookAhead, SplitLookAhead } from '#ports/vhost-user/look-ahead.ts';
import { RingWindows } from '#ports/vhost-user/ring-windows.ts';
import { DESC_WRITE, Vring } from '#ports/vhost-user/vring.ts';
import { PackedVring } from '#ports/vhost-user/vring-packed.ts';
import { IOTLB_WRITE } from '#ports/vhost-user/wire.ts';
import { GUEST_BASE } from './driver.ts';
import { batch, TestPort } from './test-port.ts';

for (const packed of [false, true]) {
  test(`one look asks for every page of the buffers offered, a second for none (${packed ? 'packed' : 'split'} rings)`, (t) => {
    const port = new TestPort(1, { packed });
    const { attachment } = port.driver;
    const memory = new GuestMemory(attachment.regions, 0);
    const shared = new IotlbShared();
    const missFd = eventfd();
    const worker = new IommuWorker(shared, 0, missFd);
    const space = new AskingSpace(worker, memory, IOTLB_WRITE);
    const place = attachment.rings[0]!;
    const ahead = packed
      ? new PackedLookAhead(
          new PackedVring(place, memory.buffers, attachment.state),
          new PackedChainWalker(space, memory),
          DESC_WRITE,
        )
      : new SplitLookAhead(
          new Vring(place, memory.buffers, attachment.state),
          new ChainWalker(space, memory),
          DESC_WRITE,
        );
    const chains = 20;
    for (let i = 0; i < chains; i++) port.driver.post(10_000, { cuts: [12, 5000], indirect: i % 2 === 0 });
    worker.enter();
    ahead.run();
    const wanted = new Set<number>();
    for (const pieces of port.driver.rxRing.chains.values()) {
      for (const [offset, length] of pieces) {
        const first = Math.floor((GUEST_BASE + offset) / 4096);
        for (let page = first; page * 4096 < GUEST_BASE + offset + length; page++)
          wanted.add(keyOf(page * 4096, IOTLB_WRITE));
      }
    }
    const asked = shared.words[ASKED]!;
    t.deepEqual(new Set(shared.asks.subarray(0, asked)), wanted);
    t.is(asked, wanted.size);
    ahead.run();
    t.is(shared.words[ASKED], asked);
    port.driver.post(100);
    ahead.run();
    worker.leave();
    t.true(shared.words[ASKED]! >= asked);
    close(missFd);
    memory.close();
    port.close();
  });
}

test('a worker beyond those that the shared table knows cannot serve a port behind an IOMMU', (t) => {
  const port = new TestPort(1);
  const memory = new GuestMemory(port.attachment.regions, 0);
  const context = { worker: MAX_IOTLB_WORKERS, workers: 1, counters: { slots: port.counters, base: 0 }, batch };
  const attachment = { ...port.attachment, iommu: { shared: new IotlbShared().buffer, missFd: -1 } };
  t.throws(() => new IommuView(attachment, context, memory, new RingWindows(memory.buffers, 0)), {
    message: /at most 128 workers/,
  });
  memory.close();
  port.close();
});
