import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import {
  type ChainShape,
  DEFAULT_FEATURES,
  type Feature,
  OFFLOAD_FEATURES,
  openVirtioPort,
  type PortOptions,
} from '#guest/index.ts';
import { noise } from '../support/guest-pair.ts';
import { GuestWire } from '../support/guest-wire.ts';
import { removeScratchDir, scratchDir, sleep, until } from '../support/process.ts';

const FEATURES: Feature[] = [...DEFAULT_FEATURES, ...OFFLOAD_FEATURES];

const side = (): fc.Arbitrary<Partial<PortOptions> & { role: 'client' | 'server'; txShape: ChainShape }> =>
  fc
    .record({
      role: fc.constantFrom('client' as const, 'server' as const),
      order: fc.constantFrom('virtio-user' as const, 'qemu' as const),
      features: fc.subarray(FEATURES),
      ringSize: fc.integer({ min: 4, max: 12 }).map((n) => 1 << n),
      // Entries that a packed ring has fewer: any size will do.
      packed: fc.option(fc.nat(7), { nil: undefined }),
      files: fc.integer({ min: 1, max: 2 }),
      splits: fc.integer({ min: 1, max: 4 }),
      gpaBase: fc.constantFrom(0, 2 ** 32 - 2 ** 20, 2 ** 40),
      sealed: fc.boolean(),
      cuts: fc.uniqueArray(fc.integer({ min: 1, max: 2000 }), { maxLength: 5 }).map((c) => c.sort((a, b) => a - b)),
      headerAlone: fc.boolean(),
      indirect: fc.boolean(),
    })
    .map(({ features, files, splits, gpaBase, sealed, cuts, headerAlone, indirect, packed, ...rest }) => {
      const ringSize = rest.ringSize - (packed ?? 0);
      const legacy = packed === undefined && !features.includes('VERSION_1') && !features.includes('ANY_LAYOUT');
      const shape = {
        cuts,
        headerAlone: headerAlone || legacy,
        indirect: indirect && features.includes('INDIRECT_DESC'),
      };
      const merging = features.includes('MRG_RXBUF') && ringSize >= 512;
      return {
        ...rest,
        features,
        ringSize,
        packed: packed !== undefined,
        memory: { files, splits, gpaBase, sealed },
        txShape: shape,
        rxShape: shape,
        txFrameBytes: 65_535,
        rxFrameBytes: merging ? 1531 : 65_535,
        txBuffers: Math.min(ringSize, 64),
        rxBuffers: Math.min(ringSize, 512),
      };
    });

const lengths = fc.array(
  fc.oneof(fc.integer({ min: 60, max: 1600 }), fc.integer({ min: 1600, max: 65_535 }), fc.constantFrom(60, 65_535)),
  { minLength: 1, maxLength: 40 },
);

test('the switch carries frames byte-exact between guests of any features, rings, memory and chain shapes', async (t) => {
  await fc.assert(
    fc.asyncProperty(side(), side(), lengths, async (a, b, sizes) => {
      const dir = scratchDir('rww');
      const sides = [a, b];
      const wire = new GuestWire(
        dir,
        sides.map(({ role }) => ({ mode: role === 'client' ? 'server' : 'client' })),
      );
      const ports = [];
      try {
        await wire.start();
        for (const [i, { txShape, ...options }] of sides.entries()) {
          const port = await openVirtioPort({ path: wire.paths[i]!, ...options });
          ports.push(port);
          port.queue(0).tx.setShape(txShape);
        }
        await until('both ports to be up', () => wire.state(0) === 'up' && wire.state(1) === 'up');
        for (const from of [0, 1]) {
          const [source, target] = [ports[from]!.queue(0), ports[1 - from]!.queue(0)];
          const got: Uint8Array[] = [];
          const frames = sizes.map((length, i) => noise(length, i + 1));
          for (const frame of frames) {
            for (let turn = 0; turn < 3 && source.send([frame]) === 0; turn++) wire.pump();
            wire.pump();
            got.push(...target.receive());
          }
          const what = `${JSON.stringify(wire.drops(0))} ${JSON.stringify(wire.drops(1))}`;
          if (got.length !== frames.length)
            throw new Error(`${got.length} of ${frames.length} frames came; drops ${what}`);
          for (const [i, frame] of frames.entries()) {
            if (Buffer.compare(frame, got[i]!) !== 0) throw new Error(`frame ${i} of ${frame.length} bytes differs`);
          }
        }
      } finally {
        for (const port of ports) await port.close();
        await wire.stop();
        removeScratchDir(dir);
      }
    }),
    { numRuns: 40 },
  );
  t.pass();
});

