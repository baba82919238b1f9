/** OpenFlow groups: buckets, liveness, and how a bucket is chosen (OpenFlow 1.3 §5.6). */
import type { Action } from './actions.ts';
import { type BucketSpec, type GroupType, NO_GROUP, type Selection } from './group-parse.ts';
import { OFPP_NONE } from './ofp-port.ts';
import type { Credit } from './table.ts';

/** Groups that watch groups are followed this deep; deeper ones count as dead. */
const MAX_WATCH_DEPTH = 8;

export class Bucket implements Credit, BucketSpec {
  readonly bucketId: number;
  readonly weight: number;
  readonly watchPort: number;
  readonly watchGroup: number;
  /** In the order in which an action set is executed. */
  readonly actions: readonly Action[];
  packets = 0;
  bytes = 0;
  used = 0;

  constructor(spec: BucketSpec, ordered: readonly Action[]) {
    this.bucketId = spec.bucketId;
    this.weight = spec.weight;
    this.watchPort = spec.watchPort;
    this.watchGroup = spec.watchGroup;
    this.actions = ordered;
  }
}

export class Group implements Credit {
  readonly groupId: number;
  readonly type: GroupType;
  readonly selection: Selection;
  buckets: readonly Bucket[];
  /** ms */
  readonly created: number;
  packets = 0;
  bytes = 0;
  used = 0;

  constructor(groupId: number, type: GroupType, selection: Selection, buckets: readonly Bucket[], created: number) {
    this.groupId = groupId;
    this.type = type;
    this.selection = selection;
    this.buckets = buckets;
    this.created = created;
  }
}

/** What liveness depends on. */
export interface LiveSource {
  readonly groupMap: ReadonlyMap<number, Group>;
  isLive(port: number): boolean;
}

export function bucketIsLive(bucket: Bucket, source: LiveSource, depth = 0): boolean {
  if (bucket.watchPort === OFPP_NONE && bucket.watchGroup === NO_GROUP) return true;
  if (bucket.watchPort !== OFPP_NONE && source.isLive(bucket.watchPort)) return true;
  const group = bucket.watchGroup === NO_GROUP ? undefined : source.groupMap.get(bucket.watchGroup);
  if (group === undefined || depth >= MAX_WATCH_DEPTH) return false;
  return group.buckets.some((inner) => bucketIsLive(inner, source, depth + 1));
}

export const firstLiveBucket = (group: Group, source: LiveSource): Bucket | undefined =>
  group.buckets.find((bucket) => bucketIsLive(bucket, source));

const scramble = (a: number, b: number): number => {
  let h = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ b;
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
};

/**
 * The live bucket that a packet of this hash goes to: each draws a number from hash and id, the highest logarithmic score
 * wins. Shares follow the weights, and a bucket that comes or goes moves only packets from or to itself.
 */
export function selectBucket(group: Group, hash: number, source: LiveSource): Bucket | undefined {
  let best: Bucket | undefined;
  let bestScore = Number.NEGATIVE_INFINITY;
  for (const bucket of group.buckets) {
    if (bucket.weight === 0 || !bucketIsLive(bucket, source)) continue;
    const score = Math.log((scramble(bucket.bucketId, hash) + 1) / 4294967297) / bucket.weight;
    if (score > bestScore) {
      best = bucket;
      bestScore = score;
    }
  }
  return best;
}
