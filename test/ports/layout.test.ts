import test from 'ava';
import fc from 'fast-check';
import { layout } from '#ports/layout.ts';

const MIXED = layout('mixed', 23, { a: 'u8', b: 'u16', name: 'text8', c: 'u32', d: 'u64' });

test('a layout whose fields do not add up is an error at load', (t) => {
  t.throws(() => layout('wrong', 8, { a: 'u32', b: 'u16' }), { message: 'layout wrong has 6 bytes, not 8' });
  t.throws(() => layout('wrong', 8, { a: 'u8', b: 'text32' }), { message: 'layout wrong has 33 bytes, not 8' });
});

test('fields of all kinds come back as they were, packed and little-endian', (t) => {
  const record = fc.record({
    a: fc.nat(0xff),
    b: fc.nat(0xffff),
    name: fc.stringMatching(/^[ -~]{0,8}$/),
    c: fc.nat(0xffffffff),
    d: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  });
  fc.assert(
    fc.property(record, fc.nat(5), (value, at) => {
      const bytes = new Uint8Array(40).fill(0xee);
      MIXED.encode(value, bytes, at);
      t.deepEqual(MIXED.decode(bytes, at), value);
      const naive = Buffer.alloc(23);
      naive.writeUInt8(value.a, 0);
      naive.writeUInt16LE(value.b, 1);
      naive.write(value.name, 3, 'latin1');
      naive.writeUInt32LE(value.c, 11);
      naive.writeBigUInt64LE(value.d, 15);
      t.true(naive.equals(bytes.subarray(at, at + 23)));
      t.true([...bytes.subarray(0, at), ...bytes.subarray(at + 23)].every((byte) => byte === 0xee));
    }),
  );
});

test('a text that is too long is cut, and one of any bytes is read up to its first NUL', (t) => {
  const bytes = MIXED.encode({ a: 1, b: 2, name: 'longer than eight', c: 3, d: 4n });
  t.is(MIXED.decode(bytes).name, 'longer t');
  bytes.set([0x61, 0, 0x62, 0xff], 3);
  t.is(MIXED.decode(bytes).name, 'a');
  bytes.set([0xff, 0x61, 0], 3);
  t.is(MIXED.decode(bytes).name, '\ufffda');
});

test('too few bytes are an error', (t) => {
  t.throws(() => MIXED.decode(new Uint8Array(22)), { message: 'mixed needs 23 bytes, 22 are there' });
  t.throws(() => MIXED.decode(new Uint8Array(30), 8), { message: 'mixed needs 23 bytes, 22 are there' });
});
