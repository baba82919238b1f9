/**
 * One line of `ovs-ofctl dump-flows`, put together from a flow's parts, as each OpenFlow version carries them. The switch
 * prints dumps with it, the command line what it sorted.
 */

/** What a line is made of; ofproto's FlowView is one. */
export interface FlowLineParts {
  readonly table: number;
  readonly priority: number;
  /** `0x…`: 64 bits. */
  readonly cookie: string;
  /** Seconds since it was added, with fractions. */
  readonly duration: number;
  readonly idleTimeout: number;
  readonly hardTimeout: number;
  readonly importance: number;
  /** send_flow_rem, check_overlap, reset_counts, no_packet_counts, no_byte_counts */
  readonly flags: readonly string[];
  readonly packets: number;
  readonly bytes: number;
  /** Seconds since it was last hit, and since it was last modified. */
  readonly idleAge: number;
  readonly hardAge: number;
  /** Canonical texts. */
  readonly match: string;
  readonly actions: string;
}

export interface FlowLineOptions {
  /** Wire version of OpenFlow: 1 is 1.0 with Nicira extensions, 6 is 1.5. */
  readonly version: number;
  /** False as in --no-stats: no counters and times, cookie and table only where they are not 0. */
  readonly stats: boolean;
  /** Prints idle_age and hard_age in version 1.0: a dump without options. 1.5 has idle_age always. */
  readonly ages: boolean;
}

/** Names of the versions as -O takes them; the wire version is the index + 1. */
export const OPENFLOW_VERSIONS: readonly string[] = [
  'OpenFlow10',
  'OpenFlow11',
  'OpenFlow12',
  'OpenFlow13',
  'OpenFlow14',
  'OpenFlow15',
];
const OF10 = 1;
const OF13 = 4;
const OF14 = 5;
const OF15 = 6;

const DEFAULT_PRIORITY = 32_768;

/** The line with its leading blank, without a line end: ` cookie=0x0, duration=…, priority=5,ip actions=output:1`. */
export function formatFlowLine(flow: FlowLineParts, { version, stats, ages }: FlowLineOptions): string {
  let line = ' ';
  if (stats || flow.cookie !== '0x0') line += `cookie=${flow.cookie}, `;
  if (stats) line += `duration=${formatDuration(flow.duration)}s, `;
  if (stats || flow.table !== 0) line += `table=${flow.table}, `;
  if (stats) line += `n_packets=${flow.packets}, n_bytes=${flow.bytes}, `;
  if (flow.idleTimeout !== 0) line += `idle_timeout=${flow.idleTimeout}, `;
  if (flow.hardTimeout !== 0) line += `hard_timeout=${flow.hardTimeout}, `;
  if (version >= OF13) for (const flag of flow.flags) line += `${flag} `;
  if (version >= OF14 && flow.importance !== 0) line += `importance=${flow.importance}, `;
  if (stats && (version === OF15 || (ages && version === OF10))) {
    line += `idle_age=${Math.floor(flow.idleAge)}, `;
    const hardAge = Math.floor(flow.hardAge);
    if (version === OF10 && hardAge !== Math.floor(flow.duration)) line += `hard_age=${hardAge}, `;
  }
  if (flow.priority !== DEFAULT_PRIORITY)
    line += flow.match === '' ? `priority=${flow.priority}` : `priority=${flow.priority},`;
  line += flow.match;
  return `${line}${line.endsWith(' ') ? '' : ' '}actions=${flow.actions}`;
}

/** Seconds with three digits after the point, cut off rather than rounded. */
export function formatDuration(seconds: number): string {
  const ms = Math.floor(seconds * 1000 + 1e-6);
  return `${Math.floor(ms / 1000)}.${String(ms % 1000).padStart(3, '0')}`;
}
