/** The PMD workers as the main thread sees them: starting, asking, stopping. */
import { randomInt } from 'node:crypto';
import type { Worker } from 'node:worker_threads';
import { H_MAGIC, H_NAME, H_VERSION, H_WORKER, LANE_BYTES, LANE_MAGIC, LANE_VERSION, Lane } from '#contract/lane.ts';
import { close, eventfd, eventfdSignal, map, memfd, release } from '#contract/os.ts';
import type { DumpedFlow, DumpResult, FromWorker, Verb, VerbAnswer, WorkerOptions, WorkerStart } from './verbs.ts';
import { SHARED_VERBS, SHARED_WORDS } from './verbs.ts';
import { startThread } from './worker-thread.ts';

/**
 * V8 counts mapped guest memory as memory of the heap: with its default limit each attached guest costs whole collections, of
 * milliseconds, on a thread that must not pause.
 */
const HEAP = { maxOldGenerationSizeMb: 1 << 20 };

interface Waiting {
  resolve(result: VerbAnswer['result']): void;
  reject(error: Error): void;
}

export interface WorkerEvents {
  fault(): void;
  /** The control plane wrote nonsense; the worker has cut it off. */
  nonsense(worker: number, what: string): void;
  /** The thread ended without being asked to. */
  died(worker: number, error: Error): void;
}

export class PmdWorker {
  readonly worker: number;
  readonly core: number;
  readonly laneFd: number;
  readonly wakeFd: number;
  readonly lane: Lane;
  readonly #thread: Worker;
  readonly #shared = new Int32Array(new SharedArrayBuffer(SHARED_WORDS * 4));
  readonly #waiting = new Map<number, Waiting>();
  #seq = 0;
  #stopping = false;

  constructor(worker: number, workers: number, core: number, options: WorkerOptions, events: WorkerEvents) {
    this.worker = worker;
    this.core = core;
    this.laneFd = memfd(`lane${worker}`, LANE_BYTES, { seal: true });
    this.wakeFd = eventfd();
    this.lane = new Lane(map(this.laneFd, 0, LANE_BYTES, { write: true, owner: 0 }));
    this.lane.header[H_MAGIC] = LANE_MAGIC;
    this.lane.header[H_VERSION] = LANE_VERSION;
    this.lane.header[H_WORKER] = worker;
    this.lane.header[H_NAME] = randomInt(2 ** 31);
    const start: WorkerStart = {
      worker,
      workers,
      core,
      laneFd: this.laneFd,
      wakeFd: this.wakeFd,
      shared: this.#shared.buffer as SharedArrayBuffer,
      options,
    };
    this.#thread = startThread(new URL('./worker.ts', import.meta.url), start, {
      name: `pmd${worker}`,
      resourceLimits: HEAP,
    });
    this.#thread.on('message', (message: FromWorker) => {
      if ('fault' in message) return events.fault();
      if ('nonsense' in message) return events.nonsense(worker, message.nonsense);
      const waiting = this.#waiting.get(message.seq);
      this.#waiting.delete(message.seq);
      if (message.error !== undefined) waiting?.reject(new Error(message.error));
      else waiting?.resolve(message.result);
    });
    const ended = (error: Error): void => {
      for (const waiting of this.#waiting.values()) waiting.reject(error);
      this.#waiting.clear();
      if (!this.#stopping) events.died(worker, error);
      this.#stopping = true;
    };
    this.#thread.on('error', (error) => ended(error as Error));
    this.#thread.on('exit', (code) => ended(new Error(`PMD worker ${worker} ended with code ${code}`)));
  }

  /** Asks the worker; resolves when it has done so. */
  ask(verb: Verb): Promise<VerbAnswer['result']> {
    if (this.#stopping) return Promise.reject(new Error(`PMD worker ${this.worker} is stopping`));
    const seq = ++this.#seq;
    const answer = new Promise<VerbAnswer['result']>((resolve, reject) => {
      this.#waiting.set(seq, { resolve, reject });
    });
    this.#thread.postMessage({ seq, verb });
    Atomics.add(this.#shared, SHARED_VERBS, 1);
    eventfdSignal(this.wakeFd);
    return answer;
  }

  /** All flows of the worker. It forwards between any two parts of the answer. */
  async flows(): Promise<DumpedFlow[]> {
    const flows: DumpedFlow[] = [];
    for (let from = 0; from >= 0; ) {
      const part = (await this.ask({ verb: 'dump', from })) as DumpResult;
      for (const flow of part.flows) flows.push(flow);
      from = part.next;
    }
    return flows;
  }

  /** Ends the loop; what the worker counted is in its lane then, which stays until `close`. */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    const answer = this.ask({ verb: 'stop' });
    this.#stopping = true;
    await answer.catch(() => undefined);
  }

  /** Stops the worker and gives thread, lane and wake descriptor back. */
  async close(): Promise<void> {
    await this.stop();
    await this.#thread.terminate();
    release(this.lane.buffer);
    close(this.laneFd);
    close(this.wakeFd);
  }
}
