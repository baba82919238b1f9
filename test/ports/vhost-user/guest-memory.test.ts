import test from 'ava';
import fc from 'fast-check';
import { close, memfd, truncate } from '#contract/os.ts';
import { checkFiles, sealed } from '#ports/memory.ts';
import { ChainWalker, MAX_PIECES, WALK_BAD, WALK_LONG, WALK_LOOP, WALK_OK } from '#ports/vhost-user/chain.ts';
import { checkRegions, findUserAddress, GuestMemory } from '#ports/vhost-user/guest-memory.ts';
import type { MemoryRegion } from '#ports/vhost-user/wire.ts';

const LIMIT = 2n ** 52n;
const near = (...points: bigint[]) =>
  fc.oneof(
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    fc
      .constantFrom(...points)
      .chain((p) => fc.integer({ min: -3, max: 3 }).map((d) => (p + BigInt(d)) & (2n ** 64n - 1n))),
  );
const address = near(0n, 2n ** 32n, LIMIT, 2n ** 63n, 2n ** 64n - 1n);
const region = fc.record({
  guestAddress: address,
  size: fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 40n }), address),
  userAddress: address,
  mmapOffset: fc.oneof(fc.constant(0n), address),
});

const overlap = (a: MemoryRegion, b: MemoryRegion, key: 'guestAddress' | 'userAddress') =>
  a[key] < b[key] + b.size && b[key] < a[key] + a.size;

test('a memory table is taken exactly when no region is empty, too large, wrapping or overlapping', (t) => {
  fc.assert(
    fc.property(fc.array(region, { minLength: 1, maxLength: 4 }), (rows) => {
      const single = rows.every(
        (r) =>
          r.size > 0n &&
          [r.guestAddress, r.userAddress, r.mmapOffset].every((start) => start < LIMIT && start + r.size <= LIMIT),
      );
      const apart = rows.every((a, i) =>
        rows.every((b, j) => i >= j || (!overlap(a, b, 'guestAddress') && !overlap(a, b, 'userAddress'))),
      );
      let taken = true;
      try {
        checkRegions(
          rows,
          rows.map(() => 0),
        );
      } catch (error) {
        taken = false;
        t.true(error instanceof RangeError);
      }
      t.is(taken, single && apart);
    }),
    { numRuns: 2000 },
  );
});

test('front-end addresses are found when start and end lie in one region', (t) => {
  const row = (userAddress: bigint, size: bigint): MemoryRegion => ({
    guestAddress: userAddress,
    size,
    userAddress,
    mmapOffset: 0n,
  });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(1000), fc.integer({ min: 1, max: 1000 })), { minLength: 1, maxLength: 5 }),
      fc.integer({ min: 0, max: 20_000 }),
      fc.nat(1200),
      (gaps, at, length) => {
        let next = 0;
        const rows = gaps.map(([gap, size]) => {
          const start = next + gap;
          next = start + size;
          return row(BigInt(start), BigInt(size));
        });
        const regions = checkRegions(
          rows,
          rows.map(() => 0),
        );
        const expected = rows.findIndex(
          (r) => BigInt(at) >= r.userAddress && BigInt(at) + BigInt(length) <= r.userAddress + r.size,
        );
        const found = findUserAddress(regions, BigInt(at), length);
        if (expected < 0) t.is(found, undefined);
        else t.deepEqual(found, { region: expected, offset: at - Number(rows[expected]!.userAddress) });
      },
    ),
  );
  t.is(findUserAddress([], 2n ** 64n - 1n, 8), undefined);
});

/** Two adjoining regions above 4 GiB, a gap, and a third one. */
const BASES = [0x1_0000_0000, 0x1_0000_2000, 0x2_0000_0000];
const SIZES = [0x2000, 0x1000, 0x3000];

const memory = () => {
  const fds = SIZES.map((size) => memfd('test', size));
  const rows = BASES.map((base, i) => ({
    guestAddress: BigInt(base),
    size: BigInt(SIZES[i]!),
    userAddress: BigInt(base),
    mmapOffset: 0n,
  }));
  const regions = checkRegions(rows, fds);
  checkFiles(regions);
  return { guest: new GuestMemory(regions, 1), fds, regions };
};

const release = ({ guest, fds }: ReturnType<typeof memory>) => {
  guest.close();
  for (const fd of fds) close(fd);
};

