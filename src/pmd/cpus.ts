/** Which CPUs a PMD worker may be pinned to. */
import { cpuCount, OsError, setAffinity, threadCpus } from '#contract/os.ts';

/**
 * CPUs that the system lets this process use, whatever its affinity is now (taskset narrows that, it forbids nothing): found
 * by trying. The calling thread keeps its own affinity.
 */
export function usableCpus(): number[] {
  const mine = threadCpus();
  const usable: number[] = [];
  for (let cpu = 0; cpu < cpuCount(); cpu++) {
    try {
      setAffinity([cpu]);
      usable.push(cpu);
    } catch (error) {
      if (!(error instanceof OsError)) throw error;
    }
  }
  setAffinity(mine);
  return usable;
}
