import test from 'ava';
import fc from 'fast-check';
import { close, eventfd } from '#contract/os.ts';
import { GuestMemory, TABLE_DELTA, TABLE_STRIDE } from '#ports/vhost-user/guest-memory.ts';
import { Iommu } from '#ports/vhost-user/iommu.ts';
import { IommuRx, IommuTx } from '#ports/vhost-user/iommu-queues.ts';
import { Iotlb, type Translation } from '#ports/vhost-user/iotlb.ts';
import { ASKED, IotlbShared, MAX_ENTRIES, TAKEN } from '#ports/vhost-user/iotlb-shared.ts';
import { IommuWorker, IovaSpace } from '#ports/vhost-user/iova-space.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { until } from '../../support/process.ts';
import { Driver, GUEST_BASE, MEMORY_BYTES } from './driver.ts';
import { batch, forward, TestPort } from './test-port.ts';

const PAGE = 4096;
const RINGS = 1 << 20;
const SPACE_PAGES = 64;

/** One page of I/O virtual addresses, as the naive table has it. */
interface PageEntry {
  region: number;
  offset: number;
  permission: number;
}

const pages = fc.record({ first: fc.nat(SPACE_PAGES - 1), count: fc.integer({ min: 1, max: 12 }) });
const step = fc.oneof(
  fc.record({
    kind: fc.constant('insert' as const),
    pages,
    region: fc.nat(1),
    to: fc.nat(SPACE_PAGES),
    permission: fc.integer({ min: 1, max: 3 }),
  }),
  fc.record({ kind: fc.constant('remove' as const), pages }),
);

test('translations are those of a table page by page, for the main thread and for a worker', (t) => {
  const driver = new Driver(1);
  const memory = new GuestMemory(driver.attachment.regions, 0);
  const missFd = eventfd();
  let compared = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), (steps) => {
      const iotlb = new Iotlb();
      const worker = new IommuWorker(new IotlbShared(iotlb.shared.buffer), 0, missFd);
      const spaces = [wire.IOTLB_READ, wire.IOTLB_WRITE].map((p) => new IovaSpace(worker, memory, p));
      const naive = new Map<number, PageEntry>();
      for (const s of steps) {
        const start = s.pages.first * PAGE;
        const end = start + s.pages.count * PAGE;
        if (s.kind === 'remove') iotlb.remove(start, end);
        else iotlb.insert({ start, end, region: s.region, offset: s.to * PAGE, permission: s.permission });
        for (let i = 0; i < s.pages.count; i++) {
          const page = s.pages.first + i;
          if (s.kind === 'remove') naive.delete(page);
          else naive.set(page, { region: s.region, offset: (s.to + i) * PAGE, permission: s.permission });
        }
        worker.enter();
        for (let page = 0; page < SPACE_PAGES + 12; page++) {
          const at = page * PAGE + ((page * 37) % PAGE);
          const want = naive.get(page);
          const row = iotlb.find(at);
          t.is(row && row.offset + at - row.start, want && want.offset + (at % PAGE));
          t.is(row?.permission, want?.permission);
          for (const [i, space] of spaces.entries()) {
            space.at[0] = at;
            const found = space.find();
            const may = want !== undefined && (want.permission & (i + 1)) !== 0;
            t.is(found >= 0, may);
            if (may) {
              t.is(
                at + space.table[found * TABLE_STRIDE + TABLE_DELTA]!,
                memory.base[want.region]! + want.offset + (at % PAGE),
              );
            }
            compared++;
          }
        }
        worker.leave();
      }
      for (let i = 1; i < iotlb.size; i++) t.true(iotlb.row(i - 1).end <= iotlb.row(i).start);
    }),
    { numRuns: 40 },
  );
  t.true(compared > 0);
  close(missFd);
  memory.close();
  driver.close();
});

test('a table that is full gives up translations that nobody pinned, and counts them', (t) => {
  const iotlb = new Iotlb();
  const pinned = (row: Translation) => row.start === 0;
  for (let i = 0; i <= MAX_ENTRIES + 10; i++) {
    iotlb.insert({ start: i * 2 * PAGE, end: (i * 2 + 1) * PAGE, region: 0, offset: 0, permission: 3 }, pinned);
  }
  t.is(iotlb.size, MAX_ENTRIES);
  t.is(iotlb.evicted, 11);
  t.truthy(iotlb.find(0));
  t.truthy(iotlb.find((MAX_ENTRIES + 10) * 2 * PAGE));
});

