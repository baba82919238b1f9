/** Any messages in any order, with any payloads and descriptors: they are obeyed or refused, and nothing is left behind. */
import { readdirSync } from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import { PORT_ROW } from '#contract/catalogue.ts';
import { close, dup, eventfd, eventfdSignal, memfd } from '#contract/os.ts';
import type { WorkerPort } from '#ports/port.ts';
import { RefusedError, VhostUserDevice } from '#ports/vhost-user/device.ts';
import { vhostPort } from '#ports/vhost-user/factory.ts';
import { OFFERED_PROTOCOL, offeredFeatures } from '#ports/vhost-user/features.ts';
import { OFFLOAD_FEATURES } from '#ports/vhost-user/offload-options.ts';
import { parseOptions } from '#ports/vhost-user/options.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { removeScratchDir, scratchDir } from '../../support/process.ts';
import { batch } from './test-port.ts';

const settings = parseOptions({ portNo: 1, name: 'p', type: 'vhost-user', options: { n_rxq: '2' }, mtu: 1500 }, '/tmp');
const FILE_BYTES = 1 << 20;
const list = Int32Array.from({ length: 32 }, (_, i) => i);

// Numbers near each other, so that messages often fit together.
const small = fc.oneof(fc.integer({ min: 0, max: 4 }), fc.constantFrom(8, 256, 0xffff, 0xffffffff));
const place = fc.oneof(
  fc.integer({ min: 0, max: 15 }).map((page) => BigInt(page) * 65_536n),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);
const size = fc.oneof(fc.constantFrom(4096n, 65_536n, 1n << 20n), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));
const region = fc.record({ guestAddress: place, size, userAddress: place, mmapOffset: fc.constantFrom(0n, 4096n, 7n) });
const u16 = fc.integer({ min: 0, max: 0xffff });

const payloads: Record<wire.PayloadKind, fc.Arbitrary<Uint8Array>> = {
  none: fc.constant(new Uint8Array(0)),
  u64: fc
    .oneof(
      place,
      fc.integer({ min: 0, max: 3 }).map(BigInt),
      fc.constantFrom(
        offeredFeatures(OFFLOAD_FEATURES, true),
        offeredFeatures(OFFLOAD_FEATURES, false),
        OFFERED_PROTOCOL,
      ),
    )
    .map(wire.encodeU64),
  vringState: fc.record({ index: small, num: small }).map((value) => wire.VRING_STATE.encode(value)),
  vringAddress: fc
    .record({ index: small, flags: small, descriptors: place, used: place, available: place, log: place })
    .map((value) => wire.VRING_ADDRESS.encode(value)),
  memory: fc.array(region, { maxLength: 3 }).map(wire.encodeMemoryTable),
  region: region.map(wire.encodeRegion),
  log: fc.record({ size, offset: place }).map((value) => wire.LOG.encode(value)),
  inflight: fc
    .record({ size, offset: place, queues: u16, queueSize: u16 })
    .map((value) => wire.INFLIGHT.encode(value, new Uint8Array(24))),
  iotlb: fc
    .record({ iova: place, size, userAddress: place, permission: fc.nat(4), type: fc.nat(5) })
    .map(wire.encodeIotlb),
  config: fc
    .record({ offset: small, flags: small, bytes: fc.uint8Array({ maxLength: 30 }) })
    .map((part) => wire.encodeConfig(part)),
};

const message = fc.constantFrom(...wire.MESSAGES).chain(([code, row]) =>
  fc.record({
    code: fc.constant(code),
    needReply: fc.boolean(),
    payload: fc.oneof(
      { weight: 9, arbitrary: payloads[row.payload] },
      { weight: 1, arbitrary: fc.uint8Array({ maxLength: 64 }) },
    ),
    // Mostly as many descriptors as the message has; files and events.
    fds: fc.oneof(
      fc.array(fc.boolean(), { minLength: Math.min(1, row.fds), maxLength: Math.min(1, row.fds) }),
      fc.array(fc.boolean(), { maxLength: 3 }),
    ),
  }),
);

