import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { type ChainShape, type Feature, openVirtioPort, type PortOptions, type VirtioPort } from '#guest/index.ts';
import { bits, PROTOCOL_FEATURES, VIRTIO_FEATURES } from '#ports/vhost-user/wire.ts';
import { type BackendOptions, GuestBackend } from '../support/guest-backend.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';

const ALL = bits(VIRTIO_FEATURES, Object.keys(VIRTIO_FEATURES) as Feature[]);
const PROTOCOL = bits(PROTOCOL_FEATURES, ['MQ', 'REPLY_ACK', 'NET_MTU', 'STATUS']);

/** Runs `body` on a port and a back end that have found each other. */
async function pair(
  options: Partial<PortOptions>,
  offer: Partial<BackendOptions>,
  body: (port: VirtioPort, backend: GuestBackend) => Promise<void> | void,
): Promise<void> {
  const dir = scratchDir('rwg');
  const path = join(dir, 's');
  const client = options.role !== 'server';
  let backend: GuestBackend | undefined;
  let port: VirtioPort | undefined;
  const make = () =>
    new GuestBackend({ path, role: client ? 'server' : 'client', features: ALL, protocol: PROTOCOL, ...offer });
  try {
    if (client) backend = make();
    const opening = openVirtioPort({ path, ...options });
    if (!client) {
      backend = make();
      await until('the socket of the guest', () => {
        try {
          backend!.connect();
          return true;
        } catch {
          return false;
        }
      });
    }
    port = await opening;
    await body(port, backend!);
  } finally {
    await port?.close({ abrupt: true });
    backend?.close();
    removeScratchDir(dir);
  }
}

const noise = (length: number, seed: number): Uint8Array => {
  const bytes = new Uint8Array(length);
  let x = (seed * 2654435761) >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    bytes[i] = x;
  }
  return bytes;
};

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

function exchange(t: ExecutionContext, port: VirtioPort, backend: GuestBackend, lengths: number[], q = 0): void {
  const queue = port.queue(q);
  const frames = lengths.map((length, i) => noise(length, i + 1));
  const fields = { flags: 1, gsoType: 1, gsoSize: 1448, headerLength: 66, csumStart: 34, csumOffset: 16 };
  let at = 0;
  while (at < frames.length) {
    const sent = queue.send(frames.slice(at, at + 40), fields);
    t.true(sent > 0, 'the ring takes frames');
    const taken = backend.take(q);
    t.is(taken.length, sent);
    for (const [i, { frame, header }] of taken.entries()) {
      t.true(same(frame, frames[at + i]!), `sent frame ${at + i} of ${frame.length} bytes`);
      t.deepEqual([...header.subarray(0, 10)], [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0]);
    }
    at += sent;
  }
  at = 0;
  while (at < frames.length) {
    const header = Uint8Array.of(2, 4, 54, 0, 0xdc, 5, 14, 0, 6, 0);
    const given = backend.deliver(
      frames.slice(at, at + 40).map((frame) => ({ frame, header })),
      q,
    );
    t.true(given > 0, `buffers for a frame of ${frames[at]!.length} bytes`);
    const received = queue.receiveWithOffload(given);
    t.is(received.length, given);
    for (const [i, got] of received.entries()) {
      t.true(same(got.frame, frames[at + i]!), `received frame ${at + i} of ${got.frame.length} bytes`);
      t.deepEqual(
        [got.flags, got.gsoType, got.headerLength, got.gsoSize, got.csumStart, got.csumOffset],
        [2, 4, 54, 1500, 14, 6],
      );
    }
    at += given;
    queue.rx.release();
  }
  t.is(queue.rx.broken + queue.tx.broken + queue.tx.rejected, 0);
}

for (const role of ['client', 'server'] as const) {
  for (const order of ['virtio-user', 'qemu'] as const) {
    test(`a ${role} port comes up with the messages of ${order} and passes frames`, async (t) => {
      await pair({ role, order, mtu: 1400 }, {}, (port, backend) => {
        t.is(port.state, 'up');
        t.is(backend.error, '');
        const table = backend.messages.indexOf('SET_MEM_TABLE');
        const enable = backend.messages.indexOf('SET_VRING_ENABLE');
        t.is(enable < table, order === 'qemu');
        t.is(backend.messages[0], order === 'qemu' ? 'GET_FEATURES' : 'SET_OWNER');
        t.true(backend.messages.includes('NET_SET_MTU'));
        t.is(backend.status, 15);
        exchange(t, port, backend, [60, 64, 1514, 2032]);
      });
    });
  }
}

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
        await pair(options, {}, (port, backend) => {
          port.queue(0).tx.setShape(fix(txShape));
          exchange(t, port, backend, lengths);
        });
      },
    ),
    { numRuns: 60 },
  );
});

