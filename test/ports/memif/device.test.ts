import test from 'ava';
import fc from 'fast-check';
import { dup, fileSize, SEAL_SHRINK, seals } from '#contract/os.ts';
import type { MemifAttachment } from '#ports/memif/attachment.ts';
import type { Channel } from '#ports/memif/channel.ts';
import { clientHandler } from '#ports/memif/client.ts';
import { MemifDevice } from '#ports/memif/device.ts';
import { ringBytes } from '#ports/memif/ring.ts';
import { serverHandler } from '#ports/memif/server.ts';
import * as wire from '#ports/memif/wire.ts';
import { settingsOf } from './peer.ts';

const deviceOf = (role: 'server' | 'client', queues: number) => {
  const attached: (MemifAttachment | undefined)[] = [];
  const device = new MemifDevice({
    portNo: 1,
    mtu: 1500,
    settings: settingsOf({ role, queues }),
    attach: async (attachment) => void attached.push(attachment),
  });
  return { device, attached };
};

test('rings and buffers of a client lie apart from each other in one sealed file', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 64, max: 4000 }),
      async (queues, log2, bufferSize) => {
        const { device } = deviceOf('client', queues);
        device.make(queues, log2, bufferSize);
        const [region] = device.regions;
        const size = 1 << log2;
        t.is(fileSize(region!.fd), region!.size);
        t.not(seals(region!.fd) & SEAL_SHRINK, 0);
        t.is(device.rings.length, 2 * queues);
        const parts = device.rings.flatMap((ring): [number, number][] => [
          [ring.offset, ring.offset + ringBytes(size)],
          [ring.buffers, ring.buffers + (size - 1) * ring.stride + ring.capacity],
        ]);
        parts.sort((a, b) => a[0] - b[0]);
        t.true(parts.every(([start, end], i) => start % 64 === 0 && end <= (parts[i + 1]?.[0] ?? region!.size)));
        t.true(device.rings.every(({ stride, capacity }) => stride >= capacity && capacity === bufferSize));
        await device.close();
      },
    ),
    { numRuns: 30 },
  );
});

test('a device closed while its workers take it lets go after them', async (t) => {
  const { device, attached } = deviceOf('client', 1);
  device.make(1, 4, 256);
  const connecting = device.connect();
  t.true(device.up);
  await device.close();
  await connecting;
  t.is(attached.length, 2);
  t.is(attached[1], undefined);
  t.false(device.up);
  t.deepEqual(device.facts(), {});
});

test('the two handlers, joined without a socket, agree on rings; neither says more than it was asked', async (t) => {
  const server = deviceOf('server', 3);
  const client = deviceOf('client', 3);
  const toServer: [Uint8Array, number][] = [];
  const toClient: Uint8Array[] = [];
  const names: unknown[] = [];
  const serve = serverHandler({
    device: server.device,
    channel: { send: (bytes: Uint8Array) => void toClient.push(bytes) } as Channel,
    name: 'srv0',
    progress: (peer) => void (peer && names.push(peer)),
  });
  const ask = clientHandler({
    device: client.device,
    channel: () => ({ send: (bytes: Uint8Array, fd: number) => void toServer.push([bytes, fd]) }) as Channel,
    settings: settingsOf({ role: 'client', queues: 3, log2RingSize: 5 }),
    name: 'cli0',
    progress: (one) => void names.push(one),
  });
  const hello = { name: 'x', minVersion: 0x200, maxVersion: 0x200, maxRegion: 0, maxM2sRing: 2, maxS2mRing: 2 };
  await ask(wire.HELLO, wire.encodeHello({ ...hello, maxLog2RingSize: 14 }), []);
  t.is(wire.typeOf(toServer.shift()![0]), wire.INIT);
  toClient.push(wire.encodeAck());
  for (let turn = 0; turn < 20 && toClient.length > 0; turn++) {
    t.is(toClient.length, 1);
    const answer = toClient.shift()!;
    await ask(wire.typeOf(answer), answer, []);
    t.true(toServer.length <= 1);
    const [bytes, fd] = toServer.shift() ?? [new Uint8Array(0), -1];
    if (bytes.length > 0) await serve(wire.typeOf(bytes), bytes, fd < 0 ? [] : [dup(fd)]);
  }
  t.true(server.device.up && client.device.up);
  t.deepEqual(names, [{ app: 'x' }, 'cli0', { peer: 'srv0' }]);
  const place = ({ index, s2m, size, region, offset }: (typeof server.device.rings)[number]) => [
    index,
    s2m,
    size,
    region,
    offset,
  ];
  t.deepEqual(server.device.rings.map(place), client.device.rings.map(place));
  t.deepEqual(server.attached[0]!.rxQueues, [0, 1, 2]);
  await server.device.close();
  await client.device.close();
});
