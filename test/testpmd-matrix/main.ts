/**
 * `npm run testpmd-matrix -- [WORDS]`: every kind of ring that DPDK's virtio driver has, through one switch.
 * WORDS choose rows, such as `packed,1q,2q`; without, all of them run.
 */
import process from 'node:process';
import { SwitchProcess } from '../support/switch.ts';
import { unavailable } from '../support/testpmd.ts';
import { batches, Lab, type Outcome, tableOf } from './lab.ts';
import { select } from './rows.ts';

async function main(): Promise<number> {
  const reason = unavailable();
  if (reason) throw new Error(`${reason} (Debian: dpdk-dev)`);
  const rows = select(process.argv.slice(2).flatMap((word) => word.split(',')));
  const sw = await SwitchProcess.start();
  const outcomes: Outcome[] = [];
  try {
    const lab = new Lab(sw);
    await lab.prepare();
    for (const batch of batches(rows)) {
      const some = await lab.run(batch);
      outcomes.push(...some);
      process.stdout.write(`${tableOf(some).join('\n')}\n`);
    }
  } finally {
    await sw.close();
  }
  const bad = outcomes.filter(({ faults }) => faults.length > 0).length;
  process.stdout.write(`${outcomes.length} rows, ${bad} with faults\n`);
  return bad === 0 ? 0 : 1;
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
process.exitCode = await main().catch((error: Error) => {
  process.stderr.write(`${error.message}\n`);
  return 2;
});
