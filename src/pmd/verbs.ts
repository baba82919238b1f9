/**
 * What the main thread may ask of a PMD worker, and the answers: a closed list. Verbs are taken between bursts; each is
 * answered once, in order.
 */
import type { Attachment } from '#ports/port.ts';

export interface WorkerOptions {
  /** Microseconds without a packet after which the worker sleeps; Infinity: it polls for ever. */
  readonly sleepAfterMicros: number;
}

export type Verb =
  /**
   * Replace the worker's view of a port; the port must not be polled meanwhile. A port that is no longer `known` is gone:
   * its counters start at 0 for the next one of that number.
   */
  | {
      readonly verb: 'attach';
      readonly portNo: number;
      readonly attachment: Attachment | undefined;
      readonly known: boolean;
    }
  /** The rx queues that this worker polls from now on: pairs of port number and queue. */
  | { readonly verb: 'poll'; readonly queues: readonly (readonly [number, number])[] }
  /** A control plane came (`doorbell`: its eventfd) or went (-1): rings start at 0 again. */
  | { readonly verb: 'control'; readonly doorbell: number }
  | { readonly verb: 'options'; readonly options: WorkerOptions }
  /** Only an answer: the worker is between two bursts. */
  | { readonly verb: 'barrier' }
  /** All counters of the worker's row to 0. */
  | { readonly verb: 'clear' }
  /** Flows with ids from `from` on, so few that no packet waits long. */
  | { readonly verb: 'dump'; readonly from: number }
  /** Install these megaflows: a new worker takes over from others. */
  | { readonly verb: 'flows'; readonly flows: readonly DumpedFlow[] }
  /**
   * Of workers that have stopped, by their lanes: add the counters of ports and flows, and go on with the upcalls that were
   * not answered.
   */
  | { readonly verb: 'inherit'; readonly countersOf: readonly number[]; readonly upcallsOf: readonly number[] }
  /** Cycles per polled queue since the last such question. */
  | { readonly verb: 'usage' }
  | { readonly verb: 'stop' };

export interface VerbCall {
  readonly seq: number;
  readonly verb: Verb;
}

export interface DumpedFlow {
  readonly id: number;
  /** Triples: key word index, value, mask. */
  readonly words: Uint32Array;
  readonly actions: Uint32Array;
}

export interface DumpResult {
  readonly flows: readonly DumpedFlow[];
  /** Where the next dump goes on; -1: these were the last. */
  readonly next: number;
}

export interface QueueUsage {
  readonly portNo: number;
  readonly queue: number;
  readonly cycles: number;
}

export interface UsageResult {
  readonly queues: readonly QueueUsage[];
  /** All cycles of the worker in that time. */
  readonly total: number;
}

export interface VerbAnswer {
  readonly seq: number;
  readonly error?: string;
  readonly result?: DumpResult | UsageResult;
}

/** What a worker says unasked: a guest took memory away under it (os.takeFaults tells which). */
export interface FaultNotice {
  readonly fault: true;
}

/** Unasked too: the control plane wrote nonsense into the command ring and was cut off. */
export interface NonsenseNotice {
  readonly nonsense: string;
}

export type FromWorker = VerbAnswer | FaultNotice | NonsenseNotice;

/** Words of the SharedArrayBuffer between main thread and worker. */
export const SHARED_VERBS = 0;
export const SHARED_WORDS = 16;

/** What a worker is started with. Descriptors are the process's. */
export interface WorkerStart {
  readonly worker: number;
  readonly workers: number;
  /** CPU to be pinned to; -1: any. */
  readonly core: number;
  readonly laneFd: number;
  readonly wakeFd: number;
  readonly shared: SharedArrayBuffer;
  readonly options: WorkerOptions;
}
