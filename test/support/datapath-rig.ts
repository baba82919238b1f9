/**
 * A pipeline with queues that are plain memory: what a test puts in, what comes out, nothing else.
 */
import {
  DROP_BASE,
  DROP_REASONS,
  type DropReason,
  dropReason,
  PORT_ROW,
  type WorkerCounter,
  workerCounter,
} from '#contract/catalogue.ts';
import { KEY_WORDS, W_IN_PORT } from '#contract/flow-key.ts';
import { LANE_BYTES, Lane } from '#contract/lane.ts';
import { address, mapAnonymous } from '#contract/os.ts';
import { PacketBatch as Batch, BURST, HEADROOM, type PacketBatch, SLOT_BYTES, WINDOW } from '#datapath/packet/batch.ts';
import { Pipeline } from '#datapath/pipeline.ts';
import { SoftwareOffload } from '#ports/frame/offload.ts';
import type { RxQueue, TxQueue } from '#ports/port.ts';

/** virtio-net fields of a test packet. */
export interface Offload {
  flags?: number;
  gsoType?: number;
  gsoSize?: number;
  headerLength?: number;
  csumStart?: number;
  csumOffset?: number;
}

const ARENA = 1 << 22;

/** Memory of senders: frames lie here, so that payloads have addresses. */
export class Arena {
  readonly bytes: Uint8Array;
  readonly address: number;
  #at = 0;
  constructor() {
    const buffer = mapAnonymous(ARENA);
    this.bytes = new Uint8Array(buffer);
    this.address = address(buffer);
  }
  put(frame: Uint8Array): number {
    if (this.#at + frame.length > ARENA) this.#at = 0;
    const at = this.#at;
    this.bytes.set(frame, at);
    this.#at += frame.length;
    return at;
  }
}

/** Fills a slot as an rx queue does: window copied, the rest cut into segments of at most `piece` bytes. */
export function fillSlot(
  batch: PacketBatch,
  arena: Arena,
  slot: number,
  frame: Uint8Array,
  offload: Offload = {},
  piece = 1000,
): void {
  const at = arena.put(frame);
  const start = slot * SLOT_BYTES + HEADROOM;
  const head = Math.min(frame.length, WINDOW);
  batch.u8.fill(0xee, slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES);
  batch.u8.set(frame.subarray(0, head), start);
  batch.start[slot] = start;
  batch.headLength[slot] = head;
  batch.length[slot] = frame.length;
  batch.segmentFirst[slot] = batch.nextSegment;
  batch.segmentCount[slot] = 0;
  for (let from = head; from < frame.length; from += piece) {
    batch.segmentAddress[batch.nextSegment] = arena.address + at + from;
    batch.segmentLength[batch.nextSegment] = Math.min(piece, frame.length - from);
    batch.nextSegment++;
    batch.segmentCount[slot]!++;
  }
  batch.vnetFlags[slot] = offload.flags ?? 0;
  batch.gsoType[slot] = offload.gsoType ?? 0;
  batch.gsoSize[slot] = offload.gsoSize ?? 0;
  batch.vnetHeaderLength[slot] = offload.headerLength ?? 0;
  batch.csumStart[slot] = offload.csumStart ?? 0;
  batch.csumOffset[slot] = offload.csumOffset ?? 0;
}

export class MemoryRx implements RxQueue {
  readonly queue = 0;
  readonly kickFd = -1;
  readonly portNo: number;
  readonly arena = new Arena();
  waiting: { frame: Uint8Array; offload?: Offload }[] = [];
  completed = 0;
  constructor(portNo: number) {
    this.portNo = portNo;
  }
  poll(batch: PacketBatch): number {
    const taken = this.waiting.splice(0, BURST);
    for (const [slot, packet] of taken.entries()) fillSlot(batch, this.arena, slot, packet.frame, packet.offload);
    batch.count = taken.length;
    batch.inPort = this.portNo;
    return taken.length;
  }
  complete(): void {
    this.completed++;
  }
  arm(): boolean {
    return false;
  }
  disarm(): void {}
}

export interface Sent {
  port: number;
  frame: Uint8Array;
  slot: number;
  offload: Required<Offload>;
}

export class MemoryTx implements TxQueue {
  readonly queue = 0;
  readonly portNo: number;
  readonly shared: boolean;
  readonly log: string[] = [];
  lockable = true;
  readonly #out: Sent[];
  readonly #memory: Uint8Array;
  readonly #address: number;
  #pending: { sent: Sent; at: number }[] = [];
  #at = 0;
  constructor(portNo: number, out: Sent[], shared = false) {
    this.portNo = portNo;
    this.shared = shared;
    this.#out = out;
    const buffer = mapAnonymous(1 << 23);
    this.#memory = new Uint8Array(buffer);
    this.#address = address(buffer);
  }
  lock(): boolean {
    this.log.push('lock');
    return this.lockable;
  }
  unlock(): void {
    this.log.push('unlock');
  }
  push(batch: PacketBatch, list: Int32Array, n: number): number {
    this.log.push(`push ${n}`);
    for (let i = 0; i < n; i++) {
      const slot = list[i]!;
      const length = batch.length[slot]!;
      const head = batch.headLength[slot]!;
      if (this.#at + length > this.#memory.length) this.#at = 0;
      const at = this.#at;
      let to = this.#address + at;
      const row = (source: number, bytes: number): void => {
        batch.rows.set([to, source, bytes], batch.rowCount++ * 3);
        to += bytes;
      };
      row(batch.scratchAddress + batch.start[slot]!, head);
      for (let s = 0; s < batch.segmentCount[slot]!; s++) {
        const segment = batch.segmentFirst[slot]! + s;
        row(batch.segmentAddress[segment]!, batch.segmentLength[segment]!);
      }
      this.#at += length;
      this.#pending.push({
        at,
        sent: {
          port: this.portNo,
          slot,
          frame: new Uint8Array(length),
          offload: {
            flags: batch.vnetFlags[slot]!,
            gsoType: batch.gsoType[slot]!,
            gsoSize: batch.gsoSize[slot]!,
            headerLength: batch.vnetHeaderLength[slot]!,
            csumStart: batch.csumStart[slot]!,
            csumOffset: batch.csumOffset[slot]!,
          },
        },
      });
    }
    return n;
  }
  publish(): void {
    this.log.push('publish');
    for (const { sent, at } of this.#pending) {
      sent.frame.set(this.#memory.subarray(at, at + sent.frame.length));
      this.#out.push(sent);
    }
    this.#pending = [];
  }
}

/** A pipeline between ports that exist as soon as they are named in `ports`. */
export class Rig {
  readonly batch = new Batch();
  readonly lane = new Lane(mapAnonymous(LANE_BYTES));
  readonly clock = new Float64Array([1000]);
  readonly sent: Sent[] = [];
  readonly missed: { key: Uint32Array; slot: number; length: number }[] = [];
  readonly tx = new Map<number, MemoryTx>();
  readonly rx = new Map<number, MemoryRx>();
  /** Ports that exist without a queue. */
  readonly down = new Set<number>();
  /** What onMiss answers. */
  missReason = 0;
  readonly pipeline: Pipeline;

