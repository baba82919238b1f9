/**
 * Packet rates side by side: one testpmd core sends, one PMD of the switch forwards, and the switches take turns row
 * by row (A B A B …), so that what the machine does to one it does to the other. Figures are medians over the rounds,
 * the best round beside them (on a shared machine the nearest to what the hardware can do); the ratio is the median of
 * the ratios of each round.
 *
 * Closed-loop rows let a fixed number of frames circulate between two guests. Flow rows use testpmd's flowgen, which
 * sends as fast as it can: UDP from one address to N successive addresses from 10.253.0.0 on, taken in turns by the
 * two ports. Their rule matches on L3 and L4, so one megaflow covers all N: with few of them every packet is found in
 * the exact-match cache, with 100 000 nearly none is, and the megaflow classifier does the work.
 */
import type { PmdStats } from '../../test/support/pmd-stats.ts';
import { sleep } from '../../test/support/process.ts';
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
import type { SwitchUnderTest } from './peer.ts';
import { type Guests, switchesFor, withGuests } from './switches.ts';

export interface Row {
  name: string;
  about: string;
  flows: string[];
  guests: Guests;
  /** Bursts of 32 frames per port that circulate; 0 for an open loop. */
  bursts: number;
  /** Ratio to OVS-DPDK that this switch is to reach. */
  target: number;
  /** Measured only when named. */
  extra?: boolean;
}

export const CROSS = ['in_port=1,actions=output:2', 'in_port=2,actions=output:1'];
const L3L4 = [1, 2].map((port) => `in_port=${port},udp,nw_dst=10.0.0.0/8,tp_dst=1001,actions=output:${3 - port}`);
// Reading nw_dst into a register makes the megaflow exact in it: one per address.
const EXACT = [1, 2].map(
  (port) => `in_port=${port},udp,tp_dst=1001,actions=move:NXM_OF_IP_DST[]->NXM_NX_REG0[],output:${3 - port}`,
);
const MACS: [string, string] = ['02:00:00:00:01:01', '02:00:00:00:01:02'];

const flowgen = (flows: number): Row['guests'] => ({ forward: 'flowgen', flowgenFlows: flows });

export const ROWS: Row[] = [
  { name: '64-in_port', about: '64 B, in_port flows', flows: CROSS, guests: {}, bursts: 8, target: 1 },
  { name: '64-l3-1', about: '64 B, L3/L4, 1 flow', flows: L3L4, guests: flowgen(1), bursts: 0, target: 1 },
  { name: '64-l3-1024', about: '64 B, L3/L4, 1 024 flows', flows: L3L4, guests: flowgen(1024), bursts: 0, target: 1 },
  {
    name: '64-l3-100k',
    about: '64 B, L3/L4, 100 000 flows',
    flows: L3L4,
    guests: flowgen(100_000),
    bursts: 0,
    target: 1,
  },
  {
    name: '64-normal',
    about: '64 B, NORMAL',
    flows: ['actions=NORMAL'],
    guests: { macs: MACS, peerMacs: [MACS[1], MACS[0]] },
    bursts: 8,
    target: 1,
  },
  {
    name: '1500-in_port',
    about: '1500 B, in_port flows',
    flows: CROSS,
    guests: { packetLength: 1500 },
    bursts: 8,
    target: 1.25,
  },
  {
    name: '64-megaflows-10k',
    about: '64 B, 10 000 megaflows',
    flows: EXACT,
    guests: flowgen(10_000),
    bursts: 0,
    target: 1,
    extra: true,
  },
];

interface Measured {
  mpps: number;
  cycles: number;
  stats: PmdStats;
  /** Garbage collections per million packets; NaN where there is no collector. */
  collections: number;
}

async function measure(subject: SwitchUnderTest, row: Row, options: BenchOptions): Promise<Measured> {
  return withGuests(subject, row.guests, row.flows, async (testpmd: Testpmd) => {
    if (row.bursts > 0) await testpmd.closeLoop(row.bursts);
    else await testpmd.startForwarding();
    await sleep(options.warmup * 1000);
    await subject.clearPmdStats();
    await testpmd.portStats();
    await sleep(options.seconds * 1000);
    const ports = await testpmd.portStats();
    const stats = await subject.pmdStats();
    const mpps = ports.reduce((sum, port) => sum + port.rxPps, 0) / 1e6;
    const collections = ((await subject.collections?.()) ?? Number.NaN) / (stats.packetsReceived / 1e6);
    return { mpps, cycles: stats.cyclesPerPacket, stats, collections };
  });
}

