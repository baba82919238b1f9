import test from 'ava';
import { dup, eventfd } from '#contract/os.ts';
import { gsoHeaderLength } from '#ports/frame/net-header.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { ChainWalker } from '#ports/vhost-user/chain.ts';
import { DELIVER_FULL, Delivery } from '#ports/vhost-user/delivery.ts';
import { RefusedError, VhostUserDevice } from '#ports/vhost-user/device.ts';
import { headerBytes, OFFERED_PROTOCOL, offeredFeatures, txOptions } from '#ports/vhost-user/features.ts';
import { GuestMemory } from '#ports/vhost-user/guest-memory.ts';
import { parseOptions } from '#ports/vhost-user/options.ts';
import { Vring } from '#ports/vhost-user/vring.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { eth, ipv4, packet, tcp } from '../../support/packets.ts';
import { Driver } from './driver.ts';
import { batch } from './test-port.ts';

const settings = parseOptions({ portNo: 1, name: 'p', type: 'vhost-user', options: { n_rxq: '2' }, mtu: 1500 }, '/tmp');

function rig() {
  const attached: (VhostUserAttachment | undefined)[] = [];
  const device = new VhostUserDevice({
    portNo: 1,
    mtu: 1500,
    settings,
    rundir: '/tmp',
    attach: async (a) => void attached.push(a),
  });
  const handle = (code: number, payload: Uint8Array = new Uint8Array(0), fds: number[] = []) =>
    device.handle({ code, flags: wire.VERSION, payload }, fds);
  return { device, attached, handle };
}

test('a ring is attached only when started, enabled, sized and placed, whatever the order', async (t) => {
  const driver = new Driver(1);
  const { device, attached, handle } = rig();
  await handle(wire.SET_FEATURES, wire.encodeU64(wire.bits(wire.VIRTIO_FEATURES, ['VERSION_1', 'PROTOCOL_FEATURES'])));
  await handle(wire.SET_VRING_ENABLE, wire.VRING_STATE.encode({ index: 1, num: 1 }));
  await handle(wire.SET_VRING_KICK, wire.encodeU64(1n), [eventfd()]);
  const ring = driver.txRing;
  await handle(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index: 1, num: ring.size }));
  const [at, avail, used] = [ring.base, ring.availAt, ring.usedAt].map(BigInt) as [bigint, bigint, bigint];
  const address = { index: 1, flags: 0, descriptors: at, available: avail, used, log: 0n };
  await handle(wire.SET_VRING_ADDR, wire.VRING_ADDRESS.encode(address));
  t.deepEqual(attached, []);
  const region = { guestAddress: 0n, userAddress: 0n, size: 1n << 24n, mmapOffset: 0n };
  await handle(wire.SET_MEM_TABLE, wire.encodeMemoryTable([region]), [dup(driver.fd)]);
  t.is(attached.length, 1);
  t.deepEqual(attached[0]!.rxQueues, [0]);
  await handle(wire.RESET_OWNER);
  t.is(attached.at(-1), undefined);
  await t.throwsAsync(handle(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index: 4, num: 256 })), {
    instanceOf: RefusedError,
    message: /ring 4 does not exist; 4 rings are offered/,
  });
  await device.close();
  driver.close();
});

test('offers follow the offload option; the header grows with VERSION_1 or mergeable buffers', (t) => {
  const bit = (name: wire.VirtioFeature) => 1n << BigInt(wire.VIRTIO_FEATURES[name]);
  t.is(offeredFeatures([], true) & bit('GUEST_TSO4'), 0n);
  t.is(offeredFeatures(['GUEST_TSO4'], true) & bit('GUEST_TSO4'), bit('GUEST_TSO4'));
  t.is(OFFERED_PROTOCOL, 0x1b23fn);
  t.deepEqual([0n, bit('MRG_RXBUF'), bit('VERSION_1')].map(headerBytes), [10, 12, 12]);
  t.like(txOptions(bit('GUEST_CSUM') | bit('GUEST_TSO6'), 1500, 8), {
    checksum: true,
    gso: [4],
    mtu: 1500,
  });
});

test('the length of headers is what the frame says, and 0 where it contradicts', (t) => {
  const frame = packet(eth(), ipv4(), tcp({ options: new Uint8Array(12) }), new Uint8Array(100));
  t.is(gsoHeaderLength(frame, 0, frame.length, 1, 34), 66);
  t.is(gsoHeaderLength(frame, 0, 60, 1, 34), 0);
  t.is(gsoHeaderLength(frame, 0, frame.length, 4, 34), 0);
  t.is(gsoHeaderLength(frame, 0, frame.length, 1, 38), 0);
});

test('a delivery that finds too few buffers takes none', (t) => {
  const driver = new Driver(1, { tx: { mergeable: true } });
  driver.post(100);
  const memory = new GuestMemory(driver.attachment.regions, 1);
  const vring = new Vring(driver.attachment.rings[0]!, memory.buffers, driver.state);
  const delivery = new Delivery(vring, new ChainWalker(memory), 12, true);
  delivery.sourceAddress[0] = batch.scratchAddress;
  delivery.sourceLength[0] = 200;
  delivery.sourceCount = 1;
  t.is(delivery.deliver(batch, 0, 1, new Uint16Array(8), 0), DELIVER_FULL);
  t.is(delivery.taken, 0);
  t.is(batch.rowCount, 0);
  memory.close();
  driver.close();
});