  constructor(ports: readonly number[], shared: readonly number[] = []) {
    for (const port of ports) {
      this.tx.set(port, new MemoryTx(port, this.sent, shared.includes(port)));
      this.rx.set(port, new MemoryRx(port));
    }
    this.pipeline = new Pipeline({
      batch: this.batch,
      lane: this.lane,
      clock: this.clock,
      txQueue: (port) => this.tx.get(port),
      finisher: new SoftwareOffload(),
      hasPort: (port) => this.tx.has(port) || this.down.has(port),
      onMiss: (batch, slot) => {
        const row = slot * KEY_WORDS;
        this.missed.push({ key: batch.keys.slice(row, row + KEY_WORDS), slot, length: batch.length[slot]! });
        return this.missReason;
      },
    });
  }

  /** Puts a flow: mask and key rows (in_port is added), contract action words. */
  put(
    id: number,
    inPort: number,
    match: Readonly<Record<number, readonly [value: number, mask: number]>>,
    program: readonly number[],
  ): void {
    const triples = [W_IN_PORT, inPort, 0xffffffff];
    for (const [word, [value, mask]] of Object.entries(match))
      triples.push(Number(word), (value & mask) >>> 0, mask >>> 0);
    this.pipeline.flows.put(id, [...triples, ...program], 0, triples.length / 3, program.length);
  }

  /** Sends frames in at a port, a burst at a time, and returns what came out. */
  send(inPort: number, ...frames: (Uint8Array | { frame: Uint8Array; offload: Offload })[]): Sent[] {
    const rx = this.rx.get(inPort)!;
    rx.waiting.push(...frames.map((frame) => (frame instanceof Uint8Array ? { frame } : frame)));
    this.sent.length = 0;
    this.missed.length = 0;
    while (rx.waiting.length > 0) this.pipeline.run(rx);
    return [...this.sent];
  }

  counter(name: WorkerCounter): number {
    return this.lane.worker[workerCounter(name)]!;
  }

  drops(port: number, reason: DropReason): number {
    return this.lane.ports[port * PORT_ROW + DROP_BASE + dropReason(reason)]!;
  }

  /** All drops of all ports, by reason. */
  allDrops(): Partial<Record<DropReason, number>> {
    const sums: Partial<Record<DropReason, number>> = {};
    for (let at = 0; at < this.lane.ports.length; at += PORT_ROW) {
      for (const [i, { name }] of DROP_REASONS.entries()) {
        const count = this.lane.ports[at + DROP_BASE + i]!;
        if (count > 0) sums[name] = (sums[name] ?? 0) + count;
      }
    }
    return sums;
  }
}
