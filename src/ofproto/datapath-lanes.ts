/**
 * The lanes to the workers: megaflows out, upcalls in, statistics shared (contract/lane.ts).
 *
 * This side keeps a copy of every installed megaflow, by id: new lanes (another set of workers) are filled from it, and after
 * a restart of this process it is read back from the data plane.
 */
import { PORT_ROW } from '#contract/catalogue.ts';
import {
  FLOW_BYTES,
  FLOW_PACKETS,
  FLOW_ROW,
  FLOW_TCP_FLAGS,
  FLOW_USED,
  H_WORKER_ASLEEP,
  MAX_FLOWS,
} from '#contract/lane.ts';
import { LaneClient } from '#contract/lane-client.ts';
import { close, eventfdDrain, Watcher } from '#contract/os.ts';
import type { InstalledMegaflow, Megaflow, MegaflowStats, Upcall, UpcallAnswer } from './datapath.ts';
import { FlowIds } from './flow-ids.ts';

/** Upcalls answered in one turn of the event loop, so that the API stays responsive under a storm. */
const UPCALLS_PER_TURN = 128;

export class DatapathLanes {
  readonly #answer: (upcall: Upcall) => UpcallAnswer;
  #lanes: LaneClient[] = [];
  #doorbell = -1;
  readonly #bell = new Watcher((fd) => {
    eventfdDrain(fd);
    this.#pump();
  });
  readonly #flows = new Map<number, Megaflow>();
  readonly #ids = new FlowIds(MAX_FLOWS);
  #barrier = 0;
  #retiring: { id: number; gone: ((final: MegaflowStats) => void) | undefined }[] = [];
  #pumping = false;
  #flushing = false;
  /** Upcalls are answered, and this side knows what the workers hold. */
  #started = false;
  /** Connections so far: an id given out under one means nothing under the next. */
  #epoch = 0;

  /** @param answer what becomes of a packet; must not throw. */
  constructor(answer: (upcall: Upcall) => UpcallAnswer) {
    this.#answer = answer;
  }

  /** A new connection is being made. */
  begin(): void {
    this.#epoch++;
  }

  /** What the data plane holds now. */
  hold(flows: readonly InstalledMegaflow[]): void {
    this.#flows.clear();
    this.#ids.clear();
    for (const flow of flows) {
      this.#flows.set(flow.id, flow);
      this.#ids.reserve(flow.id);
    }
  }

  /** From here on upcalls are answered. */
  start(): void {
    this.#started = true;
    this.#pump();
  }

  /** The connection is gone. @returns descriptors of the lanes, with what waits in them; they are the caller's. */
  drop(): number[] {
    this.#started = false;
    const left = this.#lanes.splice(0).map((lane) => lane.leave());
    this.#useLanes([]);
    return left;
  }

  close(): void {
    this.#bell.close();
  }

  /** Other workers, or the first. @param fds doorbell, then lane and wake-up of each worker; they are owned from here. */
  take(fds: readonly number[]): void {
    const lanes: LaneClient[] = [];
    for (let i = 1; i < fds.length; i += 2) lanes.push(new LaneClient(fds[i]!, fds[i + 1]!));
    const left = this.#started ? this.#lanes.flatMap((lane) => lane.left()) : [];
    this.#useLanes(lanes, fds[0]!);
    // After a hello the data plane tells what it holds. Later, new workers got their flows from old ones, and may have
    // missed what was put or deleted at that time.
    if (this.#started) {
      for (const lane of lanes) {
        for (let id = 0; id < this.#ids.end; id++) if (!this.#flows.has(id)) lane.deleteFlow(id);
        for (const [id, f] of this.#flows) lane.putFlow(id, f.key, f.mask, f.actions);
      }
    }
    for (const { inPort, frame, actions } of left) this.execute(inPort, frame, actions);
    this.#flushSoon();
    this.#pump();
  }

  #useLanes(lanes: LaneClient[], doorbell = -1): void {
    for (const lane of this.#lanes) lane.close();
    if (this.#doorbell >= 0) {
      this.#bell.remove(this.#doorbell);
      close(this.#doorbell);
    }
    this.#lanes = lanes;
    this.#doorbell = doorbell;
    if (doorbell >= 0) this.#bell.add(doorbell);
  }

  /** Answers upcalls, a bounded number a turn; asks for the doorbell when there are none left. */
  #pump(): void {
    if (this.#pumping || !this.#started) return;
    this.#pumping = true;
    const turn = (): void => {
      this.#pumping = false;
      let more = false;
      const share = Math.ceil(UPCALLS_PER_TURN / this.#lanes.length);
      for (const [worker, lane] of this.#lanes.entries()) {
        let left = share;
        for (let upcall = lane.next(); upcall; upcall = --left > 0 ? lane.next() : undefined) {
          const { seq, inPort, key, frame } = upcall;
          lane.reply(seq, this.#answer({ worker, inPort, key, frame }).actions);
        }
        lane.release();
        if (left === 0) more = true;
      }
      this.#flush();
      const idle = !more && this.#lanes.every((lane) => lane.sleep());
      if (idle || this.#pumping) return;
      this.#pumping = true;
      setImmediate(turn);
    };
    turn();
  }

  #flush(): void {
    let all = true;
    for (const lane of this.#lanes) all = lane.flush() && all;
    if (!all) this.#flushSoon();
  }

  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  putFlow(flow: Megaflow): number {
    const id = this.#ids.take();
    if (id >= 0) this.setFlow(id, flow);
    return id;
  }

  setFlow(id: number, flow: Megaflow): void {
    this.#flows.set(id, flow);
    for (const lane of this.#lanes) lane.putFlow(id, flow.key, flow.mask, flow.actions);
    this.#flushSoon();
  }

  deleteFlow(id: number, gone?: (final: MegaflowStats) => void): void {
    if (!this.#flows.delete(id)) return;
    for (const lane of this.#lanes) lane.deleteFlow(id);
    this.#retire(id, gone);
  }

  flushFlows(): void {
    for (const lane of this.#lanes) lane.flushFlows();
    for (const id of this.#flows.keys()) this.#retire(id, undefined);
    this.#flows.clear();
    this.#flushSoon();
  }

  /** After a barrier nobody counts on these ids: their slots are set to 0 and serve again. */
  #retire(id: number, gone: ((final: MegaflowStats) => void) | undefined): void {
    this.#retiring.push({ id, gone });
    if (this.#retiring.length > 1) return;
    setImmediate(() => {
      const batch = this.#retiring;
      const epoch = this.#epoch;
      this.#retiring = [];
      this.barrier().then(
        () => {
          for (const { id, gone } of batch) {
            if (gone) {
              const final = { packets: 0, bytes: 0, used: 0, tcpFlags: 0 };
              this.flowStats(id, final);
              gone(final);
            }
            if (epoch !== this.#epoch) continue;
            for (const { lane } of this.#lanes) lane.flows.fill(0, id * FLOW_ROW, (id + 1) * FLOW_ROW);
            this.#ids.free(id);
          }
        },
        () => undefined,
      );
    });
  }

  async barrier(): Promise<void> {
    this.#barrier = (this.#barrier + 1) | 0;
    const seq = this.#barrier;
    const lanes = this.#lanes;
    for (const lane of lanes) lane.barrier(seq);
    for (let turn = 0; ; turn++) {
      this.#flush();
      if (lanes !== this.#lanes) return lanes.length > 0 && this.#lanes.length > 0 ? this.barrier() : undefined;
      if (lanes.every((lane) => lane.passed(seq))) return;
      await new Promise((resolve) => (turn < 64 ? setImmediate(resolve) : setTimeout(resolve, 1)));
    }
  }

  flowStats(id: number, out: MegaflowStats): void {
    out.packets = 0;
    out.bytes = 0;
    out.used = 0;
    out.tcpFlags = 0;
    const at = id * FLOW_ROW;
    for (const { lane } of this.#lanes) {
      const rows = lane.flows;
      out.packets += rows[at + FLOW_PACKETS]!;
      out.bytes += rows[at + FLOW_BYTES]!;
      if (rows[at + FLOW_USED]! > out.used) out.used = rows[at + FLOW_USED]!;
      out.tcpFlags |= rows[at + FLOW_TCP_FLAGS]!;
    }
  }

  execute(inPort: number, frame: Uint8Array, actions: Uint32Array): void {
    this.#lanes[0]?.execute(inPort, frame, actions);
    this.#flushSoon();
  }

  /** A counter of a port, over all workers. @param slot of its row (contract/catalogue.ts). */
  portCounter(portNo: number, slot: number): number {
    return this.#lanes.reduce((total, { lane }) => total + lane.ports[portNo * PORT_ROW + slot]!, 0);
  }

  workerCounter(worker: number, slot: number): number {
    return this.#lanes[worker]?.lane.worker[slot] ?? 0;
  }

  isAsleep(worker: number): boolean {
    return this.#lanes[worker]?.lane.header[H_WORKER_ASLEEP] === 1;
  }
}
