import test from 'ava';
import fc from 'fast-check';
import { FlowIds } from '#ofproto/flow-ids.ts';

test('an id belongs to one flow at a time, whatever is taken, reserved and freed', (t) => {
  const step = fc.oneof(
    fc.constant({ kind: 'take' as const, id: 0 }),
    fc.nat(40).map((id) => ({ kind: 'free' as const, id })),
    fc.nat(31).map((id) => ({ kind: 'reserve' as const, id })),
    fc.constant({ kind: 'clear' as const, id: 0 }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const ids = new FlowIds(32);
      const held = new Set<number>();
      for (const { kind, id } of steps) {
        if (kind === 'take') {
          const got = ids.take();
          if (got < 0) t.is(held.size, 32, 'none left only when all are out');
          else {
            t.true(got < 32 && !held.has(got));
            held.add(got);
          }
        } else if (kind === 'free') {
          ids.free(id);
          held.delete(id);
        } else if (kind === 'reserve') {
          ids.reserve(id);
          held.add(id);
        } else {
          ids.clear();
          held.clear();
        }
        for (const one of held) t.true(one < ids.end);
      }
    }),
    { numRuns: 300 },
  );
});

test('ids stay small: freed ones serve again first', (t) => {
  const ids = new FlowIds(1000);
  for (let i = 0; i < 10; i++) t.is(ids.take(), i);
  ids.free(3);
  ids.free(3);
  t.is(ids.take(), 3);
  t.is(ids.take(), 10);
  t.is(ids.end, 11);
});