/** A front end that knows where every page of a driver lies: IOVAs are GUEST_BASE on, whatever the regions say. */
class Bench {
  readonly iommu: Iommu;
  readonly port: TestPort;
  readonly asked: { iova: bigint; permission: number; type: number }[] = [];
  /** Pages have translations; questions are answered. */
  maps = true;
  answers = true;
  /** Questions under way. */
  open = 0;

  constructor(packed: boolean, mergeable: boolean) {
    this.iommu = new Iommu((payload, done) => {
      const message = wire.decodeIotlb(payload);
      this.asked.push(message);
      if (!this.answers) return 'sent';
      this.open++;
      setImmediate(
        () =>
          void this.answer(message)
            .then(done)
            .finally(() => this.open--),
      );
      return 'sent';
    }, packed);
    const options = { packed, size: 256, tx: { mergeable } };
    this.port = new TestPort(1, options, 0, (attachment) => ({
      ...attachment,
      ...this.iommu.parts(),
      regions: shuffled(attachment.regions[0]!.fd),
    }));
  }

  get regions() {
    return this.port.attachment.regions;
  }

  update(iova: bigint, size: bigint, userAddress: bigint, permission = 3, type = wire.IOTLB_UPDATE): Promise<boolean> {
    return this.iommu.obey({ iova, size, userAddress, permission, type }, this.regions, []);
  }

  async answer({ iova, permission }: { iova: bigint; permission: number }): Promise<void> {
    const offset = Number(iova) - GUEST_BASE;
    const region = this.regions.find((r) => offset >= r.mmapOffset && offset < r.mmapOffset + r.size);
    if (!region || !this.maps) return;
    // Neighbours with other permissions do not join.
    const allowed = (offset / PAGE) % 2 === 0 ? 3 : permission;
    await this.update(iova, BigInt(PAGE), BigInt(region.userAddress + offset - region.mmapOffset), allowed);
  }

  /** Whether the worker has nothing to ask for that it has not got. */
  quiet(): true | undefined {
    const { words } = new IotlbShared(this.iommu.parts().iommu!.shared);
    const asked = words[ASKED];
    this.port.port.rx[0]!.arm();
    return this.open === 0 && words[ASKED] === asked && words[TAKEN] === asked ? true : undefined;
  }

  close(): void {
    this.port.close();
    this.iommu.close();
  }
}

/** The driver's memory in slices that lie in any order in guest memory; its rings in the first one, which is longer. */
const shuffled = (fd: number) => {
  const count = 30;
  const slice = (MEMORY_BYTES - RINGS) / count;
  const region = (mmapOffset: number, size: number, place: number) => ({
    ...{ fd, mmapOffset, size, guestAddress: place, userAddress: 0x10_0000_0000 + place },
  });
  const slices = Array.from({ length: count }, (_, i) =>
    region(RINGS + i * slice, slice, MEMORY_BYTES + ((i * 7) % count) * slice),
  );
  return [region(0, RINGS, 0), ...slices];
};

const frameOf = (length: number, seed: number): Buffer => {
  const frame = Buffer.alloc(length);
  for (let i = 0; i < length; i++) frame[i] = (seed * 31 + i * 7 + (i >> 8)) & 0xff;
  frame.writeUInt16BE(0x88b5, 12);
  return frame;
};

