/**
 * One line of `ovs-ofctl dump-flows`, put together from a flow's parts. Needs nothing of ofproto, so that the command
 * line can print flows that it got over the API.
 */

/** What a line is made of; ofproto's FlowView is one. */
export interface FlowLineParts {
  readonly table: number;
  readonly priority: number;
  /** `0x…` */
  readonly cookie: string;
  /** Seconds, with fractions. */
  readonly duration: number;
  readonly idleTimeout: number;
  readonly hardTimeout: number;
  readonly importance: number;
  readonly flags: readonly string[];
  readonly packets: number;
  readonly bytes: number;
  /** Whole seconds; negative = not known. */
  readonly idleAge: number;
  readonly hardAge: number;
  /** Canonical texts. */
  readonly match: string;
  readonly actions: string;
}

export interface FlowLineOptions {
  /** False as in --no-stats: no counters and times, cookie and table only where they are not 0. Default true. */
  readonly stats?: boolean;
  /** Prints idle_age and hard_age, which only the Nicira form of OpenFlow 1.0 carries. Default true. */
  readonly ages?: boolean;
  /** Prints the flags, which OpenFlow 1.1 and later carry. Default false. */
  readonly flags?: boolean;
  /** Prints importance, which OpenFlow 1.4 and later carry. Default false. */
  readonly importance?: boolean;
}

const DEFAULT_PRIORITY = 32_768;

/** The line with its leading blank, without a line end. */
export function formatFlowLine(flow: FlowLineParts, options: FlowLineOptions = {}): string {
  const { stats = true, ages = true, flags = false, importance = false } = options;
  let line = ' ';
  const cookie = BigInt(flow.cookie);
  if (stats || cookie !== 0n) line += `cookie=0x${cookie.toString(16)}, `;
  if (stats) line += `duration=${formatDuration(flow.duration)}s, `;
  if (stats || flow.table !== 0) line += `table=${flow.table}, `;
  if (stats) line += `n_packets=${flow.packets}, n_bytes=${flow.bytes}, `;
  if (flow.idleTimeout !== 0) line += `idle_timeout=${flow.idleTimeout}, `;
  if (flow.hardTimeout !== 0) line += `hard_timeout=${flow.hardTimeout}, `;
  if (stats && ages) {
    if (flow.idleAge >= 0) line += `idle_age=${Math.floor(flow.idleAge)}, `;
    const hardAge = Math.floor(flow.hardAge);
    if (hardAge >= 0 && hardAge !== Math.floor(flow.duration)) line += `hard_age=${hardAge}, `;
  }
  if (flags) line += flow.flags.map((flag) => `${flag} `).join('');
  if (importance && flow.importance !== 0) line += `importance=${flow.importance}, `;
  const priority = flow.priority === DEFAULT_PRIORITY ? '' : `priority=${flow.priority}`;
  const key = [priority, flow.match].filter(Boolean).join(',');
  return `${line}${key}${key && ' '}actions=${flow.actions}`;
}

/** Seconds with three digits after the point, cut off rather than rounded. */
export function formatDuration(seconds: number): string {
  const ms = Math.floor(seconds * 1000 + 1e-6);
  return `${Math.floor(ms / 1000)}.${String(ms % 1000).padStart(3, '0')}`;
}
