/**
 * What the first packet of a flow waits: one guest sends single frames of ever new flows, another takes the time until
 * each arrives; then the same frame once more, which finds the megaflow installed. The difference is the price of the
 * upcall: miss, translation, installation, execution. Both guests sleep while they wait, so that the control plane has
 * the core; every figure therefore includes one wake-up. Misses beyond one per flow would mean that a frame was
 * delivered before its megaflow was there.
 */
import { join } from 'node:path';
import { openVirtioPort, type VirtioPort } from '../../src/guest/index.ts';
import { removeScratchDir, scratchDir, sleep } from '../../test/support/process.ts';
import { type Bench, type BenchOptions, type BenchResult, figure, formatTable, median } from '../bench.ts';
import type { SwitchUnderTest } from './peer.ts';
import { GUEST_CORE, PMD_CORE, switchesFor } from './switches.ts';

const FLOWS = 500;
const WAIT_MS = 2000;
// Reading nw_dst makes every megaflow exact in it.
const RULES = ['in_port=1,udp,actions=move:NXM_OF_IP_DST[]->NXM_NX_REG0[],output:2', 'in_port=2,actions=drop'];

/** A 60-byte UDP frame from 10.0.0.1 to `10.1.x.y`; checksums are left 0, no switch looks at them. */
function udpFrame(flow: number): Uint8Array {
  const frame = new Uint8Array(60);
  frame.set([0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00]);
  frame.set([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 1, flow >> 8, flow & 255], 14);
  frame.set([0x03, 0xe9, 0x03, 0xe9, 0, 26], 34);
  return frame;
}

/** Microseconds until the frame arrives, or undefined when it does not. */
function flight(from: VirtioPort, to: VirtioPort, frame: Uint8Array): number | undefined {
  to.queue(0).receive();
  const start = process.hrtime.bigint();
  from.queue(0).send([frame]);
  for (;;) {
    if (!to.queue(0).waitReadable(WAIT_MS)) return undefined;
    const arrived = process.hrtime.bigint();
    if (to.queue(0).receive().length > 0) return Number(arrived - start) / 1000;
  }
}

/** One frame at a time until the path is up: a switch may still be taking up the ports. */
async function settle(from: VirtioPort, to: VirtioPort): Promise<void> {
  for (let attempt = 0; attempt < 50; attempt++) {
    from.queue(0).send([udpFrame(65_535)]);
    await sleep(100);
    if (to.queue(0).receive().length > 0) return;
  }
  throw new Error('no frame crosses the switch');
}

interface Latency {
  first: number[];
  again: number[];
  missesPerFlow: number;
}

async function measure(subject: SwitchUnderTest): Promise<Latency> {
  const dir = scratchDir('ml');
  const ports: VirtioPort[] = [];
  await subject.start({ pmdCore: PMD_CORE, mainCore: GUEST_CORE });
  try {
    await subject.setFlows(RULES);
    for (const name of ['vh0', 'vh1']) {
      const path = join(dir, `${name}.sock`);
      const opening = openVirtioPort({ path, role: 'server' });
      const [port] = await Promise.all([opening, subject.addVhostPort(name, path)]);
      ports.push(port);
    }
    const [from, to] = [ports[0]!, ports[1]!];
    await settle(from, to);
    await subject.clearPmdStats();
    const latency: Latency = { first: [], again: [], missesPerFlow: 0 };
    for (let flow = 0; flow < FLOWS; flow++) {
      const frame = udpFrame(flow);
      const first = flight(from, to, frame);
      const again = flight(from, to, frame);
      if (first === undefined || again === undefined) throw new Error(`${subject.name} lost a frame of flow ${flow}`);
      latency.first.push(first);
      latency.again.push(again);
    }
    const stats = await subject.pmdStats();
    latency.missesPerFlow = (stats.missSuccess + stats.missFailed) / FLOWS;
    return latency;
  } finally {
    for (const port of ports) await port.close();
    await subject.stop();
    removeScratchDir(dir);
  }
}

function percentile(values: number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

async function runMissLatency(options: BenchOptions) {
  const subjects = switchesFor(options);
  const results: BenchResult[] = [];
  const table = [['µs', 'first p50', 'first p99', 'again p50', 'miss to installed p50', 'misses per flow']];
  const rounds = subjects.map((): Latency[] => []);
  for (let round = 0; round < options.rounds; round++) {
    for (const [index, subject] of subjects.entries()) {
      const one = await measure(subject);
      rounds[index]!.push(one);
      options.progress(
        `round ${round + 1} ${subject.name}: first ${figure(median(one.first))} µs, again ${figure(median(one.again))} µs`,
      );
    }
  }
  for (const [index, subject] of subjects.entries()) {
    const over = (pick: (one: Latency) => number) => median(rounds[index]!.map(pick));
    const values: [string, number, string][] = [
      ['first packet, median', over((one) => percentile(one.first, 0.5)), 'µs'],
      ['first packet, p99', over((one) => percentile(one.first, 0.99)), 'µs'],
      ['next packet, median', over((one) => percentile(one.again, 0.5)), 'µs'],
      ['miss to installed', over((one) => percentile(one.first, 0.5) - percentile(one.again, 0.5)), 'µs'],
      ['misses per flow', over((one) => one.missesPerFlow), ''],
    ];
    for (const [metric, value, unit] of values) {
      results.push({ row: 'miss-latency', subject: subject.name, metric, value, unit });
    }
    table.push([subject.name, ...values.map(([, value]) => figure(value))]);
  }
  return { results, table: formatTable(table) };
}

export const missLatency: Bench = {
  name: 'miss-latency',
  about: 'time that the first packet of a flow takes, against the next one',
  run: runMissLatency,
};
