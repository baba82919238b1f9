/** A device behind an IOMMU: its messages, its questions, and rings that come and go with their translations. */
import { join } from 'node:path';
import test from 'ava';
import { close, dup, EAGAIN, eventfd, recvWithFds, sendWithFds, socketPair } from '#contract/os.ts';
import type { PortHost } from '#ports/port.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { VhostUserDevice } from '#ports/vhost-user/device.ts';
import { GuestMemory } from '#ports/vhost-user/guest-memory.ts';
import { IotlbShared, PAUSED } from '#ports/vhost-user/iotlb-shared.ts';
import { parseOptions } from '#ports/vhost-user/options.ts';
import { PiecewiseLog, RingWindows } from '#ports/vhost-user/ring-windows.ts';
import { VhostUserSession } from '#ports/vhost-user/session.ts';
import { Vring } from '#ports/vhost-user/vring.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { removeScratchDir, scratchDir, until } from '../../support/process.ts';
import { Driver, MEMORY_BYTES } from './driver.ts';
import { FrontEnd } from './front-end.ts';

const IOVA = 0x7000_0000n;
const USER = 0x5000_0000n;
const config = (options: Record<string, string>) => ({ portNo: 1, name: 'p', type: 'vhost-user', options, mtu: 1500 });
const FEATURES = wire.bits(wire.VIRTIO_FEATURES, ['VERSION_1', 'PROTOCOL_FEATURES', 'ACCESS_PLATFORM']);

/** A front end's end of the channel for requests of the back end. */
class Channel {
  readonly fd: number;
  readonly #reader = new wire.MessageReader();
  constructor(fd: number) {
    this.fd = fd;
  }

  next(): Promise<wire.IotlbMessage> {
    const bytes = new Uint8Array(256);
    return until('a question', () => {
      for (;;) {
        const got = recvWithFds(this.fd, bytes, 0, this.#reader.want, new Int32Array(2));
        if (got === -EAGAIN) return undefined;
        const message = this.#reader.push(bytes.subarray(0, got));
        if (message) return wire.decodeIotlb(message.payload);
      }
    });
  }

  answer(): void {
    const bytes = wire.encodeReply(wire.BACKEND_IOTLB, wire.encodeU64(0n));
    sendWithFds(this.fd, bytes, 0, bytes.length, null, 0);
  }
}

async function rig(driver: Driver) {
  const attached: (VhostUserAttachment | undefined)[] = [];
  const attach = async (a: VhostUserAttachment | undefined) => void attached.push(a);
  const settings = parseOptions(config({}), '/tmp');
  const device = new VhostUserDevice({ portNo: 1, mtu: 1500, settings, iommu: true, rundir: '/tmp', attach });
  const handle = (code: number, payload: Uint8Array = new Uint8Array(0), fds: number[] = []) =>
    device.handle({ code, flags: wire.VERSION, payload }, fds);
  const [ours, theirs] = socketPair();
  const protocol = wire.bits(wire.PROTOCOL_FEATURES, ['REPLY_ACK', 'BACKEND_REQ']);
  await handle(wire.SET_PROTOCOL_FEATURES, wire.encodeU64(protocol));
  await handle(wire.SET_BACKEND_REQ_FD, new Uint8Array(0), [theirs]);
  await handle(wire.SET_FEATURES, wire.encodeU64(FEATURES));
  const region = { guestAddress: 0n, userAddress: USER, size: BigInt(MEMORY_BYTES), mmapOffset: 0n };
  await handle(wire.SET_MEM_TABLE, wire.encodeMemoryTable([region]), [dup(driver.fd)]);
  const iotlb = async (iova: bigint, size: bigint, offset: bigint, type = wire.IOTLB_UPDATE): Promise<bigint> => {
    const payload = wire.encodeIotlb({ iova, size, userAddress: USER + offset, permission: 3, type });
    return wire.decodeU64((await handle(wire.IOTLB_MSG, payload))!.bytes.subarray(wire.HEADER_BYTES));
  };
  const ring = driver.txRing;
  const address = (at: number): bigint => IOVA + BigInt(at);
  await handle(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index: 1, num: ring.size }));
  await handle(
    wire.SET_VRING_ADDR,
    wire.VRING_ADDRESS.encode({
      ...{ index: 1, flags: 1, log: address(ring.usedAt) },
      ...{ descriptors: address(ring.base), available: address(ring.availAt), used: address(ring.usedAt) },
    }),
  );
  await handle(wire.SET_VRING_ENABLE, wire.VRING_STATE.encode({ index: 1, num: 1 }));
  await handle(wire.SET_VRING_KICK, wire.encodeU64(1n), [eventfd()]);
  const channel = new Channel(ours);
  const end = async () => {
    await device.close();
    close(ours);
    driver.close();
  };
  return { device, attached, handle, iotlb, channel, end, ring };
}

