/** A PMD worker: the thread that forwards packets. Everything it needs comes in `workerData` and by verbs. */
import { GCProfiler } from 'node:v8';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { PORT_ROW, WORKER_ROW, workerCounter } from '#contract/catalogue.ts';
import {
  COMMAND_RING_BYTES,
  FLOW_BYTES,
  FLOW_PACKETS,
  FLOW_ROW,
  FLOW_TCP_FLAGS,
  FLOW_USED,
  H_EPOCH,
  LANE_BYTES,
  Lane,
} from '#contract/lane.ts';
import { map, release, setAffinity, setThreadName } from '#contract/os.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import { Pipeline } from '#datapath/pipeline.ts';
import { SoftwareOffload } from '#ports/frame/offload.ts';
import type { Attachment, RxQueue, TxQueue, WorkerPort } from '#ports/port.ts';
import { Commands, RECORDS_PER_TURN } from './commands.ts';
import { type LoopWork, PollLoop } from './loop.ts';
import { PORTS } from './port-types.ts';
import { Tidy } from './tidy.ts';
import { UpcallPath } from './upcall.ts';
import type { DumpedFlow, DumpResult, UsageResult, Verb, VerbAnswer, VerbCall, WorkerStart } from './verbs.ts';

/** Taking down a flow costs about a microsecond. */
const FLOWS_PER_DUMP = 128;
/** Looks at the command ring before the end: a full ring of the shortest records takes fewer. */
const LAST_TURNS = COMMAND_RING_BYTES / 16 / RECORDS_PER_TURN;
const COLLECTIONS = workerCounter('collections');

class PmdThread implements LoopWork {
  readonly now = new Float64Array(1);
  readonly #start: WorkerStart;
  readonly #lane: Lane;
  readonly #batch = new PacketBatch();
  readonly #ports = new Map<number, WorkerPort>();
  /** Ports that exist, with or without a guest. */
  readonly #known = new Set<number>();
  /** By port number, for the hot path. */
  readonly #tx: (TxQueue | undefined)[] = [];
  readonly #upcalls: UpcallPath;
  readonly #pipeline: Pipeline;
  readonly #commands: Commands;
  readonly #loop: PollLoop;
  #profiler = new GCProfiler();
  readonly #tidy = new Tidy();
  #stopped = false;

