/** Payloads of the protocol features: what is encoded is what is decoded, and what belongs to no message is named. */
import test from 'ava';
import fc from 'fast-check';
import { checkPayload } from '#ports/vhost-user/payload-check.ts';
import * as wire from '#ports/vhost-user/wire.ts';

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const check = (code: number, payload: Uint8Array, fds = 0) => checkPayload(wire.MESSAGES.get(code)!, payload, fds);

test('logs, regions and inflight areas decode to what was encoded', (t) => {
  const region = fc.record({ guestAddress: u64, size: u64, userAddress: u64, mmapOffset: u64 });
  fc.assert(
    fc.property(u64, u64, u16, u16, region, (size, offset, queues, queueSize, row) => {
      const log = wire.LOG.encode({ size, offset });
      t.deepEqual(wire.LOG.decode(log), { size, offset });
      t.is(check(wire.SET_LOG_BASE, log, 1), undefined);
      const area = { size, offset, queues, queueSize };
      const padded = wire.INFLIGHT.encode(area, new Uint8Array(24));
      t.deepEqual(wire.INFLIGHT.decode(padded), area);
      for (const bytes of [20, 24]) t.is(check(wire.SET_INFLIGHT_FD, padded.subarray(0, bytes), 1), undefined);
      const payload = wire.encodeRegion(row);
      t.deepEqual(wire.decodeRegion(payload), row);
      for (const code of [wire.ADD_MEM_REG, wire.REM_MEM_REG]) t.is(check(code, payload, 1), undefined);
    }),
  );
});

test('parts of the configuration decode to what was encoded', (t) => {
  fc.assert(
    fc.property(u32, u32, fc.uint8Array({ maxLength: wire.MAX_CONFIG }), (offset, flags, bytes) => {
      const payload = wire.encodeConfig({ offset, flags, bytes });
      t.deepEqual(wire.decodeConfig(payload), { offset, flags, bytes });
      t.is(check(wire.SET_CONFIG, payload), undefined);
      t.regex(check(wire.SET_CONFIG, Buffer.concat([payload, Buffer.alloc(1)]))!, /SET_CONFIG has \d+ bytes for \d+/);
    }),
  );
});

test('sizes and descriptor counts that do not belong to these messages are named', (t) => {
  const bytes = (n: number) => new Uint8Array(n);
  t.regex(check(wire.SET_LOG_BASE, bytes(12), 1)!, /SET_LOG_BASE has a payload of 12 bytes, not 16/);
  t.regex(check(wire.SET_LOG_BASE, bytes(16), 2)!, /2 descriptors, at most 1/);
  t.regex(check(wire.ADD_MEM_REG, bytes(32), 1)!, /not 40/);
  t.regex(check(wire.GET_INFLIGHT_FD, bytes(21))!, /21 bytes, not 20 or 24/);
  t.regex(check(wire.GET_CONFIG, bytes(11))!, /11 bytes/);
  t.regex(check(wire.GET_CONFIG, wire.CONFIG_HEADER.encode({ offset: 0, size: 257, flags: 0 }))!, /at most 256/);
  t.throws(() => wire.decodeConfig(wire.CONFIG_HEADER.encode({ offset: 0, size: 5, flags: 0 })), {
    message: /5 bytes is cut short/,
  });
});
