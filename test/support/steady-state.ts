/**
 * Runs a pipeline through all its ways (short cut, match cache, subtables, edits, copies, drops) for millions of packets
 * and prints how many garbage collections that took, as JSON.
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';
import { decTtl, drop, output, pushVlan, set } from '#contract/actions.ts';
import { workerCounter } from '#contract/catalogue.ts';
import { LANE_BYTES, Lane } from '#contract/lane.ts';
import { mapAnonymous } from '#contract/os.ts';
import { BURST, HEADROOM, PacketBatch, SLOT_BYTES, WINDOW } from '#datapath/packet/batch.ts';
import { Pipeline } from '#datapath/pipeline.ts';
import { SoftwareOffload } from '#ports/frame/offload.ts';
import type { RxQueue, TxQueue } from '#ports/port.ts';
import { makeFrame, Random } from './random-frames.ts';
import { referenceParse } from './reference-parser.ts';

const random = new Random(1);
const samples = Array.from({ length: 512 }, () => makeFrame(random));
const batch = new PacketBatch();
const lane = new Lane(mapAnonymous(LANE_BYTES));
const clock = new Float64Array(1);
let next = 0;

const rx = (portNo: number): RxQueue => ({
  portNo,
  queue: 0,
  kickFd: -1,
  poll: () => {
    for (let slot = 0; slot < BURST; slot++) {
      const frame = samples[next++ & 511]!;
      const start = slot * SLOT_BYTES + HEADROOM;
      const head = Math.min(frame.length, WINDOW);
      for (let i = 0; i < head; i++) batch.u8[start + i] = frame[i]!;
      batch.start[slot] = start;
      batch.headLength[slot] = head;
      batch.length[slot] = frame.length;
      batch.segmentCount[slot] = 0;
    }
    batch.count = BURST;
    batch.inPort = portNo;
    return BURST;
  },
  complete: () => {},
  arm: () => false,
  disarm: () => {},
});
const tx = (portNo: number, shared: boolean): TxQueue => ({
  portNo,
  queue: 0,
  shared,
  lock: () => true,
  unlock: () => {},
  push: (_batch, _list, n) => n,
  publish: () => {},
});
const queues = [undefined, tx(1, false), tx(2, false), tx(3, true)];
const pipeline = new Pipeline({
  batch,
  lane,
  clock,
  txQueue: (port) => queues[port],
  finisher: new SoftwareOffload(),
  hasPort: (port) => port < 4,
  onMiss: () => 0,
});

const programs = [
  output(2),
  drop(11),
  [...output(1), ...output(2), ...output(3)],
  [...set(8, 0x0a0a0a0a, 0xffffffff), ...set(10, 5, 0xffff), ...decTtl(), ...output(2)],
  [...output(2), ...pushVlan(0x8100, 7), ...output(3)],
  [...output(9)],
];
pipeline.flows.put(0, [0, 1, 0xffffffff, ...output(2)], 0, 1, 2);
samples.slice(0, 400).forEach((frame, i) => {
  const { key } = referenceParse(frame, WINDOW);
  const program = programs[i % programs.length]!;
  const four = [7, 8, 9, 10].flatMap((word) => [word, key[word]!, 0xffffffff]);
  pipeline.flows.put(1000 + i, [0, 2, 0xffffffff, ...four, ...program], 0, 5, program.length);
  const mask = (0xffff_ffff << (i % 6)) >>> 0;
  const spread = [2, 3, 4, 5, 7, 8, 9, 10, 12, 13].flatMap((word) => [word, (key[word]! & mask) >>> 0, mask]);
  pipeline.flows.put(2000 + i, [0, 3, 0xffffffff, ...spread, ...program], 0, 11, program.length);
});

const ports = [rx(1), rx(2), rx(3)];
const turn = (bursts: number): void => {
  for (let i = 0; i < bursts; i++) {
    if ((i & 1023) === 0) clock[0] = clock[0]! + 100;
    for (let port = 0; port < 3; port++) pipeline.run(ports[port]!);
  }
};

turn(20_000);
let collections = 0;
const observer = new PerformanceObserver((list) => {
  collections += list.getEntries().length;
});
observer.observe({ entryTypes: ['gc'] });
await setImmediate();
(globalThis as { gc?: () => void }).gc?.();
await setImmediate();
collections = 0;
lane.worker.fill(0);
const bursts = 35_000;
turn(bursts);
await setImmediate();
await setImmediate();
observer.disconnect();
const names = ['simple_hits', 'emc_hits', 'megaflow_hits', 'misses'] as const;
const hits = Object.fromEntries(names.map((name) => [name, lane.worker[workerCounter(name)]!]));
console.log(JSON.stringify({ collections, packets: bursts * 3 * BURST, hits }));