/** Share of packets that each cache level answered, e.g. `emc 97 %, megaflow 3 %`. */
export function hitShares(stats: PmdStats): string {
  const levels: [string, number][] = [
    ['simple', stats.simpleMatchHits],
    ['emc', stats.emcHits],
    ['smc', stats.smcHits],
    ['megaflow', stats.megaflowHits],
    ['miss', stats.missSuccess + stats.missFailed],
  ];
  const total = levels.reduce((sum, [, hits]) => sum + hits, 0) || 1;
  return levels
    .filter(([, hits]) => hits / total >= 0.005)
    .map(([level, hits]) => `${level} ${Math.round((100 * hits) / total)} %`)
    .join(', ');
}

function pickRows(all: readonly Row[], options: BenchOptions): Row[] {
  const unknown = options.rows.filter((name) => !all.some((row) => row.name === name));
  if (unknown.length > 0)
    throw new Error(`no row ${unknown.join(', ')}; rows: ${all.map((row) => row.name).join(', ')}`);
  return all.filter((row) => (options.rows.length > 0 ? options.rows.includes(row.name) : !row.extra));
}

/** Measures rows, switches in turns. */
export async function runRows(all: readonly Row[], options: BenchOptions): Promise<BenchReport> {
  const subjects = switchesFor(options);
  const rows = pickRows(all, options);
  const results: BenchResult[] = [];
  const table: string[][] = [
    [
      'row',
      ...subjects.flatMap((s) => [`${s.name} Mpps`, 'best', 'cycles/pkt', ...(s.collections ? ['GC/Mpkt'] : [])]),
      'ratio',
      'target',
    ],
  ];
  const turns = rows.length * options.rounds * subjects.length;
  let turn = 0;
  for (const row of rows) {
    const measured: Measured[][] = subjects.map(() => []);
    for (let round = 0; round < options.rounds; round++) {
      for (const [index, subject] of subjects.entries()) {
        const one = await measure(subject, row, options);
        measured[index]!.push(one);
        options.progress(
          `[${++turn}/${turns}] ${row.name} ${subject.name}: ${figure(one.mpps)} Mpps, ` +
            `${figure(one.cycles)} cycles/packet (${hitShares(one.stats)})`,
        );
      }
    }
    const cells = [row.about];
    for (const [index, subject] of subjects.entries()) {
      const mpps = median(measured[index]!.map((one) => one.mpps));
      const cycles = median(measured[index]!.map((one) => one.cycles));
      const best = Math.max(...measured[index]!.map((one) => one.mpps));
      cells.push(figure(mpps), figure(best), figure(cycles));
      if (subject.collections) {
        const collections = Math.max(...measured[index]!.map((one) => one.collections));
        cells.push(figure(collections));
        results.push({
          row: row.name,
          subject: subject.name,
          metric: 'collections per million packets',
          value: collections,
          unit: '',
        });
      }
      results.push({ row: row.name, subject: subject.name, metric: 'best rate', value: best, unit: 'Mpps' });
      results.push({ row: row.name, subject: subject.name, metric: 'rate', value: mpps, unit: 'Mpps' });
      results.push({
        row: row.name,
        subject: subject.name,
        metric: 'busy cycles per packet',
        value: cycles,
        unit: 'cycles',
      });
    }
    const [ovs, ringway] = [
      subjects.findIndex((s) => s.name === 'OVS-DPDK'),
      subjects.findIndex((s) => s.name === 'Ringway'),
    ];
    let ratio = Number.NaN;
    if (ovs >= 0 && ringway >= 0) {
      ratio = median(measured[ringway]!.map((one, round) => one.mpps / measured[ovs]![round]!.mpps));
      results.push({ row: row.name, subject: 'Ringway / OVS-DPDK', metric: 'ratio', value: ratio, unit: '' });
    }
    table.push([...cells, figure(ratio), `>= ${row.target}`]);
  }
  return { results, table: formatTable(table) };
}

export const rates: Bench = {
  name: 'rates',
  about: `packet rates and PMD cycles per packet, switches in turns (rows: ${ROWS.map((row) => row.name).join(', ')})`,
  run: (options) => runRows(ROWS, options),
};
