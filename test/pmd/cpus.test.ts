import test from 'ava';
import { setAffinity, threadCpus } from '../../src/contract/os.ts';
import { usableCpus } from '../../src/pmd/cpus.ts';

test('usable CPUs do not depend on the affinity in force, which stays as it was', (t) => {
  const before = threadCpus();
  const usable = usableCpus();
  t.true(before.every((cpu) => usable.includes(cpu)));
  setAffinity([before[0]!]);
  t.deepEqual(usableCpus(), usable);
  t.deepEqual(threadCpus(), [before[0]!]);
  setAffinity(before);
});
