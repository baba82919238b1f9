import test from 'ava';
import fc from 'fast-check';
import type { ChainShape, Feature, PortOptions } from '#guest/index.ts';
import { exchange, noise, withPair } from '../support/guest-pair.ts';

const MASKS: Feature[] = [
  'VERSION_1',
  'MRG_RXBUF',
  'INDIRECT_DESC',
  'ANY_LAYOUT',
  'EVENT_IDX',
  'CSUM',
  'GUEST_CSUM',
  'HOST_TSO4',
  'HOST_TSO6',
  'GUEST_TSO4',
  'GUEST_TSO6',
];

const shapes = (longest: number): fc.Arbitrary<ChainShape> =>
  fc.record({
    headerAlone: fc.boolean(),
    cuts: fc
      .uniqueArray(fc.integer({ min: 1, max: longest }), { maxLength: 5 })
      .map((cuts) => cuts.sort((a, b) => a - b)),
    indirect: fc.boolean(),
  });

test('frames of all sizes pass byte-exact whatever the features, ring sizes, regions and chain shapes', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.subarray(MASKS),
      fc.integer({ min: 3, max: 15 }).map((n) => 1 << n),
      fc.array(fc.oneof(fc.integer({ min: 60, max: 1600 }), fc.integer({ min: 1600, max: 65_535 })), {
        minLength: 1,
        maxLength: 60,
      }),
      shapes(2000),
      shapes(2000),
      fc.record({
        files: fc.integer({ min: 1, max: 2 }),
        splits: fc.integer({ min: 1, max: 4 }),
        gpaBase: fc.constantFrom(0, 4096, 2 ** 32 - 2 ** 20, 2 ** 40),
        sealed: fc.boolean(),
      }),
      fc.boolean(),
      async (features, ringSize, lengths, txShape, rxShape, memory, ack) => {
        const indirect = features.includes('INDIRECT_DESC');
        const legacy = !features.includes('VERSION_1') && !features.includes('ANY_LAYOUT');
        const fix = (shape: ChainShape): ChainShape => ({
          headerAlone: legacy || shape.headerAlone!,
          cuts: shape.cuts!,
          indirect: indirect && shape.indirect!,
        });
        const options: Partial<PortOptions> = {
          features,
          ringSize,
          memory,
          rxShape: fix(rxShape),
          acknowledge: ack ? 'all' : 'memory',
          txFrameBytes: 65_535,
          rxFrameBytes: features.includes('MRG_RXBUF') && ringSize >= 512 ? 1531 : 65_535,
          txBuffers: Math.min(ringSize, 64),
          rxBuffers: Math.min(ringSize, 512),
        };
        await withPair(options, {}, (port, backend) => {
          port.queue(0).tx.setShape(fix(txShape));
          exchange(t, port, backend, lengths);
        });
      },
    ),
    { numRuns: 60 },
  );
});

test('the guest asks for kicks and calls only where they are wanted', async (t) => {
  for (const features of [['VERSION_1'], ['VERSION_1', 'EVENT_IDX']] as Feature[][]) {
    await withPair({ features }, {}, async (port, backend) => {
      const queue = port.queue(0);
      backend.kicks(1);
      queue.send([noise(60, 1)]);
      t.is(backend.kicks(1), 1, 'the first frame is announced');
      const waiting = queue.readable(5000);
      backend.deliver([{ frame: noise(60, 2) }]);
      t.true(await waiting);
      t.is(queue.receive().length, 1);
      t.false(await queue.readable(20));
      backend.deliver([{ frame: noise(60, 3) }]);
      t.true(queue.waitReadable(5000));
      t.true(queue.waitReadable(5000), 'and again, as long as the frame is there');
      t.is(queue.receive().length, 1);
      t.false(queue.waitReadable(5));
    });
  }
});
