/**
 * The rate between two guests while a third attacks the switch, beside the rate while the third does what a guest may do:
 * nothing, or send frames at full speed where the attack does. The third and the switch's threads beside the PMD have the
 * same share of the load generator's core in both. Attack and peace take turns within one run on the same rings. One PMD
 * polls all three: an attack has the fair share of a port there, and no more.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Child, sleep, which } from '../../test/support/process.ts';
import type { Testpmd } from '../../test/support/testpmd.ts';
import {
  type Bench,
  type BenchOptions,
  type BenchReport,
  type BenchResult,
  figure,
  formatTable,
  median,
} from '../bench.ts';
import { RingwayPeer } from './ringway-peer.ts';
import { GUEST_CORE, withGuests } from './switches.ts';

/** What the attacker does, and what it would do in peace. */
const ATTACKS: readonly (readonly [attack: string, peace: string])[] = [
  ['kicks', 'idle'],
  ['bad-descriptors', 'frames'],
  ['bad-chains', 'frames'],
  ['blocking-call', 'frames'],
  ['loops', 'idle'],
  ['indices', 'idle'],
  ['truncated', 'idle'],
  ['connects', 'idle'],
  ['messages', 'idle'],
  ['slow', 'idle'],
];
const TARGET = 0.95;
const PORT = 'attacked';
const DAEMONS = ['rw-vswitchd', 'rw-datapathd'];
const ATTACKER = fileURLToPath(new URL('attack/attacker.ts', import.meta.url));
const CROSS = ['in_port=1,actions=output:2', 'in_port=2,actions=output:1'];

async function rate(testpmd: Testpmd, rundir: string, kind: string, seconds: number): Promise<number> {
  const socket = `${rundir}/${PORT}.sock`;
  const pids = DAEMONS.map((daemon) => readFileSync(`${rundir}/${daemon}.pid`, 'latin1').trim());
  const pinned = which('taskset') ? ['taskset', '-c', String(GUEST_CORE)] : [];
  const [file, ...args] = [...pinned, process.execPath, ATTACKER, socket, kind, ...pids];
  const child = new Child(file!, args, { name: `attacker ${kind}` });
  try {
    await child.waitFor(/ready\n/, 'the attacker to begin', 60_000);
    await sleep(300);
    await testpmd.portStats();
    await sleep(seconds * 1000);
    const ports = await testpmd.portStats();
    if (child.exit) throw new Error(`the attacker ended: ${child.tail()}`);
    return ports.reduce((sum, port) => sum + port.rxPps, 0) / 1e6;
  } finally {
    await child.stop('SIGKILL');
  }
}

async function run(options: BenchOptions): Promise<BenchReport> {
  const unknown = options.rows.filter((row) => !ATTACKS.some(([attack]) => attack === row));
  if (unknown.length > 0)
    throw new Error(`no row ${unknown.join(', ')}; there are ${ATTACKS.map(([attack]) => attack).join(', ')}`);
  const results: BenchResult[] = [];
  const table = [['attack', 'attacked Mpps', 'in peace', 'ratio', 'target', 'rounds']];
  const peer = new RingwayPeer();
  await withGuests(peer, {}, CROSS, async (testpmd) => {
    await peer.vsctl('add-port', 'br0', PORT, '--', 'set', 'Interface', PORT, 'type=vhost-user', 'ofport_request=9');
    await testpmd.closeLoop(8);
    await sleep(options.warmup * 1000);
    for (const [attack, peace] of ATTACKS) {
      if (options.rows.length > 0 && !options.rows.includes(attack)) continue;
      const rates: [number, number][] = [];
      for (let round = 0; round < options.rounds; round++) {
        // The other is the first every second time.
        const kinds = round % 2 === 0 ? [peace, attack] : [attack, peace];
        const [first, second] = [
          await rate(testpmd, peer.rundir, kinds[0]!, options.seconds),
          await rate(testpmd, peer.rundir, kinds[1]!, options.seconds),
        ];
        rates.push(round % 2 === 0 ? [second, first] : [first, second]);
      }
      const ratios = rates.map(([attacked, calm]) => attacked / calm);
      const ratio = median(ratios);
      const [attacked, calm] = [median(rates.map(([one]) => one)), median(rates.map(([, one]) => one))];
      options.progress(
        `${attack}: ${figure(attacked)} Mpps, ${figure(calm)} in peace (${peace}), ratio ${ratio.toFixed(2)}`,
      );
      table.push([
        `${attack} (in peace: ${peace})`,
        figure(attacked),
        figure(calm),
        ratio.toFixed(2),
        TARGET.toFixed(2),
        ratios.map((one) => one.toFixed(2)).join(' '),
      ]);
      results.push({
        row: attack,
        subject: 'Ringway',
        metric: 'neighbours under attack, to peace',
        value: ratio,
        unit: 'x',
      });
    }
  });
  return { results, table: formatTable(table) };
}

export const attackBench: Bench = {
  name: 'attack',
  about: 'rate between two guests while a third attacks the switch, to their rate in peace',
  run,
};
