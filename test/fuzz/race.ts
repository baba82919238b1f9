/**
 * Guests that change their memory while the switch reads it: this thread forwards from ring to ring, another rewrites
 * descriptors, tables, ring entries, indices and headers all the time. The seed decides what is written; what the switch
 * sees of it is chance.
 */
import { Worker } from 'node:worker_threads';
import { DROP_BASE, DROP_REASONS } from '#contract/catalogue.ts';
import { faultWord } from '#contract/os.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import { PAGE } from './arena.ts';
import type { SidePlan } from './plan.ts';
import {
  CONTROL,
  FAR_AT,
  lay,
  NEAR_END,
  offerAll,
  type RacerData,
  REGION_BYTES,
  type Shape,
  SIZE,
} from './race-words.ts';
import { RingRig, SENDER_CANARY, type Side } from './ring-rig.ts';

/** Bursts between two looks at what must hold. */
const BURSTS = 64;
const START_MS = 60_000;
const MOST_PACKETS = 32;

export interface RaceKind {
  readonly packed: boolean;
  readonly mergeable: boolean;
  /** Available indices, or the bits that stand for them, are rewritten too. */
  readonly indices: boolean;
  /** The receiver's queue is shared by workers. */
  readonly shared: boolean;
}

export const RACE_KINDS: readonly RaceKind[] = [false, true].flatMap((packed) =>
  [false, true].flatMap((mergeable) =>
    [false, true].map((indices) => ({ packed, mergeable, indices, shared: mergeable })),
  ),
);

export const raceName = ({ packed, mergeable, indices, shared }: RaceKind): string =>
  [packed ? 'packed' : 'split', mergeable && 'mergeable', shared && 'shared', indices && 'indices']
    .filter((word) => word)
    .join('-');

export interface RaceTally {
  readonly kind: string;
  bursts: number;
  /** Words that the other thread has written. */
  writes: number;
  /** Packets taken and sent. */
  packets: number;
  sent: number;
  /** Rings that were called broken, after which the guest connected anew. */
  broken: number;
  readonly drops: Record<string, number>;
  /** What the switch did wrong; empty: nothing. */
  fault: string;
}

const sidePlan = ({ packed, mergeable, shared }: RaceKind): SidePlan => ({
  packed,
  size: SIZE,
  regions: [{ bytes: REGION_BYTES, hole: 0 }],
  rx: { headerBytes: 12, eventIdx: false, notifyOnEmpty: false, headersEmpty: false, gso: [1, 4, 3, 5] },
  tx: { headerBytes: 12, eventIdx: false, mergeable, checksum: true, gso: [1], mtu: 9000, retries: 0 },
  startAt: packed ? 0x8000 : 0,
  logged: false,
  shared,
});

/** What lies outside of all that was ever offered. @returns a fault, or nothing. */
function touched(side: Side, name: string): string {
  const { live } = side.arena.parts[0]!;
  const { canary } = side.arena;
  for (const [from, to, where] of [
    [0, PAGE, 'in front of the region'],
    [PAGE + NEAR_END, PAGE + FAR_AT, 'between what was offered'],
  ] as const)
    if (live.subarray(from, to).some((byte) => byte !== canary)) return `${name}: a byte ${where} was written`;
  return '';
}

/** Runs one kind for so many milliseconds, or until the switch does wrong. */
export async function race(kind: RaceKind, seed: number, milliseconds: number): Promise<RaceTally> {
  const rig = new RingRig({ from: sidePlan(kind), to: sidePlan({ ...kind }), unread: false }, new PacketBatch());
  const sides = [rig.from, rig.to];
  const shapes: Shape[] = sides.map((_, i) => ({ packed: kind.packed, write: i === 1, indices: kind.indices }));
  const control = new SharedArrayBuffer(CONTROL.bytes);
  const words = new Int32Array(control);
  const data: RacerData = { fds: sides.map((side) => side.arena.parts[0]!.fd), shapes, seed, control };
  const views = sides.map((side) => side.arena.parts[0]!.view);
  const faults = faultWord[0]!;
  const tally: RaceTally = {
    ...{ kind: raceName(kind), bursts: 0, writes: 0, packets: 0, sent: 0, broken: 0, fault: '' },
    drops: {},
  };
  for (const [i, side] of sides.entries()) {
    side.arena.clear();
    lay(side.arena.parts[0]!.live, views[i]!, i === 1);
  }
  const worker = new Worker(new URL('racer.ts', import.meta.url), { workerData: data });
  const failed = new Promise<never>((_, reject) => worker.once('error', reject));
  const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
  try {
    await Promise.race([running(words), failed]);
    const end = performance.now() + milliseconds;
    while (performance.now() < end && tally.fault === '') {
      for (let i = 0; i < BURSTS && tally.fault === ''; i++) tally.fault = burst(rig, shapes, views, tally);
      const reached = faultWord[0]! - faults;
      if (reached > 0) tally.fault ||= `${reached} accesses behind the end of a region`;
      for (const [i, side] of sides.entries()) tally.fault ||= touched(side, i === 0 ? 'sender' : 'receiver');
      if (rig.to.arena.holds(SENDER_CANARY, 4, 0)) tally.fault ||= 'bytes that were not offered were delivered';
      // Mappings that were let go are finalized.
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    Atomics.store(words, CONTROL.stop, 1);
    await ended;
    tally.writes = words[CONTROL.writes]!;
    rig.close();
  }
  return tally;
}

async function running(words: Int32Array): Promise<void> {
  for (const end = performance.now() + START_MS; Atomics.load(words, CONTROL.running) === 0; ) {
    if (performance.now() > end) throw new Error(`the racing thread did not start within ${START_MS} ms`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

function burst(rig: RingRig, shapes: readonly Shape[], views: readonly DataView[], tally: RaceTally): string {
  const sides = [rig.from, rig.to];
  for (const [i, side] of sides.entries()) {
    if (side.broken !== 0) {
      tally.broken++;
      side.reattach();
    }
    offerAll(views[i]!, shapes[i]!, side.place);
    side.counters.fill(0);
  }
  const place = rig.from.place;
  const [taken, sent] = rig.burst(() => {});
  tally.bursts++;
  tally.packets += taken;
  tally.sent += Math.max(0, sent);
  for (const side of sides)
    for (const [i, { name }] of DROP_REASONS.entries()) {
      const count = side.counters[DROP_BASE + i]!;
      if (count > 0) tally.drops[name] = (tally.drops[name] ?? 0) + count;
    }
  if (sent < 0) return 'the lock of the shared queue was left held';
  if (taken > MOST_PACKETS) return `a burst of ${taken} packets`;
  if (taken !== sent + rig.to.drops) return `${taken} packets: ${sent} sent, ${rig.to.drops} dropped`;
  if (rig.from.plan.packed || rig.from.broken !== 0) return '';
  const moved = (rig.from.place - place) & 0xffff;
  return moved === rig.from.packets + rig.from.drops
    ? ''
    : `${moved} chains came back, ${rig.from.packets} packets and ${rig.from.drops} drops were counted`;
}
