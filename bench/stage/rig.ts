// hot
/**
 * A pipeline between two ports whose rings are private memory: rx rewrites the flow fields of frames that lie in the scratch
 * already, tx throws away. What remains to be measured is the pipeline itself.
 */
import { output } from '#contract/actions.ts';
import { LANE_BYTES, Lane } from '#contract/lane.ts';
import { mapAnonymous } from '#contract/os.ts';
import { BURST, HEADROOM, PacketBatch, SLOT_BYTES } from '#datapath/packet/batch.ts';
import { Pipeline } from '#datapath/pipeline.ts';
import { SoftwareOffload } from '#ports/frame/offload.ts';
import type { RxQueue, TxQueue } from '#ports/port.ts';

/** 64-byte UDP frame 10.0.0.1:1000 → 10.1.0.1:2000. */
const FRAME = Uint8Array.from([
  2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 1, 0, 1, 3, 232,
  7, 208, 0, 26, 0, 0,
]);
const SLOT = SLOT_BYTES;
const FIRST = HEADROOM;
const COUNT = BURST;

/** Sends bursts in which flow f has nw_src 10.x.x.x = f and tp_src f modulo 16 384, flows in pseudo-random order. */
export class BenchRx implements RxQueue {
  readonly portNo = 1;
  readonly queue = 0;
  readonly kickFd = -1;
  readonly #flowMask: number;
  readonly #flows: number;
  #state = 1;
  constructor(batch: PacketBatch, flows: number) {
    this.#flows = flows;
    this.#flowMask = 2 ** Math.ceil(Math.log2(flows)) - 1;
    for (let slot = 0; slot < COUNT; slot++) batch.u8.set(FRAME, slot * SLOT + FIRST);
  }
  poll(batch: PacketBatch): number {
    const { start, headLength, length, segmentCount, vnetFlags, u16 } = batch;
    const mask = this.#flowMask;
    const flows = this.#flows;
    let state = this.#state;
    for (let slot = 0; slot < COUNT; slot++) {
      const at = slot * SLOT + FIRST;
      start[slot] = at;
      headLength[slot] = 64;
      length[slot] = 64;
      segmentCount[slot] = 0;
      vnetFlags[slot] = 0;
      if (mask !== 0) {
        state = (Math.imul(state, 1664525) + 1013904223) | 0;
        let flow = (state >>> 12) & mask;
        if (flow >= flows) flow -= flows;
        u16[(at + 28) >>> 1] = flow;
        u16[(at + 26) >>> 1] = 10 | ((flow >>> 16) << 8);
        u16[(at + 34) >>> 1] = flow & 0x3fff;
      }
    }
    this.#state = state;
    batch.count = COUNT;
    batch.inPort = 1;
    return COUNT;
  }
  complete(): void {}
  arm(): boolean {
    return false;
  }
  disarm(): void {}
}

class BenchTx implements TxQueue {
  readonly portNo = 2;
  readonly queue = 0;
  readonly shared = false;
  lock(): boolean {
    return true;
  }
  unlock(): void {}
  push(_batch: PacketBatch, _list: Int32Array, n: number): number {
    return n;
  }
  publish(): void {}
}

const BURSTS = 1024;

export interface BenchRig {
  readonly batch: PacketBatch;
  readonly pipeline: Pipeline;
  readonly rx: BenchRx;
  readonly lane: Lane;
  readonly packets: number;
  readonly run: () => void;
  readonly baseline: () => void;
}

export function makeRig(flows: number): BenchRig {
  const batch = new PacketBatch();
  const lane = new Lane(mapAnonymous(LANE_BYTES));
  const clock = new Float64Array([Date.now()]);
  const rx = new BenchRx(batch, flows);
  const bare = new BenchRx(batch, flows);
  const tx = new BenchTx();
  const pipeline = new Pipeline({
    batch,
    lane,
    clock,
    txQueue: (port) => (port === 2 ? tx : undefined),
    finisher: new SoftwareOffload(),
    hasPort: (port) => port === 2,
    onMiss: () => 0,
  });
  return {
    batch,
    pipeline,
    rx,
    lane,
    packets: BURSTS * COUNT,
    run: () => {
      for (let i = 0; i < BURSTS; i++) pipeline.run(rx);
    },
    baseline: () => {
      for (let i = 0; i < BURSTS; i++) {
        bare.poll(batch);
        batch.clear();
      }
    },
  };
}

/** Installs one megaflow per flow of BenchRx: exact on dl_type, nw_proto, nw_frag, addresses and ports. */
export function putL4Flows(
  pipeline: Pipeline,
  flows: number,
  firstId = 0,
  program: readonly number[] = output(2),
): void {
  for (let flow = 0; flow < flows; flow++) {
    const high = ((flow & 0xff) << 8) | ((flow >>> 8) & 0xff);
    const port = flow & 0x3fff;
    const source = ((10 << 24) | ((flow >>> 16) << 16) | high) >>> 0;
    const swapped = ((port & 0xff) << 8) | (port >>> 8);
    const words = [
      0,
      1,
      0xffffffff,
      7,
      (0x0800 << 16) | (17 << 8),
      0xffffffff,
      8,
      source,
      0xffffffff,
      9,
      0x0a010001,
      0xffffffff,
      10,
      ((swapped << 16) | 2000) >>> 0,
      0xffffffff,
    ];
    pipeline.flows.put(firstId + flow, [...words, ...program], 0, 5, program.length);
  }
}

/** Fails when the bench does not measure what it says. */
export function expectHits(rig: BenchRig, counter: number): void {
  rig.run();
  const hits = rig.lane.worker[counter]!;
  if (hits < rig.packets * 0.9) throw new Error(`only ${hits} of ${rig.packets} packets hit where they should`);
}
