/**
 * `npm run testpmd-matrix`: every kind of ring that DPDK's virtio driver has, through one switch. The exit code is 0 only when
 * every row went well.
 *
 *     node test/testpmd-matrix/main.ts [--list] [--json] [WORDS…]
 */
import process from 'node:process';
import { Command } from 'commander';
import { SwitchProcess } from '../support/switch.ts';
import { unavailable } from '../support/testpmd.ts';
import { batches, Lab, type Outcome, tableOf } from './lab.ts';
import { DIMENSIONS, nameOf, select } from './rows.ts';

const command = new Command('npm run testpmd-matrix --')
  .description("Every kind of ring of DPDK's virtio driver, a pair of devices each, through one switch.")
  .argument(
    '[words...]',
    `rows with these of ${Object.values(DIMENSIONS)
      .map((words) => words.join('|'))
      .join(' ')}`,
  )
  .option('--list', 'print the names of rows that would run', false)
  .option('--json', 'print the results as JSON and nothing else to standard output', false);

async function main(): Promise<number> {
  command.parse();
  const { list, json } = command.opts<{ list: boolean; json: boolean }>();
  const rows = select(command.args.flatMap((word) => word.split(',')));
  if (list) {
    process.stdout.write(`${rows.map(nameOf).join('\n')}\n`);
    return 0;
  }
  const reason = unavailable();
  if (reason) throw new Error(`${reason} (Debian: dpdk-dev)`);
  const sw = await SwitchProcess.start();
  const outcomes: Outcome[] = [];
  try {
    const lab = new Lab(sw);
    await lab.prepare();
    for (const batch of batches(rows)) {
      const some = await lab.run(batch);
      outcomes.push(...some);
      if (!json) process.stdout.write(`${tableOf(some).join('\n')}\n`);
    }
  } finally {
    await sw.close();
  }
  const bad = outcomes.filter(({ faults }) => faults.length > 0).length;
  if (json) {
    const results = outcomes.map(({ row, ...rest }) => ({ name: nameOf(row), ...rest }));
    process.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
  } else process.stdout.write(`${outcomes.length} rows, ${bad} with faults\n`);
  return bad === 0 ? 0 : 1;
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
process.exitCode = await main().catch((error: Error) => {
  process.stderr.write(`${error.message}\n`);
  return 2;
});