test('a chain has the descriptors that its shape asks for', async (t) => {
  await pair({}, {}, (port, backend) => {
    const queue = port.queue(0);
    const shape = { headerAlone: true, cuts: [14, 34, 500] };
    queue.tx.setShape(shape);
    queue.send([noise(100, 1)]);
    queue.tx.setShape({ ...shape, indirect: true });
    queue.send([noise(600, 2)]);
    queue.tx.setShape({});
    queue.send([noise(60, 3)]);
    const [direct, indirect, plain] = backend.take();
    t.deepEqual(direct!.pieces, [12, 14, 20, 66]);
    t.false(direct!.indirect);
    t.deepEqual(indirect!.pieces, [12, 14, 20, 466, 100]);
    t.true(indirect!.indirect);
    t.deepEqual(plain!.pieces, [72]);
  });
});

test('a ring turns round many times without losing a buffer', async (t) => {
  await pair({ ringSize: 8 }, {}, (port, backend) => {
    const queue = port.queue(0);
    for (let round = 0; round < 9000; round++) {
      const n = queue.tx.reserve(8);
      if (n !== 8) return t.fail(`${n} of 8 buffers are free in round ${round}`);
      for (let i = 0; i < n; i++) queue.tx.length[i] = 60;
      queue.tx.send(n);
      if (backend.take().length !== 8) return t.fail(`frames are missing in round ${round}`);
      const frame = noise(60, round + 1);
      if (backend.deliver([{ frame }]) !== 1) return t.fail(`no rx buffer in round ${round}`);
      const [got] = queue.receive();
      if (!got || !same(got, frame)) return t.fail(`wrong frame in round ${round}`);
    }
    t.is(queue.tx.pending, 0);
    t.is(queue.tx.reserve(8), 8);
  });
});

test('frames of impossible length are left out and their buffers kept', async (t) => {
  await pair({ ringSize: 8 }, {}, (port, backend) => {
    const { tx } = port.queue(0);
    for (let round = 0; round < 5; round++) {
      t.is(tx.reserve(8), 8);
      for (let i = 0; i < 8; i++) {
        tx.u8.fill(i, tx.at[i]!, tx.at[i]! + 60);
        tx.length[i] = i % 3 === 1 ? 0 : i === 6 ? tx.frameBytes + 1 : 60;
      }
      t.is(tx.send(8), 4);
      t.deepEqual(
        backend.take().map(({ frame }) => frame[0]),
        [0, 2, 3, 5],
      );
    }
    t.is(tx.rejected, 20);
    t.is(tx.pending, 0);
    t.throws(() => port.queue(0).send([new Uint8Array(0)]), { message: /frame 0 has 0 bytes/ });
  });
});

test('queue pairs are enabled and disabled while running', async (t) => {
  await pair({ queues: 3, enabled: 1 }, { queuePairs: 8 }, async (port, backend) => {
    const enabled = () => [0, 1, 2, 3, 4, 5].map((i) => backend.ring(i).enabled);
    t.deepEqual(enabled(), [true, true, false, false, false, false]);
    port.setQueues(3);
    await until('all rings to be enabled', () => enabled().every((on) => on));
    for (let q = 0; q < 3; q++) exchange(t, port, backend, [60, 1514], q);
    port.setQueues(2);
    await until('the third pair to be disabled', () => !backend.ring(4).enabled && !backend.ring(5).enabled);
    t.throws(() => port.setQueues(4), { instanceOf: RangeError });
  });
});

