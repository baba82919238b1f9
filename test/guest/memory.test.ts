import test from 'ava';
import fc from 'fast-check';
import { seals } from '#contract/os.ts';
import { GuestMemory } from '#guest/memory.ts';

const GIB = 2 ** 30;

test('blocks lie apart, rings in one region, and regions cover their files', (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          ringBytes: fc.integer({ min: 1, max: 20_000 }),
          bufferBytes: fc.integer({ min: 1, max: 300_000 }),
        }),
        {
          minLength: 1,
          maxLength: 6,
        },
      ),
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 8 }),
      (sizes, files, splits) => {
        const memory = new GuestMemory('t', sizes, { files, splits, gpaBase: 4 * GIB, gap: GIB, sealed: true });
        try {
          const spans = memory.blocks.flatMap((block, i) => [
            { file: block.file, start: block.ringAt, end: block.ringAt + sizes[i]!.ringBytes, ring: true },
            { file: block.file, start: block.buffersAt, end: block.buffersAt + sizes[i]!.bufferBytes, ring: false },
          ]);
          for (const [i, a] of spans.entries()) {
            t.true(a.end <= a.file.size);
            for (const b of spans.slice(i + 1)) t.true(a.file !== b.file || a.end <= b.start || b.end <= a.start);
            const regions = memory.regions.filter(({ fd }) => fd === a.file.fd);
            if (a.ring) t.true(regions.some((r) => a.start >= r.mmapOffset && a.end <= r.mmapOffset + r.size));
          }
          for (const file of memory.files) {
            const regions = memory.regions.filter(({ fd }) => fd === file.fd);
            t.is(regions.length, splits);
            t.is(
              regions.reduce((sum, r) => sum + r.size, 0),
              file.size,
            );
            let next = file.guestAddress;
            for (const r of regions) {
              t.is(r.guestAddress, next);
              t.is(r.guestAddress - file.guestAddress, r.mmapOffset);
              t.is(r.userAddress - file.userAddress, r.mmapOffset);
              t.is(r.mmapOffset % 4096, 0);
              next += r.size;
            }
          }
        } finally {
          memory.close();
        }
      },
    ),
    { numRuns: 50 },
  );
});

test('memfds are sealed only where asked for', (t) => {
  for (const sealed of [true, false]) {
    const memory = new GuestMemory('t', [{ ringBytes: 1, bufferBytes: 1 }], {
      files: 1,
      splits: 1,
      gpaBase: 0,
      gap: 0,
      sealed,
    });
    t.is((seals(memory.files[0]!.fd) & 2) !== 0, sealed);
    memory.close();
  }
});