  constructor(start: WorkerStart) {
    this.#start = start;
    this.#lane = new Lane(map(start.laneFd, 0, LANE_BYTES, { write: true, owner: 0 }));
    this.#upcalls = new UpcallPath(this.#lane);
    this.#batch.upcalls = this.#upcalls;
    this.#pipeline = new Pipeline({
      batch: this.#batch,
      lane: this.#lane,
      clock: this.now,
      onMiss: (batch, slot) => this.#upcalls.miss(batch, slot),
      finisher: new SoftwareOffload(),
      txQueue: (portNo) => this.#tx[portNo],
      hasPort: (portNo) => this.#known.has(portNo),
    });
    this.#commands = new Commands(this.#lane, this.#batch, this.#pipeline, this.#upcalls);
    this.#loop = new PollLoop(this.#lane, new Int32Array(start.shared), start.wakeFd, this);
    this.#loop.sleepAfter(start.options.sleepAfterMicros);
    this.#loop.poll([]);
    this.#profiler.start();
  }

  run(): void {
    this.#loop.run();
    if (!this.#stopped) {
      this.#tidy.collect(performance.now());
      setImmediate(() => this.run());
      return;
    }
    parentPort!.close();
    for (const port of this.#ports.values()) port.close();
    release(this.#lane.buffer);
  }

  burst(queue: RxQueue): number {
    const packets = this.#pipeline.run(queue);
    if (packets > 0) this.#upcalls.flush();
    return packets;
  }

  commands(): void {
    if (!this.#upcalls.attached) return this.#commands.reset();
    try {
      this.#commands.run();
      // Answered packets may come out of a tunnel, and miss again.
      this.#upcalls.flush();
    } catch (error) {
      // A control plane that writes nonsense is cut off; forwarding goes on.
      this.#control(-1);
      parentPort!.postMessage({ nonsense: (error as Error).message });
    }
  }

  fault(): void {
    parentPort!.postMessage({ fault: true });
  }

  verbs(): boolean {
    const got = receiveMessageOnPort(parentPort!) as { message: VerbCall } | undefined;
    if (!got) return true;
    const { seq, verb } = got.message;
    let answer: VerbAnswer;
    try {
      const result = this.#do(verb);
      answer = result === undefined ? { seq } : { seq, result };
    } catch (error) {
      answer = { seq, error: (error as Error).message };
    }
    parentPort!.postMessage(answer);
    this.#stopped ||= verb.verb === 'stop';
    return !this.#stopped && !this.#tidy.due(performance.now());
  }

  #do(verb: Verb): VerbAnswer['result'] {
    switch (verb.verb) {
      case 'attach':
        this.#attach(verb.portNo, verb.attachment, verb.known);
        return undefined;
      case 'poll':
        this.#loop.poll(verb.queues.map(([portNo, queue]) => this.#rxQueue(portNo, queue)));
        return undefined;
      case 'control':
        this.#control(verb.doorbell);
        return undefined;
      case 'barrier':
        return undefined;
      case 'options':
        this.#loop.sleepAfter(verb.options.sleepAfterMicros);
        return undefined;
      case 'clear':
        this.#lane.worker.fill(0, 0, WORKER_ROW);
        this.#pipeline.flowsChanged();
        return undefined;
      case 'dump':
        return this.#dump(verb.from);
      case 'flows':
        this.#putAll(verb.flows);
        return undefined;
      case 'inherit':
        for (const fd of verb.countersOf) this.#inherit(fd);
        for (const fd of verb.upcallsOf) this.#takeUpcalls(fd);
        return undefined;
      case 'usage':
        return this.#usage();
      case 'stop':
        // What is answered leaves; what is not is taken over by another worker.
        for (let turn = 0; turn < LAST_TURNS && this.#upcalls.attached && this.#commands.waiting; turn++)
          this.commands();
        this.#pipeline.flows.sweepAll();
        // Guests hear of what they would be told later.
        this.#loop.poll([]);
        return undefined;
    }
  }

  #attach(portNo: number, attachment: Attachment | undefined, known: boolean): void {
    const previous = this.#ports.get(portNo);
    if (known) this.#known.add(portNo);
    else {
      this.#known.delete(portNo);
      this.#lane.ports.fill(0, portNo * PORT_ROW, (portNo + 1) * PORT_ROW);
    }
    if (!attachment) {
      previous?.close();
      this.#ports.delete(portNo);
      this.#tx[portNo] = undefined;
      return;
    }
    const factory = PORTS.get(attachment.kind);
    if (!factory) throw new Error(`no port kind ${attachment.kind}`);
    this.#tx[portNo] = undefined;
    this.#ports.delete(portNo);
    const { worker, workers } = this.#start;
    const counters = { slots: this.#lane.ports, base: portNo * PORT_ROW };
    const port = factory(attachment, { worker, workers, counters, batch: this.#batch }, previous);
    this.#ports.set(portNo, port);
    this.#tx[portNo] = port.tx;
  }

  #rxQueue(portNo: number, queue: number): RxQueue {
    const found = this.#ports.get(portNo)?.rx.find((rx) => rx.queue === queue);
    if (!found) throw new Error(`port ${portNo} has no rx queue ${queue}`);
    return found;
  }

  #control(doorbell: number): void {
    this.#upcalls.forget((inPort) => this.#pipeline.unanswered(inPort));
    this.#commands.reset();
    this.#upcalls.attach(doorbell);
    this.#lane.header[H_EPOCH]! += 1;
  }

  #dump(from: number): DumpResult {
    const table = this.#pipeline.flows;
    const end = table.subtableOf.length;
    const flows: DumpedFlow[] = [];
    let id = from;
    for (; id < end && flows.length < FLOWS_PER_DUMP; id++) {
      const record = table.get(id);
      if (record === undefined) continue;
      const { key, mask, program } = record;
      const words: number[] = [];
      for (let w = 0; w < mask.length; w++) if (mask[w] !== 0) words.push(w, key[w]!, mask[w]!);
      flows.push({ id, words: Uint32Array.from(words), actions: program });
    }
    return { flows, next: id < end ? id : -1 };
  }

  #putAll(flows: readonly DumpedFlow[]): void {
    for (const { id, words, actions } of flows) {
      const all = new Uint32Array(words.length + actions.length);
      all.set(words);
      all.set(actions, words.length);
      this.#pipeline.flows.put(id, all, 0, words.length / 3, actions.length);
    }
    this.#pipeline.flowsChanged();
  }

  #inherit(laneFd: number): void {
    const from = new Lane(map(laneFd, 0, LANE_BYTES, { write: true, owner: 0 }));
    const { ports, flows } = this.#lane;
    for (let i = 0; i < ports.length; i++) ports[i]! += from.ports[i]!;
    const { subtableOf } = this.#pipeline.flows;
    for (let id = 0; id < subtableOf.length; id++) {
      if (subtableOf[id]! < 0) continue;
      const row = id * FLOW_ROW;
      flows[row + FLOW_PACKETS]! += from.flows[row + FLOW_PACKETS]!;
      flows[row + FLOW_BYTES]! += from.flows[row + FLOW_BYTES]!;
      flows[row + FLOW_USED] = Math.max(flows[row + FLOW_USED]!, from.flows[row + FLOW_USED]!);
      flows[row + FLOW_TCP_FLAGS]! |= from.flows[row + FLOW_TCP_FLAGS]!;
    }
    release(from.buffer);
  }

  #takeUpcalls(laneFd: number): void {
    const from = new Lane(map(laneFd, 0, LANE_BYTES, { write: true, owner: 0 }));
    this.#upcalls.inherit(from, (inPort, reason) => this.#pipeline.lost(inPort, reason));
    release(from.buffer);
  }

  #usage(): UsageResult {
    this.#lane.worker[COLLECTIONS]! += this.#profiler.stop()?.statistics.length ?? 0;
    this.#profiler = new GCProfiler();
    this.#profiler.start();
    const { cycles, total } = this.#loop.takeUsage();
    const queues = this.#loop.queues.map(({ portNo, queue }, i) => ({ portNo, queue, cycles: cycles[i]! }));
    return { queues, total };
  }
}

const { start } = workerData as { start: WorkerStart };
setThreadName(`pmd${start.worker}`);
if (start.core >= 0) setAffinity([start.core]);
new PmdThread(start).run();