test('the guest asks for kicks and calls only where they are wanted', async (t) => {
  for (const features of [['VERSION_1'], ['VERSION_1', 'EVENT_IDX']] as Feature[][]) {
    await pair({ features }, {}, async (port, backend) => {
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

test('after a loss the port connects again and goes on where the rings stood', async (t) => {
  await pair({ retryMs: 10 }, {}, async (port, backend) => {
    const queue = port.queue(0);
    exchange(t, port, backend, [60, 1514, 100]);
    queue.send([noise(70, 1), noise(71, 2)]);
    t.is(backend.take(0, 1).length, 1);
    backend.drop();
    queue.send([noise(72, 3)]);
    await until('the second connection', () => port.connections === 2 && port.state === 'up');
    t.deepEqual(
      backend.take().map(({ frame }) => frame.length),
      [71, 72],
    );
    exchange(t, port, backend, [60, 1514, 100]);
  });
});

test('with reconnect=reset the rings start empty', async (t) => {
  await pair({ retryMs: 10, reconnect: 'reset' }, {}, async (port, backend) => {
    port.queue(0).send([noise(70, 1)]);
    backend.drop();
    await until('the second connection', () => port.connections === 2 && port.state === 'up');
    t.is(backend.take().length, 0);
    t.is(backend.ring(0).lastAvail, 0);
    exchange(t, port, backend, [60, 1514, 100]);
  });
});

test('a listening port takes a new connection after the old one', async (t) => {
  await pair({ role: 'server' }, {}, async (port, backend) => {
    exchange(t, port, backend, [60, 1514]);
    backend.drop();
    await until('the loss to be seen', () => port.state === 'waiting');
    backend.connect();
    await until('the second connection', () => port.connections === 2);
    exchange(t, port, backend, [60, 1514]);
  });
});

test('closing stops the rings in order', async (t) => {
  await pair({ queues: 2 }, { queuePairs: 2 }, async (port, backend) => {
    const before = backend.messages.length;
    await port.close();
    t.deepEqual(backend.messages.slice(before), [
      ...new Array(4).fill('SET_VRING_ENABLE'),
      ...new Array(4).fill('GET_VRING_BASE'),
    ]);
    t.is(port.state, 'closed');
    t.is(port.queue(0).tx.reserve(4), 0);
    t.is(port.queue(0).rx.poll(), 0);
  });
});

test('opening fails with the cause when the switch lacks a feature or is not there', async (t) => {
  await t.throwsAsync(
    pair({ required: ['MRG_RXBUF'], timeoutMs: 300 }, { features: bits(VIRTIO_FEATURES, ['VERSION_1']) }, () => {}),
    { message: /does not offer MRG_RXBUF/ },
  );
  await t.throwsAsync(
    pair({ queues: 4, timeoutMs: 300 }, { queuePairs: 2 }, () => {}),
    {
      message: /offers 2 queue pairs; 4 are wanted/,
    },
  );
  await t.throwsAsync(openVirtioPort({ path: '/nonexistent/s', timeoutMs: 100 }), { message: /ENOENT/ });
});

test('options that cannot be are refused by name', async (t) => {
  const path = '/tmp/x';
  for (const [options, name] of [
    [{ ringSize: 100 }, 'ringSize'],
    [{ ringSize: 4 }, 'ringSize'],
    [{ queues: 0 }, 'queues'],
    [{ memory: { files: 3, splits: 3 } }, 'memory.files'],
    [{ mtu: 20 }, 'mtu'],
    [{ features: ['NOPE' as Feature] }, 'NOPE'],
  ] as [Partial<PortOptions>, string][]) {
    await t.throwsAsync(openVirtioPort({ path, ...options }), { instanceOf: RangeError, message: new RegExp(name) });
  }
});

test('a switch that returns ids or lengths that cannot be is counted, never followed', async (t) => {
  await pair({ ringSize: 8, features: ['VERSION_1'] }, {}, (port) => {
    const queue = port.queue(0);
    const [rx] = port.memory.blocks;
    const layoutUsedAt = 192; // 8 descriptors, available ring of 22 bytes, rounded up to 64
    const used = (rx!.ringAt + layoutUsedAt) / 4;
    const { u16, u32 } = rx!.file;
    const entries = [
      [9, 100],
      [0xffffffff, 100],
      [1, 0],
      [2, 0xffffffff],
      [1, 72],
    ];
    for (const [i, [id, bytes]] of entries.entries()) {
      u32[used + 1 + 2 * i] = id!;
      u32[used + 2 + 2 * i] = bytes!;
    }
    u16[used * 2 + 1] = entries.length;
    t.is(queue.rx.poll(), 0);
    t.is(queue.rx.broken, 5);
    t.is(queue.rx.poll(), 0);
  });
});
