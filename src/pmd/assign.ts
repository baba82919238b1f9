/**
 * Which worker polls which rx queue. Pure: the same input gives the same answer, with a reason for each line, so that
 * `pmd-rxq-show` can say why.
 *
 * As in Open vSwitch (ovs-vswitchd.conf.db(5), pmd-rxq-assign, pmd-rxq-affinity, pmd-rxq-isolate): queues pinned to a core
 * go there, and a worker with a pinned queue takes no others; the rest are spread by load or in turn. Unlike there, a queue
 * that has a place keeps it until `rebalance`, so that a new port disturbs nobody.
 */
export type AssignMode = 'cycles' | 'roundrobin' | 'group';

export interface AssignWorker {
  readonly worker: number;
  /** -1: not pinned. */
  readonly core: number;
}

export interface AssignQueue {
  readonly portNo: number;
  readonly queue: number;
  /** Cycles per second that the queue took of late; 0 when not known. */
  readonly load: number;
  /** CPU that the queue is pinned to, or -1. */
  readonly affinity: number;
}

export interface Assignment {
  readonly portNo: number;
  readonly queue: number;
  readonly worker: number;
  readonly why: string;
}

const keyOf = (q: { portNo: number; queue: number }): string => `${q.portNo}/${q.queue}`;

/**
 * @param previous the assignment in force; empty to place everything anew.
 * @returns a line per queue, in the order of `queues`, and the workers that pinned queues keep for themselves.
 */
export function assign(
  workers: readonly AssignWorker[],
  queues: readonly AssignQueue[],
  mode: AssignMode,
  previous: readonly Assignment[],
): { assignments: Assignment[]; isolated: Set<number> } {
  const byCore = new Map(workers.filter((w) => w.core >= 0).map((w) => [w.core, w.worker]));
  const isolated = new Set<number>();
  const placed = new Map<string, Assignment>();
  for (const q of queues) {
    const worker = byCore.get(q.affinity);
    if (q.affinity < 0 || worker === undefined) continue;
    isolated.add(worker);
    placed.set(keyOf(q), { portNo: q.portNo, queue: q.queue, worker, why: `pinned to core ${q.affinity}` });
  }
  const open = workers.filter((w) => !isolated.has(w.worker));
  // With every worker isolated, unpinned queues still need a home.
  const homes = open.length > 0 ? open : workers;
  const load = new Map(homes.map((w) => [w.worker, { cycles: 0, queues: 0 }]));
  const take = (q: AssignQueue, worker: number, why: string): void => {
    const sum = load.get(worker)!;
    sum.cycles += q.load;
    sum.queues += 1;
    placed.set(keyOf(q), { portNo: q.portNo, queue: q.queue, worker, why });
  };
  const before = new Map(previous.map((a) => [keyOf(a), a]));
  const free: AssignQueue[] = [];
  for (const q of queues) {
    if (placed.has(keyOf(q))) continue;
    const old = before.get(keyOf(q));
    if (old && load.has(old.worker) && !old.why.startsWith('pinned')) take(q, old.worker, old.why);
    else free.push(q);
  }
  if (mode !== 'roundrobin') free.sort((a, b) => b.load - a.load || a.portNo - b.portNo || a.queue - b.queue);
  for (const q of free) {
    let best = homes[0]!.worker;
    for (const { worker } of homes) {
      const a = load.get(worker)!;
      const b = load.get(best)!;
      const better =
        mode === 'roundrobin'
          ? a.queues < b.queues
          : a.cycles < b.cycles || (a.cycles === b.cycles && a.queues < b.queues);
      if (better) best = worker;
    }
    const note = q.affinity >= 0 ? `; no worker on core ${q.affinity}` : '';
    take(q, best, (mode === 'roundrobin' ? 'round robin: fewest queues' : 'least loaded worker') + note);
  }
  return { assignments: queues.map((q) => placed.get(keyOf(q))!), isolated };
}

/** Parses `pmd-rxq-affinity` ("0:3,1:7": queue:core). @throws Error that names the bad part. */
export function parseAffinity(text: string): Map<number, number> {
  const result = new Map<number, number>();
  for (const part of text.split(',').filter((p) => p.trim() !== '')) {
    const match = /^\s*(\d{1,3}):(\d{1,4})\s*$/.exec(part);
    if (!match) throw new Error(`pmd-rxq-affinity: "${part}" is not <queue>:<core>, such as 0:3,1:7`);
    result.set(Number(match[1]), Number(match[2]));
  }
  return result;
}

/** Parses `pmd-cpu-mask` (hexadecimal, 0x optional) to CPU numbers. @throws Error that names the fault. */
export function parseCpuMask(text: string, allowed: readonly number[]): number[] {
  if (!/^(0[xX])?[0-9a-fA-F]{1,256}$/.test(text))
    throw new Error(`pmd-cpu-mask: "${text}" is not a hexadecimal mask, such as 0x6`);
  const mask = BigInt(text.toLowerCase().startsWith('0x') ? text : `0x${text}`);
  const cpus: number[] = [];
  for (let cpu = 0; mask >> BigInt(cpu); cpu++) if ((mask >> BigInt(cpu)) & 1n) cpus.push(cpu);
  if (cpus.length === 0) throw new Error('pmd-cpu-mask: names no CPU; at least one bit must be set');
  const missing = cpus.filter((cpu) => !allowed.includes(cpu));
  if (missing.length > 0) {
    throw new Error(`pmd-cpu-mask: CPU ${missing.join(', ')} cannot be used here; allowed are ${allowed.join(', ')}`);
  }
  return cpus;
}
