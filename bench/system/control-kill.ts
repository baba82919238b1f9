/**
 * The control plane killed under load: `kill -9` of rw-vswitchd while frames circulate, then its restart and adoption
 * of the data plane. Packets lost are counted exactly: once the loop is drained (testpmd only receives), whatever was
 * sent and not received is lost.
 */
import { sleep } from '../../test/support/process.ts';
import type { Testpmd } from '../../test/support/testpmd.ts';
import { type Bench, type BenchOptions, type BenchResult, figure, formatTable } from '../bench.ts';
import { RingwayPeer, ringwayUnavailable } from './ringway-peer.ts';
import { withGuests } from './switches.ts';

const BURSTS = 4;
const CROSS = ['in_port=1,actions=output:2', 'in_port=2,actions=output:1'];

/** Empties the loop; gives the packets that never came back since testpmd started. */
async function drain(testpmd: Testpmd): Promise<number> {
  await testpmd.stopForwarding();
  await testpmd.command('set fwd rxonly');
  await testpmd.startForwarding();
  await sleep(300);
  await testpmd.stopForwarding();
  const ports = await testpmd.portStats();
  await testpmd.command('set fwd io');
  return ports.reduce((sum, port) => sum + port.txPackets - port.rxPackets, 0);
}

/** Lowest total rate in Mpps over `seconds`, in slices of 200 ms. */
async function lowestRate(testpmd: Testpmd, seconds: number): Promise<number> {
  let lowest = Number.POSITIVE_INFINITY;
  await testpmd.portStats();
  for (let slice = 0; slice < seconds * 5; slice++) {
    await sleep(200);
    const ports = await testpmd.portStats();
    lowest = Math.min(lowest, ports.reduce((sum, port) => sum + port.rxPps, 0) / 1e6);
  }
  return lowest;
}

async function runControlKill(options: BenchOptions) {
  const reason = ringwayUnavailable();
  if (reason) throw new Error(reason);
  const subject = new RingwayPeer();
  const figures = await withGuests(subject, {}, CROSS, async (testpmd) => {
    await testpmd.closeLoop(BURSTS);
    await sleep(options.warmup * 1000);
    const lostBefore = await drain(testpmd);
    await testpmd.startForwarding(BURSTS);
    const steady = await lowestRate(testpmd, 1);
    process.kill(subject.pidOf('rw-vswitchd'), 'SIGKILL');
    options.progress('control plane killed');
    const killed = await lowestRate(testpmd, options.seconds);
    await subject.startControlPlane();
    options.progress('control plane restarted');
    const adopted = await lowestRate(testpmd, options.seconds);
    const lost = (await drain(testpmd)) - lostBefore;
    return { lost, steady, killed, adopted };
  });
  const row = (metric: string, value: number, unit: string): BenchResult => ({
    row: 'control-kill',
    subject: 'Ringway',
    metric,
    value,
    unit,
  });
  const results = [
    row('packets lost', figures.lost, 'packets'),
    row('lowest rate before', figures.steady, 'Mpps'),
    row('lowest rate without control plane', figures.killed, 'Mpps'),
    row('lowest rate from its restart on', figures.adopted, 'Mpps'),
  ];
  return { results, table: formatTable(results.map((one) => [one.metric, `${figure(one.value)} ${one.unit}`])) };
}

export const controlKill: Bench = {
  name: 'control-kill',
  about: 'packets lost while the control plane is killed and restarted under load (Ringway only)',
  run: runControlKill,
};