test('a descriptor is split where regions meet, and refused where memory ends', (t) => {
  const m = memory();
  const walker = new ChainWalker(m.guest);
  const desc = new Uint32Array(4);
  fc.assert(
    fc.property(
      fc.oneof(
        fc.constantFrom(...BASES).chain((base) => fc.integer({ min: -16, max: 0x4000 }).map((d) => base + d)),
        fc.maxSafeInteger().map(Math.abs),
      ),
      fc.oneof(fc.nat(0x4000), u32()),
      (at, length) => {
        desc.set([at % 2 ** 32, Math.floor(at / 2 ** 32), length, 0]);
        walker.clear();
        const result = walker.walk(desc, 1, 0, 0);
        const inside = (from: number, to: number) => {
          for (let i = 0; i < BASES.length; i++) {
            if (from < BASES[i]! || from >= BASES[i]! + SIZES[i]!) continue;
            return to <= BASES[i]! + SIZES[i]! || (i === 0 && to <= BASES[1]! + SIZES[1]!);
          }
          return false;
        };
        const good = length > 0 && inside(at, at + length);
        t.is(result, good ? WALK_OK : WALK_BAD);
        if (!good) return;
        const pieces = Array.from({ length: walker.count }, (_, i) => walker.pieceLength[i]!);
        t.is(
          pieces.reduce((a, b) => a + b),
          length,
        );
        t.is(walker.bytes, length);
        t.is(walker.count, at < BASES[1]! && at + length > BASES[1]! ? 2 : 1);
      },
    ),
    { numRuns: 3000 },
  );
  release(m);
});

function u32() {
  return fc.integer({ min: 0, max: 0xffffffff });
}

test('no descriptor table makes a walk endless or lets it leave memory', (t) => {
  const m = memory();
  const walker = new ChainWalker(m.guest);
  const size = 16;
  const word = fc.record({
    at: fc.constantFrom(...BASES).chain((base) => fc.nat(0x2800).map((d) => base + d)),
    length: fc.constantFrom(0, 1, 16, 32, 64, 4096, 0xffffffff),
    flags: fc.nat(7),
    next: fc.oneof({ weight: 9, arbitrary: fc.nat(size - 1) }, { weight: 1, arbitrary: fc.nat(0xffff) }),
  });
  const fill = (into: Uint32Array, rows: { at: number; length: number; flags: number; next: number }[]) =>
    rows.forEach((r, i) => {
      into.set([r.at % 2 ** 32, Math.floor(r.at / 2 ** 32), r.length, (r.flags | (r.next << 16)) >>> 0], i * 4);
    });
  fc.assert(
    fc.property(
      fc.array(word, { minLength: size, maxLength: size }),
      fc.array(word, { minLength: 64, maxLength: 64 }),
      fc.constantFrom(0, 2),
      (direct, table, direction) => {
        const desc = new Uint32Array(size * 4);
        fill(desc, direct);
        for (const view of m.guest.u32) fill(view, table.slice(0, Math.min(64, view.length / 4)));
        walker.clear();
        const result = walker.walk(desc, size, 0, direction);
        t.true([WALK_OK, WALK_BAD, WALK_LONG, WALK_LOOP].includes(result));
        t.true(walker.count <= MAX_PIECES);
        for (let i = 0; i < walker.count; i++) {
          const from = walker.pieceAddress[i]!;
          const to = from + walker.pieceLength[i]!;
          const home = BASES.some((base, r) => {
            const start = base + m.guest.table[r * 3 + 2]!;
            return from >= start && to <= start + SIZES[r]!;
          });
          t.true(home);
        }
      },
    ),
    { numRuns: 2000 },
  );
  release(m);
});

test('a file shorter than its region is refused, and seals are seen', (t) => {
  const open = memfd('test', 8192);
  const fixed = memfd('test', 8192, { seal: true });
  const rows = (size: bigint) => [{ guestAddress: 0n, size, userAddress: 0n, mmapOffset: 4096n }];
  t.notThrows(() => checkFiles(checkRegions(rows(4096n), [open])));
  t.throws(() => checkFiles(checkRegions(rows(4097n), [open])), { message: /ends at byte 8193 of a file of 8192/ });
  t.false(sealed(checkRegions(rows(4096n), [open])));
  t.true(sealed(checkRegions(rows(4096n), [fixed])));
  truncate(open, 4096);
  t.throws(() => checkFiles(checkRegions(rows(4096n), [open])));
  close(open);
  close(fixed);
});
