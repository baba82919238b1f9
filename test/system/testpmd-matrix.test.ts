/** Every kind of ring that DPDK's virtio driver has, through the switch; the same as `npm run testpmd-matrix`. */
import test from 'ava';
import { withSwitch } from '../support/switch.ts';
import { unavailable } from '../support/testpmd.ts';
import { batches, Lab, tableOf } from '../testpmd-matrix/lab.ts';
import { nameOf, ROWS, select } from '../testpmd-matrix/rows.ts';

const reason = unavailable();
const maybe = reason ? test.serial.skip : test.serial;

test('the matrix has every row once, in batches that one testpmd can hold', (t) => {
  t.is(new Set(ROWS.map(nameOf)).size, 96);
  t.is(batches(ROWS).flat().length, 96);
  t.true(batches(ROWS).every((batch) => batch.length <= 16));
  t.is(select(['packed', '1q', '2q']).length, 32);
  t.throws(() => select(['packed', '3q']), { message: /'3q' is none of split, packed/ });
});

maybe(
  `every kind of ring of DPDK's virtio driver carries, both ways and by every queue${reason ? ` (${reason})` : ''}`,
  async (t) => {
    t.timeout(280_000);
    await withSwitch([], async (sw) => {
      const lab = new Lab(sw);
      await lab.prepare();
      const outcomes = [];
      for (const batch of batches(ROWS)) outcomes.push(...(await lab.run(batch)));
      for (const line of tableOf(outcomes)) t.log(line);
      t.deepEqual(
        outcomes
          .filter(({ faults }) => faults.length > 0)
          .map(({ row, faults }) => `${nameOf(row)}: ${faults.join('; ')}`),
        [],
      );
    });
  },
);
