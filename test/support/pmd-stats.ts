/** `dpif-netdev/pmd-stats-show` as numbers; OVS and this switch print the same layout. */

export interface PmdStats {
  /** Core of the PMD, or -1 for the main thread. */
  core: number;
  packetsReceived: number;
  simpleMatchHits: number;
  emcHits: number;
  smcHits: number;
  megaflowHits: number;
  missSuccess: number;
  missFailed: number;
  /** TSC cycles since the last clear: empty polls, and those that brought packets. */
  idleCycles: number;
  busyCycles: number;
  /** Busy cycles per packet, or 0 before the first packet. */
  cyclesPerPacket: number;
}

const ROWS: [keyof PmdStats, RegExp][] = [
  ['packetsReceived', /packets received: (\d+)/],
  ['simpleMatchHits', /simple match hits: (\d+)/],
  ['emcHits', /emc hits: (\d+)/],
  ['smcHits', /smc hits: (\d+)/],
  ['megaflowHits', /megaflow hits: (\d+)/],
  ['missSuccess', /miss with success upcall: (\d+)/],
  ['missFailed', /miss with failed upcall: (\d+)/],
  ['idleCycles', /idle cycles: (\d+)/],
  ['busyCycles', /processing cycles: (\d+)/],
];

/** One entry per thread block; rows that a thread does not print (cycles of a thread that never ran) are 0. */
export function parsePmdStats(text: string): PmdStats[] {
  const blocks = text.split(/^(?=pmd thread |main thread)/m).filter((block) => /^(pmd|main) thread/.test(block));
  return blocks.map((block) => {
    const stats: PmdStats = {
      core: Number(/core_id (\d+)/.exec(block)?.[1] ?? -1),
      packetsReceived: 0,
      simpleMatchHits: 0,
      emcHits: 0,
      smcHits: 0,
      megaflowHits: 0,
      missSuccess: 0,
      missFailed: 0,
      idleCycles: 0,
      busyCycles: 0,
      cyclesPerPacket: 0,
    };
    for (const [name, row] of ROWS) stats[name] = Number(row.exec(block)?.[1] ?? 0);
    if (stats.packetsReceived > 0) stats.cyclesPerPacket = stats.busyCycles / stats.packetsReceived;
    return stats;
  });
}

/** Sums over all PMD threads, without the main thread. */
export function sumPmdStats(all: PmdStats[]): PmdStats {
  const pmds = all.filter((stats) => stats.core >= 0);
  const sum = (name: keyof PmdStats) => pmds.reduce((total, stats) => total + stats[name], 0);
  const packetsReceived = sum('packetsReceived');
  const busyCycles = sum('busyCycles');
  return {
    core: pmds[0]?.core ?? -1,
    packetsReceived,
    simpleMatchHits: sum('simpleMatchHits'),
    emcHits: sum('emcHits'),
    smcHits: sum('smcHits'),
    megaflowHits: sum('megaflowHits'),
    missSuccess: sum('missSuccess'),
    missFailed: sum('missFailed'),
    idleCycles: sum('idleCycles'),
    busyCycles,
    cyclesPerPacket: packetsReceived > 0 ? busyCycles / packetsReceived : 0,
  };
}
