import test from 'ava';
import fc from 'fast-check';
import { checkPayload } from '#ports/vhost-user/payload-check.ts';
import * as wire from '#ports/vhost-user/wire.ts';

const u32 = fc.integer({ min: 0, max: 0xffffffff });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

test('every payload layout decodes to what was encoded', (t) => {
  fc.assert(
    fc.property(u32, u32, u64, u64, u64, u64, (a, b, c, d, e, f) => {
      t.deepEqual(wire.VRING_STATE.decode(wire.VRING_STATE.encode({ index: a, num: b })), { index: a, num: b });
      const address = { index: a, flags: b, descriptors: c, used: d, available: e, log: f };
      t.deepEqual(wire.VRING_ADDRESS.decode(wire.VRING_ADDRESS.encode(address)), address);
      t.is(wire.decodeU64(wire.encodeU64(c)), c);
    }),
  );
});

test('a memory table decodes to what was encoded, rows behind its count ignored', (t) => {
  const region = fc.record({ guestAddress: u64, size: u64, userAddress: u64, mmapOffset: u64 });
  fc.assert(
    fc.property(fc.array(region, { maxLength: wire.MAX_REGIONS }), fc.nat(64), (regions, extra) => {
      const payload = wire.encodeMemoryTable(regions);
      const padded = new Uint8Array(payload.length + extra);
      padded.set(payload);
      t.deepEqual(wire.decodeMemoryTable(padded), regions);
    }),
  );
});

test('a stream cut anywhere gives the same messages', (t) => {
  const message = fc.record({ code: u32, payload: fc.uint8Array({ maxLength: 300 }), needReply: fc.boolean() });
  fc.assert(
    fc.property(
      fc.array(message, { maxLength: 8 }),
      fc.infiniteStream(fc.integer({ min: 1, max: 40 })),
      (sent, cuts) => {
        const stream = Buffer.concat(sent.map((m) => wire.encodeRequest(m.code, m.payload, m.needReply)));
        const reader = new wire.MessageReader();
        const got: wire.Message[] = [];
        for (let at = 0; at < stream.length; ) {
          const take = Math.min(cuts.next().value, reader.want, stream.length - at);
          const found = reader.push(stream.subarray(at, at + take));
          if (found) got.push(found);
          at += take;
        }
        t.true(reader.idle);
        t.deepEqual(
          got.map(({ code, flags, payload }) => ({ code, payload: Buffer.from(payload), needReply: flags === 9 })),
          sent.map((m) => ({ ...m, payload: Buffer.from(m.payload) })),
        );
      },
    ),
  );
});

test('garbage is refused with a RangeError or becomes messages of bounded size', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 12, maxLength: 6000 }), (garbage) => {
      const reader = new wire.MessageReader();
      try {
        for (let at = 0; at < garbage.length; ) {
          const take = Math.min(reader.want, garbage.length - at);
          const found = reader.push(garbage.subarray(at, at + take));
          if (found) t.true(found.payload.length <= wire.MAX_PAYLOAD);
          at += take;
        }
      } catch (error) {
        t.true(error instanceof RangeError);
      }
    }),
  );
  t.pass();
});

test('payload sizes and descriptor counts that do not belong to a message are named', (t) => {
  const check = (code: number, bytes: number, fds: number) =>
    checkPayload(wire.MESSAGES.get(code)!, new Uint8Array(bytes), fds);
  t.is(check(wire.GET_FEATURES, 0, 0), undefined);
  t.regex(check(wire.GET_FEATURES, 8, 0)!, /GET_FEATURES has a payload of 8 bytes, not 0/);
  t.regex(check(wire.SET_FEATURES, 4, 0)!, /not 8/);
  t.regex(check(wire.SET_FEATURES, 8, 1)!, /1 descriptors, at most 0/);
  t.regex(check(wire.SET_MEM_TABLE, 8, 0)!, /0 regions/);
  const table = wire.encodeMemoryTable([{ guestAddress: 0n, size: 1n, userAddress: 0n, mmapOffset: 0n }]);
  t.is(checkPayload(wire.MESSAGES.get(wire.SET_MEM_TABLE)!, table, 1), undefined);
  t.regex(checkPayload(wire.MESSAGES.get(wire.SET_MEM_TABLE)!, table, 2)!, /1 regions and 2 descriptors/);
  t.regex(checkPayload(wire.MESSAGES.get(wire.SET_MEM_TABLE)!, table.subarray(0, 30), 1)!, /shorter/);
});
