/** Memory of guests that are gone leaves the address space of workers, which never turn their event loops by themselves. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { mapAnonymous, release, releasedMaps } from '#contract/os.ts';
import { Tidy } from '#pmd/tidy.ts';
import { type DataProcess, PATIENCE_MS, withDataPlane } from '../support/datapath.ts';
import { until } from '../support/process.ts';

/** Address space of the data process, in bytes. */
const space = (plane: DataProcess): number =>
  1024 * Number(/VmSize:\s+(\d+) kB/.exec(readFileSync(`/proc/${plane.child.pid}/status`, 'utf8'))![1]);

test('a worker pauses when many mappings wait, and not soon again', (t) => {
  const tidy = new Tidy();
  t.false(tidy.due(5000));
  const before = releasedMaps();
  const letGo = (): void => {
    for (let i = 0; i < 64; i++) release(mapAnonymous(4096));
  };
  letGo();
  t.is(releasedMaps() - before, 64);
  t.true(tidy.due(5000));
  tidy.collect(5000);
  t.false(tidy.due(5000));
  letGo();
  t.false(tidy.due(5500), 'a second has not passed');
  t.true(tidy.due(6000));
});

test('guests that come and go leave no address space taken', async (t) => {
  await withDataPlane(async (plane, control) => {
    await plane.pair(control);
    const no = await control.addPort('c');
    // Some 130 MB each.
    const large = { ringSize: 1024, txFrameBytes: 65_000, rxFrameBytes: 65_000 };
    const cycle = async (): Promise<void> => {
      const guest = await plane.guest('c', large);
      await control.waitUp(no);
      await guest.close();
    };
    const before = space(plane);
    let cycles = 0;
    let now = before;
    const few = async (): Promise<boolean> => {
      for (let i = 0; i < 20; i++) await cycle();
      cycles += 20;
      now = space(plane);
      // Kept, each would take 130 MB for each thread that had it.
      return cycles >= 40 && now - before < cycles * 20e6;
    };
    await until('address space to come back', few, PATIENCE_MS, () => `${before}, then ${now} after ${cycles}`);
    t.true(now - before < cycles * 20e6);
    t.log(`${cycles} guests, ${Math.round((now - before) / 1e6)} MB of address space more`);
  });
});
