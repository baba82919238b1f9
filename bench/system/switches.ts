/** Which switches this machine can measure, and the load that drives them. */
import { join } from 'node:path';
import { removeScratchDir, scratchDir, sleep } from '../../test/support/process.ts';
import { Testpmd, type TestpmdOptions, unavailable as testpmdUnavailable } from '../../test/support/testpmd.ts';
import type { BenchOptions } from '../bench.ts';
import { OvsPeer, ovsUnavailable } from './ovs-peer.ts';
import type { SwitchUnderTest } from './peer.ts';
import { RingwayPeer, ringwayUnavailable } from './ringway-peer.ts';

/** One core forwards in testpmd, the other is the PMD's. */
export const GUEST_CORE = 0;
export const PMD_CORE = 1;

const KNOWN: { name: string; unavailable: () => string | undefined; make: () => SwitchUnderTest }[] = [
  { name: 'ovs', unavailable: ovsUnavailable, make: () => new OvsPeer() },
  { name: 'ringway', unavailable: ringwayUnavailable, make: () => new RingwayPeer() },
];

/** The switches wanted (all when the options name none) that can run here; says which cannot. */
export function switchesFor(options: BenchOptions): SwitchUnderTest[] {
  const reason = testpmdUnavailable();
  if (reason) throw new Error(`no load generator: ${reason}`);
  const chosen = KNOWN.filter(({ name }) => options.switches.length === 0 || options.switches.includes(name));
  const usable = chosen.filter(({ name, unavailable }) => {
    const why = unavailable();
    if (why) options.progress(`${name} left out: ${why}`);
    return !why;
  });
  if (usable.length === 0) throw new Error('no switch to measure');
  return usable.map(({ make }) => make());
}

/** Options of testpmd, MAC addresses of its two ports, and whether their rings are packed. */
export type Guests = Omit<TestpmdOptions, 'devices'> & { macs?: [string, string]; packedVq?: boolean };

/** A switch with two guests: `work` runs with ports vh0, vh1 (OpenFlow 1, 2) connected to the two ports of testpmd. */
export async function withGuests<T>(
  subject: SwitchUnderTest,
  guests: Guests,
  flows: string[],
  work: (testpmd: Testpmd) => Promise<T>,
): Promise<T> {
  const dir = scratchDir('bs');
  let testpmd: Testpmd | undefined;
  await subject.start({ pmdCore: PMD_CORE, mainCore: GUEST_CORE });
  try {
    const paths = [join(dir, 'a.sock'), join(dir, 'b.sock')];
    for (const [index, path] of paths.entries()) await subject.addVhostPort(`vh${index}`, path);
    await subject.setFlows(flows);
    const devices = paths.map((path, index) => {
      const mac = guests.macs?.[index];
      return { path, role: 'server' as const, ...(mac ? { mac } : {}), ...(guests.packedVq ? { packedVq: true } : {}) };
    });
    testpmd = await Testpmd.start({ ...guests, devices, core: GUEST_CORE });
    await testpmd.waitLinkUp();
    return await work(testpmd);
  } finally {
    await testpmd?.quit(3000);
    await subject.stop();
    removeScratchDir(dir);
    await sleep(200);
  }
}