for (const packed of [false, true]) {
  const kind = packed ? 'packed' : 'split';

  test(`frames cross byte-exact over buffers that are scattered behind an IOMMU (${kind} rings)`, async (t) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            length: fc.oneof(fc.integer({ min: 14, max: 2000 }), fc.integer({ min: 2000, max: 60_000 })),
            cuts: fc.constantFrom<number[]>([], [12], [5, 100, 1500]),
            indirect: fc.boolean(),
          }),
          { minLength: 1, maxLength: 20 },
        ),
        fc.boolean(),
        async (frames, mergeable) => {
          const from = new Bench(packed, false);
          const to = new Bench(packed, mergeable);
          for (const [i, { length, ...shape }] of frames.entries()) {
            const frame = frameOf(length, i);
            from.port.driver.restart();
            to.port.driver.restart();
            const room = mergeable ? 4000 : 65_600;
            for (let k = 0; k < Math.ceil((length + 12) / room); k++) t.true(to.port.driver.post(room, shape));
            // Buffers are looked at before they are needed.
            await until('translations of all buffers', () => to.quiet());
            t.true(from.port.driver.send(frame, shape));
            await until('the frame', () => (forward(from.port, to.port) > 0 ? true : undefined));
            t.deepEqual(from.port.driver.txRing.takeUsed().length, 1);
            const got = to.port.driver.receive();
            t.is(got.length, 1, JSON.stringify(to.port.counts()));
            t.true(got[0]!.frame.equals(frame));
          }
          t.falsy(from.port.counts()['rx_bad_descriptor']);
          t.falsy(to.port.counts()['tx_iotlb_miss']);
          from.close();
          to.close();
        },
      ),
      { numRuns: 12 },
    );
  });

  test(`a frame waits in the ring for its translation, which is asked for once (${kind} rings)`, async (t) => {
    const from = new Bench(packed, false);
    from.answers = false;
    const rx = from.port.port.rx[0]!;
    t.true(rx instanceof IommuRx);
    t.true(from.port.port.tx instanceof IommuTx);
    from.port.driver.send(frameOf(60, 1));
    for (let i = 0; i < 100; i++) {
      t.is(rx.poll(batch), 0);
      await settled();
    }
    t.is(from.asked.length, 1);
    await from.answer(from.asked[0]!);
    t.is(rx.poll(batch), 1);
    batch.clear();
    rx.complete();
    from.close();
  });

  test(`what the front end does not map is dropped in the end, and the ring goes on (${kind} rings)`, async (t) => {
    const from = new Bench(packed, false);
    const rx = from.port.port.rx[0]!;
    from.port.driver.send(frameOf(60, 1));
    from.maps = false;
    await until('the drop', () => {
      from.iommu.tidy(0);
      rx.poll(batch);
      return from.port.counts()['rx_bad_descriptor'] === 1 ? true : undefined;
    });
    t.is(from.port.driver.txRing.takeUsed().length, 1);
    from.maps = true;
    await until('the refusal to be forgotten', () => {
      from.iommu.tidy(performance.now() + 60_000);
      return from.iommu.facts()['iotlb_refused_misses'] === '1' ? true : undefined;
    });
    from.port.driver.restart();
    from.port.driver.send(frameOf(60, 2));
    await until('the frame', () => (rx.poll(batch) === 1 ? true : undefined));
    batch.clear();
    rx.complete();
    from.close();
  });
}

test('an invalidation is acknowledged only when the burst that may use the translation is over', async (t) => {
  const from = new Bench(false, false);
  const rx = from.port.port.rx[0]!;
  from.port.driver.send(frameOf(60, 1));
  await until('the frame', () => (rx.poll(batch) === 1 ? true : undefined));
  let acknowledged = false;
  const all = { iova: 0n, size: (1n << 64n) - 1n, userAddress: 0n, permission: 0, type: wire.IOTLB_INVALIDATE };
  const done = from.iommu.obey(all, from.regions, []).then((ok) => {
    acknowledged = ok;
  });
  for (let i = 0; i < 20; i++) await settled();
  t.false(acknowledged);
  batch.clear();
  rx.complete();
  await done;
  t.true(acknowledged);
  const asked = from.asked.length;
  from.answers = false;
  from.port.driver.restart();
  from.port.driver.send(frameOf(60, 2));
  rx.poll(batch);
  await until('a question', () => (from.asked.length > asked ? true : undefined));
  t.is(from.iommu.facts()['iotlb_entries'], '0');
  from.close();
});

test('messages that make no sense are refused, change nothing, and are counted', async (t) => {
  const from = new Bench(false, false);
  const user = BigInt(from.regions[0]!.userAddress);
  t.true(await from.update(0x1000n, 0x1000n, user));
  const refused: [string, Promise<boolean>][] = [
    ['permission 0', from.update(0x1000n, 0x1000n, user, 0)],
    ['permission 4', from.update(0x1000n, 0x1000n, user, 4)],
    ['empty', from.update(0x1000n, 0n, user)],
    ['wrapping', from.update((1n << 64n) - 0x1000n, 0x2000n, user)],
    ['huge', from.update(0n, 1n << 63n, user)],
    ['outside of the memory table', from.update(0x1000n, 0x1000n, 0x1000n)],
    ['over the end of a region', from.update(0x1000n, 1n << 40n, user)],
    ['a question', from.update(0x1000n, 0x1000n, user, 3, wire.IOTLB_MISS)],
    ['an unknown type', from.update(0x1000n, 0x1000n, user, 3, 9)],
    ['an empty invalidation', from.update(0x1000n, 0n, 0n, 0, wire.IOTLB_INVALIDATE)],
    ['a wrapping invalidation', from.update(0x1000n, (1n << 64n) - 1n, 0n, 0, wire.IOTLB_INVALIDATE)],
  ];
  for (const [what, result] of refused) t.false(await result, what);
  const facts = from.iommu.facts();
  t.is(facts['iotlb_refused_messages'], String(refused.length));
  t.is(facts['iotlb_entries'], '1');
  from.close();
});

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
