/** Every kind of ring that DPDK's virtio driver has, through one switch; the same as `npm run testpmd-matrix`. */
import test from 'ava';
import { SwitchProcess } from '../support/switch.ts';
import { unavailable } from '../support/testpmd.ts';
import { batches, Lab, tableOf } from '../testpmd-matrix/lab.ts';
import { nameOf, ROWS, select } from '../testpmd-matrix/rows.ts';

const reason = unavailable();
const why = reason ? ` (${reason})` : '';
const maybe = reason ? test.serial.skip : test.serial;

let sw: SwitchProcess | undefined;
let lab: Lab | undefined;

test.before(async (t) => {
  if (reason) return;
  t.timeout(120_000);
  sw = await SwitchProcess.start();
  lab = new Lab(sw);
  await lab.prepare();
});

test.after.always(async () => {
  await sw?.close();
});

test('the matrix has every row once, in batches that one testpmd can hold', (t) => {
  t.is(new Set(ROWS.map(nameOf)).size, 96);
  t.is(batches(ROWS).flat().length, 96);
  t.true(batches(ROWS).every((batch) => batch.length <= 16));
  t.is(select(['packed', '1q', '2q']).length, 32);
  t.throws(() => select(['packed', '3q']), { message: /'3q' is none of split, packed/ });
});

for (const batch of batches(ROWS)) {
  const { queues, buffers } = batch[0]!;
  maybe(`all kinds of ring carry, both ways and by every queue: ${queues}, ${buffers}${why}`, async (t) => {
    t.timeout(240_000);
    const outcomes = await lab!.run(batch);
    for (const line of tableOf(outcomes)) t.log(line);
    t.deepEqual(
      outcomes.filter(({ faults }) => faults.length > 0).map(({ row, faults }) => [nameOf(row), ...faults]),
      [],
    );
  });
}