test('a guest comes and goes, and the ring goes on', async (t) => {
  for (const rings of [{}, { packed: true, ringSize: 13 }]) await comeAndGo(t, rings);
});

const comeAndGo = async (t: ExecutionContext, rings: Partial<PortOptions>): Promise<void> => {
  const dir = scratchDir('rww');
  const wire = new GuestWire(dir);
  await wire.start();
  try {
    const [a, b] = await Promise.all(wire.paths.map((path) => openVirtioPort({ path, retryMs: 10, ...rings })));
    const send = async (seed: number): Promise<boolean> => {
      const frame = noise(100, seed);
      a!.queue(0).send([frame]);
      await until('the frame to come', () => {
        wire.pump();
        return b!
          .queue(0)
          .receive()
          .some((got) => Buffer.compare(got, frame) === 0);
      });
      return true;
    };
    const up = () =>
      until(
        'both ports to be up',
        () => [a, b].every((port) => port!.state === 'up') && [0, 1].every((i) => wire.state(i) === 'up'),
      );
    await up();
    t.true(await send(1));
    for (let round = 2; round < 6; round++) {
      (round % 2 ? a : b)!.disconnect();
      await sleep(5);
      await up();
      t.true(await send(round));
    }
    await a!.close();
    await b!.close();
  } finally {
    await wire.stop();
    removeScratchDir(dir);
  }
};

test('a frame over many buffers finds room as soon as the guest has given it back', async (t) => {
  const dir = scratchDir('rww');
  const wire = new GuestWire(dir);
  await wire.start();
  try {
    const a = await openVirtioPort({ path: wire.paths[0], txFrameBytes: 65_535 });
    const b = await openVirtioPort({ path: wire.paths[1], ringSize: 128, rxFrameBytes: 1531 });
    await until('both ports to be up', () => wire.state(0) === 'up' && wire.state(1) === 'up');
    for (const length of [65_535, 6841, 65_535, 679, 65_535, 1146, 65_535]) {
      a.queue(0).send([noise(length, length)]);
      wire.pump();
      t.deepEqual(
        b
          .queue(0)
          .receive()
          .map((frame) => frame.length),
        [length],
      );
    }
    t.deepEqual(wire.drops(1), {});
    await a.close();
    await b.close();
  } finally {
    await wire.stop();
    removeScratchDir(dir);
  }
});

test('queue pairs carry frames while they are enabled', async (t) => {
  const dir = scratchDir('rww');
  const wire = new GuestWire(dir);
  await wire.start();
  try {
    const a = await openVirtioPort({ path: wire.paths[0], queues: 4, enabled: 1, order: 'qemu' });
    const b = await openVirtioPort({ path: wire.paths[1] });
    await until('both ports to be up', () => wire.state(0) === 'up' && wire.state(1) === 'up');
    const arrives = async (pair: number): Promise<void> => {
      const frame = noise(100, pair + 1);
      a.queue(pair).send([frame]);
      await until(`the frame of pair ${pair}`, () => {
        wire.pump();
        return b
          .queue(0)
          .receive()
          .some((got) => Buffer.compare(got, frame) === 0);
      });
    };
    await arrives(0);
    a.setQueues(4);
    for (const pair of [0, 1, 2, 3]) await arrives(pair);
    a.setQueues(2);
    await until('two queues to be left', () => wire.queues(0) === 2);
    a.queue(3).send([noise(60, 1)]);
    for (let i = 0; i < 5; i++) wire.pump();
    t.is(b.queue(0).receive().length, 0, 'a disabled pair is not read');
    for (const pair of [0, 1]) await arrives(pair);
    a.setQueues(4);
    await until('what waited in pair 3', () => {
      wire.pump();
      return b.queue(0).receive().length === 1;
    });
    await a.close();
    await b.close();
  } finally {
    await wire.stop();
    removeScratchDir(dir);
  }
});
