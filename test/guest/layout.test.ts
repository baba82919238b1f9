import test from 'ava';
import { planShape, ringLayout } from '#guest/layout.ts';

test('the parts of a ring have their alignment and do not overlap', (t) => {
  for (let size = 8; size <= 32_768; size *= 2) {
    const { descAt, availAt, usedAt, tablesAt, bytes, stride } = ringLayout(size, 10, 1531, true);
    t.is(descAt % 16, 0);
    t.is(availAt % 2, 0);
    t.is(usedAt % 4, 0);
    t.true(availAt >= descAt + 16 * size);
    t.true(usedAt >= availAt + 6 + 2 * size);
    t.true(tablesAt >= usedAt + 6 + 8 * size);
    t.is(bytes, tablesAt + 10 * 64 * 16);
    t.true(stride >= 1531 + 16);
  }
});

test('shapes that cannot be laid out are refused', (t) => {
  t.is(planShape({ cuts: [1, 2], headerAlone: true }, 8, false).pieces, 4);
  t.is(planShape({ cuts: [1, 2], indirect: true }, 8, true).ringDescriptors, 1);
  t.throws(() => planShape({ indirect: true }, 8, false), { message: /INDIRECT_DESC was not negotiated/ });
  t.throws(() => planShape({ cuts: [5, 5] }, 8, true), { message: /must ascend/ });
  t.throws(() => planShape({ cuts: [0] }, 8, true), { message: /above 0/ });
  t.throws(() => planShape({ cuts: [1, 2, 3, 4, 5, 6, 7, 8] }, 8, true), {
    message: /needs 9 descriptors, the ring has 8/,
  });
  t.throws(() => planShape({ cuts: Array.from({ length: 63 }, (_, i) => i + 1) }, 1024, true), {
    message: /at most 62/,
  });
});
