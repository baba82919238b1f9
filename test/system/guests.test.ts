/**
 * Linux guests under QEMU on the whole switch, the short form of `npm run guests`: rows of its matrix that have every value
 * of each dimension, and nearly every pair of values; and a switch that is killed under guests with packed rings.
 */
import test from 'ava';
import { exchange } from '../guests/exchange.ts';
import { allowedCpus, GuestLab, guestsUnavailable, type LabOptions } from '../guests/lab.ts';
import { lineOf } from '../guests/report.ts';
import { nameOf, ROWS } from '../guests/rows.ts';
import { runScenario } from '../guests/scenarios.ts';

const reason = guestsUnavailable();
const maybe = reason
  ? (title: string, _body: unknown) => test.serial.skip(`${title} (${reason})`, () => {})
  : test.serial;

const SHORT = [
  'modern-split-1q-offload-9000',
  'modern-packed-2q-mixed-1500',
  'modern-packed-1q-plain-9000',
  'legacy-split-1q-mixed-1500',
  'legacy-split-2q-plain-9000',
  'legacy-split-2q-offload-1500',
];
const rows = ROWS.filter((row) => SHORT.includes(nameOf(row)));

const [first = 0, second = first] = allowedCpus();
const options: LabOptions = { cpus: [first, second] };
let lab: GuestLab | undefined;

test.before('two guests boot', async (t) => {
  t.timeout(300_000);
  if (!reason) lab = await GuestLab.open(rows, options);
});

test.after.always('they end', async () => {
  await lab?.close();
});

for (const row of rows) {
  const name = nameOf(row);
  maybe(`${name}: pings, TCP, UDP and files pass both ways, and nobody counts an error`, async (t) => {
    t.timeout(300_000);
    const here = lab!;
    try {
      const outcome = await here.withRow(row, () => exchange(here, row));
      t.log(lineOf({ name, ok: true, seconds: 0, outcome }, 1, 1));
      t.pass();
    } catch (error) {
      (error as Error).message += `\n${here.said()}`;
      throw error;
    }
  });
}

maybe(
  'data plane and switch are killed under two queues of packed rings, QEMU listens: every queue goes on',
  async (t) => {
    t.timeout(300_000);
    await lab?.close();
    lab = undefined;
    t.log(await runScenario('restart-packed', options));
    t.pass();
  },
);
