/**
 * memif: packets per second through a closed loop of testpmd's two net_memif ports, the switch between them in the server
 * role, beside Open vSwitch with DPDK's own memif devices (`type=dpdk`, net_memif in its server role).
 */
import { join } from 'node:path';
import { removeScratchDir, scratchDir, sleep } from '../../test/support/process.ts';
import { Testpmd } from '../../test/support/testpmd.ts';
import { type Bench, type BenchOptions, type BenchResult, figure, formatTable, median } from '../bench.ts';
import { OvsPeer } from './ovs-peer.ts';
import type { SwitchUnderTest } from './peer.ts';
import { RingwayPeer } from './ringway-peer.ts';
import { GUEST_CORE, PMD_CORE, switchesFor } from './switches.ts';

/** OVS sends on a queue per PMD and one for its other threads, which one is its own choice: the client must have them. */
const QUEUES = 2;
const LENGTHS = [64, 1500] as const;
const FLOWS = ['in_port=1,actions=output:2', 'in_port=2,actions=output:1'];
/** Bursts of 32 frames on their way in each direction. */
const BURSTS = 8;

async function addMemif(subject: SwitchUnderTest, index: number, path: string): Promise<void> {
  const name = `m${index}`;
  const add = ['add-port', 'br0', name, '--', 'set', 'Interface', name];
  if (subject instanceof RingwayPeer) {
    const options = [`options:path=${path}`, `options:id=${index}`, `ofport_request=${index + 1}`];
    await subject.vsctl(...add, 'type=memif', ...options);
  } else if (subject instanceof OvsPeer) {
    const device = `net_memif${index},role=server,id=${index},socket=${path},socket-abstract=no,rsize=10`;
    await subject.vsctl(
      ...add,
      'type=dpdk',
      `options:dpdk-devargs=${device}`,
      `options:n_rxq=${QUEUES}`,
      `ofport_request=${index + 1}`,
    );
  } else {
    throw new Error(`${subject.name} has no memif ports`);
  }
}

/** Packets per second in all, at one length. */
async function measure(subject: SwitchUnderTest, length: number, options: BenchOptions): Promise<number> {
  const dir = scratchDir('bm');
  let testpmd: Testpmd | undefined;
  await subject.start({ pmdCore: PMD_CORE, mainCore: GUEST_CORE });
  try {
    const path = join(dir, 'm.sock');
    for (const index of [0, 1]) await addMemif(subject, index, path);
    await subject.setFlows(FLOWS);
    testpmd = await Testpmd.start({
      devices: [0, 1].map((id) => ({ kind: 'memif', path, role: 'client', id })),
      core: GUEST_CORE,
      queues: QUEUES,
      packetLength: length,
    });
    await testpmd.waitLinkUp();
    await testpmd.closeLoop(BURSTS);
    await sleep(options.warmup * 1000);
    const received = async () => (await testpmd!.portStats()).reduce((sum, port) => sum + port.rxPackets, 0);
    const before = await received();
    const start = performance.now();
    await sleep(options.seconds * 1000);
    const rate = (1000 * ((await received()) - before)) / (performance.now() - start);
    await testpmd.stopForwarding();
    return rate;
  } finally {
    await testpmd?.quit(3000);
    await subject.stop();
    removeScratchDir(dir);
    await sleep(200);
  }
}

async function runMemif(options: BenchOptions) {
  const subjects = switchesFor(options);
  const results: BenchResult[] = [];
  for (const length of LENGTHS) {
    const samples = subjects.map((): number[] => []);
    for (let round = 0; round < options.rounds; round++) {
      for (const [index, subject] of subjects.entries()) {
        const rate = await measure(subject, length, options).catch((error: Error) => {
          options.progress(`${subject.name}, ${length} B: ${error.message.split('\n')[0]}`);
          return Number.NaN;
        });
        samples[index]!.push(rate);
        options.progress(`round ${round + 1} ${subject.name} ${length} B: ${figure(rate / 1e6)} Mpps`);
      }
    }
    for (const [index, subject] of subjects.entries()) {
      const value = median(samples[index]!) / 1e6;
      results.push({ row: `memif ${length} B`, subject: subject.name, metric: 'rate', value, unit: 'Mpps' });
    }
  }
  const table = subjects.map(({ name }) => [
    name,
    ...results.filter(({ subject }) => subject === name).map(({ value }) => figure(value)),
  ]);
  return { results, table: formatTable([['', ...LENGTHS.map((length) => `${length} B Mpps`)], ...table]) };
}

export const memif: Bench = { name: 'memif', about: 'rates of a closed loop over memif', run: runMemif };
