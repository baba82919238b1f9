/**
 * Two ivshmem ports joined by a wire: what rx and tx cost without anything in between.
 *
 * Their clients run in this process, between the bursts, and touch descriptors only; the time of poll, push, copy, publish
 * and complete is taken. Prints what a frame costs by its size: by reference in one pool, with headers unread and read, and by
 * one copy between two pools. The median of several rounds in turns, each the median of its bursts of 32, and the least of
 * them. 9000-byte frames lie in one buffer of a pool made for them, and in five of an ordinary one.
 *
 * Usage: node bench/stage/ivshmem.ts [seconds per figure]
 */
import { PORT_ROW } from '#contract/catalogue.ts';
import { close, memfd, sampleTsc, tscHz, tscSample } from '#contract/os.ts';
import { BURST, PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import { ivshmemPort } from '#ports/ivshmem/attachment.ts';
import { DESC_NEXT, RING_FREE, RING_RETURN, RING_RX, RING_TX, STATE_FREE } from '#ports/ivshmem/layout.ts';
import { Pool } from '#ports/ivshmem/pool.ts';
import type { WorkerPort } from '#ports/port.ts';
import { Peer } from '../../test/ports/ivshmem/peer.ts';

const seconds = Number(process.argv[2] ?? 1);
const batch = new PacketBatch();
const list = Int32Array.from({ length: SLOTS }, (_, i) => i);
const counters = new Float64Array(PORT_ROW);
const cycles = new Float64Array(1 << 14);
const ENTRIES = 512;
const ROUNDS = 9;

const makePool = (bufferBytes: number): Pool => {
  const shape = { size: 1 << 26, slots: 8, queues: 1, entries: ENTRIES, bufferBytes, headroom: 128, credit: 256 };
  return new Pool(memfd('bench-pool', shape.size, { seal: true }), shape, 0);
};

const attach = (pool: Pool, slot: number): [WorkerPort, Peer] => {
  pool.open(slot, { queues: 1, mtu: 9000, portNo: slot, name: 'bench', plain: false });
  const attachment = {
    kind: 'ivshmem',
    portNo: slot,
    rxQueues: [0],
    pool: pool.place,
    slot,
    queues: [{ queue: 0, kickFd: -1, callFd: -1 }],
    mtu: 9000,
  };
  const context = { worker: 0, workers: 1, counters: { slots: counters, base: 0 }, batch };
  return [ivshmemPort(attachment, context, undefined), new Peer(pool, slot)];
};

/** A burst of frames in `pieces` buffers of `bytes` each. */
const fill = (peer: Peer, bytes: number, pieces: number): void => {
  const free = peer.entries(RING_FREE);
  const ring = peer.entries(RING_TX);
  let taken = peer.place[RING_FREE]!;
  let at = peer.place[RING_TX]!;
  for (let i = 0; i < BURST * pieces; i++) {
    const d = (at++ & (ENTRIES - 1)) << 2;
    const first = i % pieces === 0;
    ring[d] = free[taken++ & (ENTRIES - 1)]!;
    ring[d + 1] = first ? 128 : 0;
    ring[d + 2] = bytes;
    ring[d + 3] = (i + 1) % pieces === 0 ? 0 : DESC_NEXT;
  }
  peer.place[RING_FREE] = taken;
  peer.place[RING_TX] = at;
  peer.show();
};

const drain = (peer: Peer): void => {
  const ring = peer.entries(RING_RX);
  const back = peer.entries(RING_RETURN);
  const n = peer.waiting(RING_RX);
  let from = peer.place[RING_RX]!;
  let to = peer.place[RING_RETURN]!;
  for (let i = 0; i < n; i++) back[to++ & (ENTRIES - 1)] = ring[(from++ & (ENTRIES - 1)) << 2]!;
  peer.place[RING_RX] = from;
  peer.place[RING_RETURN] = to;
  peer.show(RING_RETURN);
};

const forward = (from: WorkerPort, to: WorkerPort, whole: boolean): number => {
  const rx = from.rx[0]!;
  const tx = to.tx!;
  sampleTsc();
  const begin = tscSample[0]!;
  const n = rx.poll(batch, whole);
  tx.push(batch, list, n);
  batch.copy();
  tx.publish();
  rx.complete();
  batch.clear();
  sampleTsc();
  cycles[bursts++ & (cycles.length - 1)] = tscSample[0]! - begin;
  return n;
};
let bursts = 0;

interface Case {
  readonly name: string;
  readonly pools: readonly Pool[];
  readonly bytes: number;
  readonly pieces: number;
  readonly whole: boolean;
}

/** @returns cycles per frame: the median of this round. */
const round = ({ name, pools, bytes, pieces, whole }: Case): number => {
  const [a, sender] = attach(pools[0]!, 1);
  const [b, receiver] = attach(pools[pools.length - 1]!, 2);
  bursts = 0;
  let frames = 0;
  const until = performance.now() + (seconds * 1000) / ROUNDS;
  while (performance.now() < until) {
    for (let i = 0; i < 100; i++) {
      fill(sender, bytes, pieces);
      frames += forward(a, b, whole);
      drain(receiver);
    }
  }
  if (frames !== bursts * BURST) throw new Error(`${name}: ${frames} frames in ${bursts} bursts`);
  for (const port of [a, b]) port.close();
  for (const [i, slot] of [1, 2].entries()) pools[i === 0 ? 0 : pools.length - 1]!.shut(slot, STATE_FREE);
  const sorted = cycles.slice(0, Math.min(bursts, cycles.length)).sort();
  return sorted[sorted.length >> 1]! / BURST;
};

const pools = [makePool(2048), makePool(2048)];
const jumbo = [makePool(9216), makePool(9216)];
const cases = [true, false].flatMap((whole): Case[] => {
  const how = whole ? 'headers unread' : 'headers read';
  const one = pools.slice(0, 1);
  return [
    { name: `by reference, 64 B, ${how}`, pools: one, bytes: 64, pieces: 1, whole },
    { name: `by reference, 1500 B, ${how}`, pools: one, bytes: 1500, pieces: 1, whole },
    { name: `by reference, 9000 B in 1 buffer, ${how}`, pools: jumbo.slice(0, 1), bytes: 9000, pieces: 1, whole },
    { name: `by reference, 9000 B in 5 buffers, ${how}`, pools: one, bytes: 1800, pieces: 5, whole },
    { name: `one copy, 64 B, ${how}`, pools, bytes: 64, pieces: 1, whole },
    { name: `one copy, 1500 B, ${how}`, pools, bytes: 1500, pieces: 1, whole },
    { name: `one copy, 9000 B in 1 buffer, ${how}`, pools: jumbo, bytes: 9000, pieces: 1, whole },
  ];
});
// In turns: what disturbs the machine falls on all of them.
const figures = cases.map((): number[] => []);
for (let turn = 0; turn < ROUNDS; turn++) for (const [i, each] of cases.entries()) figures[i]!.push(round(each));
for (const [i, { name }] of cases.entries()) {
  const sorted = figures[i]!.slice(1).sort((a, b) => a - b);
  const [least, median] = [sorted[0]!, sorted[sorted.length >> 1]!];
  const ns = (cyclesPerFrame: number): number => (cyclesPerFrame / tscHz()) * 1e9;
  console.log(
    `${name}: ${ns(median).toFixed(1)} ns/packet (least ${ns(least).toFixed(1)}: ${least.toFixed(0)} cycles, ${(1000 / ns(least)).toFixed(1)} Mpps)`,
  );
}
for (const pool of [...pools, ...jumbo]) {
  const { total, free } = pool.audit();
  if (total !== free) throw new Error(`${total - free} buffers lost`);
  pool.close();
  close(pool.place.fd);
}
