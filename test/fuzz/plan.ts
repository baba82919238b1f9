/** What a group of cases has in common: two ports, the kinds of their rings, the features agreed on, the memory. */
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import type { RegionPlan } from './arena.ts';
import { PAGE } from './arena.ts';
import type { Random } from './random.ts';
import { BUFFERS_AT } from './ring.ts';

/** Cases of one group. The rings of a group go on from case to case, as those of a guest do. */
export const GROUP = 512;

export interface SidePlan {
  readonly packed: boolean;
  readonly size: number;
  readonly regions: readonly RegionPlan[];
  readonly rx: NonNullable<VhostUserAttachment['rx']>;
  readonly tx: NonNullable<VhostUserAttachment['tx']>;
  /** Where the rings stand when the group begins. */
  readonly startAt: number;
  readonly logged: boolean;
  /** A tx queue that several workers share. */
  readonly shared: boolean;
}

export interface GroupPlan {
  readonly from: SidePlan;
  readonly to: SidePlan;
  /** The pipeline reads no header. */
  readonly unread: boolean;
}

const GSO = [1, 0x81, 4, 0x84, 3, 5];

const sidePlan = (random: Random): SidePlan => {
  const packed = random.once(2);
  const size = packed ? random.range(1, 64) : 1 << random.range(0, 6);
  const mergeable = random.once(2);
  const legacy = !mergeable && random.once(4);
  const eventIdx = random.once(2);
  const offloads = random.once(2);
  const headerBytes = legacy ? 10 : 12;
  const more = random.below(3);
  const regions = [{ bytes: BUFFERS_AT + PAGE * random.range(1, 3), hole: 0 }];
  for (let i = 0; i < more; i++) regions.push({ bytes: PAGE * random.range(1, 3), hole: random.pick([0, 0, PAGE]) });
  const gso = offloads ? GSO.filter(() => !random.once(4)) : [];
  return {
    packed,
    size,
    regions,
    rx: { headerBytes, eventIdx, notifyOnEmpty: random.once(8), headersEmpty: !offloads, gso },
    tx: {
      headerBytes,
      eventIdx,
      mergeable,
      checksum: offloads,
      gso: offloads ? GSO.filter(() => random.once(2)) : [],
      mtu: random.pick([1500, 1500, 9000, 65_535]),
      retries: random.pick([0, 0, 3]),
    },
    startAt: packed
      ? random.below(size) | (random.once(2) ? 0x8000 : 0)
      : random.pick([0, 65_520, random.below(65_536)]),
    logged: random.once(4),
    shared: random.once(8),
  };
};

export const groupPlan = (random: Random): GroupPlan => ({
  from: sidePlan(random),
  to: sidePlan(random),
  unread: random.once(4),
});
