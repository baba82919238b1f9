import test from 'ava';
import fc from 'fast-check';
import * as os from '#contract/os.ts';

const SIZE = 2 ** 21;
const source = new Uint8Array(os.mapAnonymous(SIZE));
const target = new Uint8Array(os.mapAnonymous(SIZE));
const expected = new Uint8Array(SIZE);
const from = os.address(source.buffer as ArrayBuffer);
const to = os.address(target.buffer as ArrayBuffer);
const rows = new Float64Array(os.mapAnonymous(3 * 8 * 1024));
for (let i = 0; i < SIZE; i++) source[i] = (i * 2654435761) >>> 13;

test('every length from 0 to 600 at every alignment copies exactly its bytes', (t) => {
  for (let length = 0; length <= 600; length++) {
    target.fill(0xee, 0, 64 * 1024);
    expected.fill(0xee, 0, 64 * 1024);
    for (let row = 0; row < 64; row++) {
      const at = row * 1024 + (row & 31) + 32;
      const src = row * 1031 + ((row * 7) & 31);
      rows.set([to + at, from + src, length], row * 3);
      expected.set(source.subarray(src, src + length), at);
    }
    if (os.copyRows(rows, 64) !== 0) t.fail(`length ${length}: rows skipped`);
    if (Buffer.compare(target.subarray(0, 64 * 1024), expected.subarray(0, 64 * 1024)) !== 0)
      t.fail(`length ${length}`);
  }
  t.pass();
});

test('random bursts equal a naive copy', (t) => {
  const handle = os.copyContext(rows);
  const row = fc.record({
    src: fc.nat(SIZE / 2),
    gap: fc.nat(100),
    length: fc.oneof(fc.nat(300), fc.nat(2000), fc.nat(70000)),
  });
  fc.assert(
    fc.property(fc.array(row, { maxLength: 28 }), (burst) => {
      target.fill(0x55);
      expected.fill(0x55);
      let at = 0;
      burst.forEach(({ src, gap, length }, i) => {
        at += gap;
        rows.set([to + at, from + src, length], i * 3);
        expected.set(source.subarray(src, src + length), at);
        at += length;
      });
      return os.copyRun(handle, burst.length) === 0 && Buffer.compare(target, expected) === 0;
    }),
    { numRuns: 150 },
  );
  t.pass();
});

test('an impossible row is skipped and counted, the others are copied', (t) => {
  target.fill(0);
  const bad = [
    [to, from, -1],
    [to, from, 2 ** 20 + 1],
    [to, from, Number.NaN],
    [to, from, Number.POSITIVE_INFINITY],
    [0, from, 8],
    [to, 0, 8],
    [to, -1, 8],
    [Number.NaN, from, 8],
    [2 ** 47, from, 8],
    [to, 2 ** 63, 8],
    [to, Number.NEGATIVE_INFINITY, 8],
  ];
  const burst = Float64Array.from([[to, from + 1, 4], ...bad, [to + 8, from + 9, 4]].flat());
  t.is(os.copyRows(burst, bad.length + 2), bad.length);
  t.deepEqual(target.subarray(0, 4), source.subarray(1, 5));
  t.deepEqual(target.subarray(8, 12), source.subarray(9, 13));
});

test('a row of 1 MiB is copied', (t) => {
  t.is(os.copyRows(Float64Array.of(to + 1, from + 3, 2 ** 20), 1), 0);
  t.is(Buffer.compare(target.subarray(1, 1 + 2 ** 20), source.subarray(3, 3 + 2 ** 20)), 0);
});

test('counts and handles out of range copy nothing', (t) => {
  const handle = os.copyContext(rows);
  t.true(os.copyRun(handle, 1025) < 0);
  t.true(os.copyRun(handle, -1) < 0);
  t.true(os.copyRun(handle + 1, 1) < 0);
  t.true(os.copyRun(-1, 1) < 0);
  t.true((os.copyRun as () => number)() < 0);
  t.throws(() => os.copyRows(rows, 1025), { instanceOf: RangeError });
  t.throws(() => os.copyContext(new Float64Array(3)), { code: 'EINVAL' });
});