test('a ring is asked for, attached with its translation, paused without, and moved with another', async (t) => {
  const { device, attached, iotlb, channel, end, ring } = await rig(new Driver(1));
  t.deepEqual(attached, []);
  t.regex(device.ringError, /ring 1: descriptor table at 0x[0-9a-f]+ has no translation yet/);
  const question = await channel.next();
  t.like(question, { iova: IOVA + BigInt(ring.base), type: wire.IOTLB_MISS, permission: wire.IOTLB_READ });
  t.is(await iotlb(IOVA, 1n << 20n, 0n), 0n);
  channel.answer();
  t.is(attached.length, 1);
  const { rings, iommu } = attached[0]!;
  // The log is about guest physical memory, whatever its address is for the device.
  t.like(rings[0]!, { descriptorOffset: ring.base, usedOffset: ring.usedAt, log: { usedAt: ring.usedAt } });
  const { words } = new IotlbShared(iommu!.shared);
  t.is(words[PAUSED + 1], 0);

  t.is(await iotlb(IOVA, 1n << 20n, 0n, wire.IOTLB_INVALIDATE), 0n);
  t.is(words[PAUSED + 1], 1);
  t.is((await channel.next()).iova, IOVA + BigInt(ring.base));
  t.is(await iotlb(IOVA, 1n << 20n, 0n), 0n);
  channel.answer();
  t.is(words[PAUSED + 1], 0);
  t.is(attached.length, 1);

  // An update is an invalidation too, where it says something else than the one before.
  t.is(await iotlb(IOVA, 1n << 20n, 1n << 21n), 0n);
  t.is(words[PAUSED + 1], 0);
  t.is(attached.length, 2);
  t.is(attached[1]!.rings[0]!.descriptorOffset, (1 << 21) + ring.base);
  t.is(device.facts()['iotlb_entries'], '1');
  await end();
});

test('a ring that lies scattered over memory is mapped page by page, and its writes are logged where they go', async (t) => {
  const driver = new Driver(1, { size: 1024 });
  const { device, attached, iotlb, end, ring } = await rig(driver);
  const pages = 16;
  const first = IOVA + BigInt(ring.base);
  // Backwards, and far from one another.
  const offsetOf = (page: number): number => (1 << 22) - page * 3 * 4096;
  for (let page = 0; page < pages; page++) await iotlb(first + BigInt(page * 4096), 4096n, BigInt(offsetOf(page)));
  t.is(device.ringError, '');
  const place = attached.at(-1)!.rings[0]!;
  const memory = new GuestMemory(attached.at(-1)!.regions, 0);
  const windows = new RingWindows(memory.buffers, 0);
  const here = windows.resolve(place);
  const vring = new Vring(here, windows.buffers, attached.at(-1)!.state);
  for (let i = 0; i < 1024; i++) vring.desc[4 * i] = i + 1;
  vring.used[2 * 1023 + 1] = 0x12345678;
  const usedAt = ring.usedAt - ring.base + 4 + 8 * 1023;
  const at = (offset: number): number => offsetOf(Math.floor(offset / 4096)) + (offset % 4096);
  t.is(driver.bytes.readUInt32LE(at(usedAt)), 0x12345678);
  for (let i = 0; i < 1024; i += 100) t.is(driver.bytes.readUInt32LE(at(16 * i)), i + 1);
  const marked: number[] = [];
  const log = new PiecewiseLog({ mark: (from, bytes) => marked.push(from, bytes) }, place.windows!.flat());
  log.mark(place.log!.descriptorsAt + 4090, 16);
  t.deepEqual(marked, [at(4090), 6, at(4096), 10]);
  marked.length = 0;
  log.mark(place.log!.usedAt + 4 + 8 * 1023, 8);
  t.is(marked[0], at(usedAt));
  windows.close();
  memory.close();
  await end();
});

test('a ring in parts of pages that do not join is named, and the port stays down', async (t) => {
  const { device, attached, iotlb, end, ring } = await rig(new Driver(1, { size: 1024 }));
  const first = IOVA + BigInt(ring.base);
  await iotlb(first, 4096n, 100n * 16n);
  await iotlb(first + 4096n, 1n << 20n, 1n << 21n);
  t.deepEqual(attached, []);
  t.regex(device.ringError, /ring 1: descriptor table at 0x[0-9a-f]+ lies scattered over parts of pages/);
  await end();
});

test('another memory table makes translations void; nonsense is answered with a refusal', async (t) => {
  const { device, attached, handle, iotlb, end } = await rig(new Driver(1));
  await iotlb(IOVA, 1n << 20n, 0n);
  t.is(await iotlb(IOVA, 1n << 20n, BigInt(MEMORY_BYTES)), 1n);
  t.is(await iotlb(IOVA, 1n << 20n, 0n, 7), 1n);
  t.is(device.facts()['iotlb_refused_messages'], '2');
  const other = new Driver(1);
  const region = { guestAddress: 0n, userAddress: USER, size: BigInt(MEMORY_BYTES), mmapOffset: 0n };
  await handle(wire.SET_MEM_TABLE, wire.encodeMemoryTable([region]), [dup(other.fd)]);
  t.is(device.facts()['iotlb_entries'], '0');
  t.is(attached.at(-1), undefined);
  await handle(wire.RESET_OWNER);
  await t.throwsAsync(handle(wire.IOTLB_MSG, new Uint8Array(32)), { message: /without VIRTIO_F_ACCESS_PLATFORM/ });
  other.close();
  await end();
});

test('a vIOMMU is offered as the option of the port says, and without it as the switch says', async (t) => {
  const dir = scratchDir('rwo');
  const host: PortHost = { attach: async () => {}, status: () => {} };
  let wanted = false;
  const offered = async (options: Record<string, string>): Promise<boolean> => {
    const path = join(dir, 'p.sock');
    const session = new VhostUserSession(config({ ...options, path }), host, dir, { iommu: () => wanted });
    await session.start();
    const front = await FrontEnd.connect(path);
    const features = await front.ask(wire.GET_FEATURES);
    front.close();
    await session.stop();
    return wire.hasBit(features, wire.VIRTIO_FEATURES.ACCESS_PLATFORM);
  };
  try {
    t.false(await offered({}));
    t.true(await offered({ iommu: 'on' }));
    wanted = true;
    t.true(await offered({}));
    t.false(await offered({ iommu: 'off' }));
    await t.throwsAsync(offered({ iommu: 'yes' }), { message: /iommu/ });
  } finally {
    removeScratchDir(dir);
  }
});
