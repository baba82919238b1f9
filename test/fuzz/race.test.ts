/** Short races of every kind: nothing is touched that was not offered, and the race takes place. */
import test from 'ava';
import { RACE_KINDS, type RaceTally, race, raceName } from './race.ts';

const SLICE_MS = 300;
const MOST_SLICES = 100;

/** Both threads have come far enough to have met. */
const met = ({ bursts, writes, packets, sent, drops }: RaceTally): boolean =>
  writes > 10_000 && bursts > 1000 && packets > 1000 && sent > 100 && Object.keys(drops).length > 1;

for (const kind of RACE_KINDS) {
  test.serial(`a guest that changes its rings meanwhile does no harm: ${raceName(kind)}`, async (t) => {
    // On a busy machine the one thread may have all of a slice.
    for (let slice = 0; slice < MOST_SLICES; slice++) {
      const tally = await race(kind, slice + 1, SLICE_MS);
      t.log(JSON.stringify(tally));
      t.is(tally.fault, '');
      if (met(tally)) return;
    }
    t.fail('the threads never met');
  });
}