test.serial('any messages are obeyed or refused, and nothing stays open', async (t) => {
  const dir = scratchDir('rwfz');
  const file = memfd('fuzz', FILE_BYTES);
  const open = () => readdirSync('/proc/self/fd').length;
  let obeyed = 0;
  let attached = 0;
  let translated = 0;
  const run = async (
    messages: readonly (typeof message extends fc.Arbitrary<infer M> ? M : never)[],
  ): Promise<void> => {
    let port: WorkerPort | undefined;
    const device = new VhostUserDevice({
      portNo: 1,
      mtu: 1500,
      settings,
      iommu: true,
      rundir: dir,
      attach: async (attachment) => {
        const counters = { slots: new Float64Array(PORT_ROW), base: 0 };
        const previous = port;
        attached++;
        if (attachment?.iommu) translated++;
        port = attachment && vhostPort(attachment, { worker: 0, workers: 1, counters, batch }, previous);
        if (!attachment) previous?.close();
      },
    });
    for (const { code, needReply, payload, fds } of messages) {
      const given = fds.map((event) => (event ? eventfd() : dup(file)));
      const flags = wire.VERSION | (needReply ? wire.FLAG_NEED_REPLY : 0);
      try {
        const reply = await device.handle({ code, flags, payload }, given);
        if (reply && reply.fd >= 0) close(reply.fd);
        obeyed++;
      } catch (error) {
        if (!(error instanceof RefusedError)) throw error;
      }
      for (const fd of given) if (fd >= 0) close(fd);
      for (const rx of port?.rx ?? []) {
        const n = rx.poll(batch);
        if (n > 0) port!.tx?.push(batch, list, n);
        batch.copy();
        port!.tx?.publish();
        rx.complete();
        batch.clear();
      }
    }
    await device.close();
    // Buffers that were let go are finalized between turns of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
    t.is(port, undefined);
    t.is(batch.copyLogs.length, 0);
    t.is(batch.journal, undefined);
  };
  try {
    const start = { needReply: true, fds: [] };
    const agree = [
      { ...start, code: wire.SET_FEATURES, payload: wire.encodeU64(offeredFeatures(OFFLOAD_FEATURES, false)) },
      { ...start, code: wire.SET_PROTOCOL_FEATURES, payload: wire.encodeU64(OFFERED_PROTOCOL) },
      {
        ...start,
        code: wire.SET_INFLIGHT_FD,
        payload: wire.INFLIGHT.encode({ size: 4096n, offset: 0n, queues: 2, queueSize: 8 }),
        fds: [false],
      },
    ];
    // What a thread keeps from its first use on: the journal of this directory, the watcher, the means to signal.
    await run([...agree, { ...start, code: wire.SET_BACKEND_REQ_FD, payload: new Uint8Array(0), fds: [true] }]);
    const event = eventfd();
    eventfdSignal(event);
    close(event);
    const before = open();
    const whole = { guestAddress: 0n, userAddress: 0n, size: BigInt(FILE_BYTES), mmapOffset: 0n };
    const ring = (index: number) => [
      { ...start, code: wire.SET_VRING_NUM, payload: wire.VRING_STATE.encode({ index, num: 256 }) },
      {
        ...start,
        code: wire.SET_VRING_ADDR,
        payload: wire.VRING_ADDRESS.encode({
          ...{ index, flags: 1, descriptors: 0n, available: 65_536n, used: 131_072n, log: 131_072n },
        }),
      },
      { ...start, code: wire.SET_VRING_KICK, payload: wire.encodeU64(BigInt(index)), fds: [true] },
      { ...start, code: wire.SET_VRING_ENABLE, payload: wire.VRING_STATE.encode({ index, num: 1 }) },
    ];
    const everywhere = { iova: 0n, size: BigInt(FILE_BYTES), userAddress: 0n, permission: 3, type: wire.IOTLB_UPDATE };
    const behindIommu = [
      {
        ...start,
        code: wire.SET_FEATURES,
        payload: wire.encodeU64(offeredFeatures(OFFLOAD_FEATURES, false, true)),
      },
      { ...start, code: wire.IOTLB_MSG, payload: wire.encodeIotlb(everywhere) },
    ];
    const running = [
      { ...start, code: wire.ADD_MEM_REG, payload: wire.encodeRegion(whole), fds: [false] },
      ...[0, 1].flatMap(ring),
    ];
    await fc.assert(
      fc.asyncProperty(fc.array(message, { maxLength: 40 }), fc.boolean(), fc.boolean(), (messages, up, iommu) =>
        run([...agree, ...(up ? running : []), ...(iommu ? behindIommu : []), ...messages]),
      ),
      { numRuns: 500 },
    );
    t.true(attached > 250);
    t.true(translated > 50);
    t.is(open(), before);
    t.true(obeyed > 500);
  } finally {
    close(file);
    removeScratchDir(dir);
  }
});
