// hot
/**
 * The poll loop of a PMD worker: poll the rx queues in turn, look for commands of the control plane and for verbs of the main
 * thread, and sleep when nothing has come for a while.
 *
 * Sleeping: every queue is asked to notify (`arm`), which looks for packets once more afterwards; then the worker says that it
 * sleeps, looks at its rings once more, and blocks in poll() on the kick eventfds and its own wake eventfd. Whoever writes a
 * ring reads "asleep" after writing, so one of the two always sees the other.
 */
import { workerCounter } from '#contract/catalogue.ts';
import { H_COMMAND_HEAD, H_COMMAND_TAIL, H_WORKER_ASLEEP, type Lane } from '#contract/lane.ts';
import { eventfdDrain, faultWord, pollFds, sampleTsc, tscHz, tscSample } from '#contract/os.ts';
import type { RxQueue } from '#ports/port.ts';
import { SHARED_VERBS } from './verbs.ts';

/** Longest sleep, so that a lost notification costs a pause and not a guest its network. */
const SLEEP_MICROS = 100_000;
/** Descriptors that poll() takes, the wake eventfd among them. */
const MAX_FDS = 1024;

/** The end of what was last accounted for, and of the last turn that found something to do. */
const LAST = 0;
const BUSY_SINCE = 1;

const C_ITERATIONS = workerCounter('iterations');
const C_IDLE_ITERATIONS = workerCounter('idle_iterations');
const C_BUSY_CYCLES = workerCounter('busy_cycles');
const C_IDLE_CYCLES = workerCounter('idle_cycles');
const C_SLEEPS = workerCounter('sleeps');
const C_BUS_FAULTS = workerCounter('bus_faults');

/** What the loop runs; made once per worker. */
export interface LoopWork {
  /** now[0]: milliseconds since the epoch, kept by the loop. */
  readonly now: Float64Array;
  /** Moves one burst of a queue through the datapath. @returns packets received. */
  burst(queue: RxQueue): number;
  /** Carries out what lies in the command ring. */
  commands(): void;
  /** Carries out what the main thread asked. @returns false to end the loop. */
  verbs(): boolean;
  /** A guest took memory away. */
  fault(): void;
}

export class PollLoop {
  readonly #lane: Lane;
  readonly #shared: Int32Array;
  readonly #wakeFd: number;
  readonly #work: LoopWork;
  /** Eventfds first, which are read after a sleep; then the others. */
  readonly #fds = new Int32Array(MAX_FDS);
  #fdCount = 0;
  #eventFds = 0;
  #queues: readonly RxQueue[] = [];
  /** Cycles per queue since `takeUsage`. */
  #usage = new Float64Array(0);
  #usageSince = 0;
  #canSleep = true;
  #sleepAfter = 0;
  /** Verbs taken, and faults told, so far. */
  #verbs = 0;
  #faults = faultWord[0]!;
  /** Time stamps: LAST, BUSY_SINCE. */
  readonly #time = new Float64Array(2);
  readonly #cyclesPerMs: number;
  readonly #epochMs: number;
  readonly #epochTsc: number;

  constructor(lane: Lane, shared: Int32Array, wakeFd: number, work: LoopWork) {
    this.#lane = lane;
    this.#shared = shared;
    this.#wakeFd = wakeFd;
    this.#work = work;
    this.#cyclesPerMs = tscHz() / 1000;
    sampleTsc();
    this.#epochTsc = tscSample[0]!;
    this.#epochMs = Date.now();
    this.#usageSince = this.#epochTsc;
  }

  /** @param micros idle time after which the worker sleeps; Infinity: never. */
  sleepAfter(micros: number): void {
    this.#sleepAfter = (micros / 1000) * this.#cyclesPerMs;
  }

  /** The queues to poll from now on. */
  // set-up
  poll(queues: readonly RxQueue[]): void {
    for (const queue of this.#queues) if (!queues.includes(queue)) queue.rest?.();
    this.#queues = queues;
    this.#usage = new Float64Array(queues.length);
    this.#fds[0] = this.#wakeFd;
    this.#fdCount = 1;
    this.#canSleep = queues.length < MAX_FDS;
    for (const { kickFd, kickIsLevel } of queues) {
      if (kickFd < 0) this.#canSleep = false;
      else if (kickIsLevel !== true && this.#canSleep) this.#fds[this.#fdCount++] = kickFd;
    }
    this.#eventFds = this.#fdCount;
    for (const { kickFd, kickIsLevel } of queues) {
      if (kickFd >= 0 && kickIsLevel === true && this.#canSleep) this.#fds[this.#fdCount++] = kickFd;
    }
  }

  get queues(): readonly RxQueue[] {
    return this.#queues;
  }

  /** Cycles per polled queue since the last call, and of the whole worker. */
  takeUsage(): { cycles: Float64Array; total: number } {
    const cycles = this.#usage;
    this.#usage = new Float64Array(cycles.length);
    sampleTsc();
    const total = tscSample[0]! - this.#usageSince;
    this.#usageSince = tscSample[0]!;
    return { cycles, total };
  }

  /**
   * Runs until a verb ends it; it may be run again. The loop is all that this function holds: one that never returns is optimised in the middle of
   * its run or not at all, and numbers in a frame that is not optimised are objects.
   */
  run(): void {
    sampleTsc();
    this.#time[LAST] = tscSample[0]!;
    this.#time[BUSY_SINCE] = tscSample[0]!;
    while (this.#turn());
  }

  /** One look at everything. @returns false when a verb ends the loop. */
  #turn(): boolean {
    const counters = this.#lane.worker;
    const header = this.#lane.header;
    const shared = this.#shared;
    const work = this.#work;
    const clock = tscSample;
    const time = this.#time;
    const queues = this.#queues;
    const usage = this.#usage;
    const n = queues.length;
    work.now[0] = this.#epochMs + Math.floor((time[LAST]! - this.#epochTsc) / this.#cyclesPerMs);
    let packets = 0;
    for (let i = 0; i < n; i++) {
      const got = work.burst(queues[i]!);
      if (got > 0) {
        packets += got;
        sampleTsc();
        const cycles = clock[0]! - time[LAST]!;
        usage[i] = usage[i]! + cycles;
        counters[C_BUSY_CYCLES] = counters[C_BUSY_CYCLES]! + cycles;
        time[LAST] = clock[0]!;
      }
    }
    if (header[H_COMMAND_HEAD] !== header[H_COMMAND_TAIL]) {
      work.commands();
      packets++;
    }
    if (shared[SHARED_VERBS] !== this.#verbs) {
      this.#verbs = (this.#verbs + 1) | 0;
      if (!work.verbs()) return false;
    }
    if (faultWord[0] !== this.#faults) {
      this.#faults = faultWord[0]!;
      counters[C_BUS_FAULTS] = counters[C_BUS_FAULTS]! + 1;
      work.fault();
    }
    counters[C_ITERATIONS] = counters[C_ITERATIONS]! + 1;
    if (packets > 0) {
      // The rest of a busy turn counts for the first burst of the next: reading the clock is a call.
      time[BUSY_SINCE] = time[LAST]!;
      return true;
    }
    sampleTsc();
    counters[C_IDLE_ITERATIONS] = counters[C_IDLE_ITERATIONS]! + 1;
    counters[C_IDLE_CYCLES] = counters[C_IDLE_CYCLES]! + (clock[0]! - time[LAST]!);
    time[LAST] = clock[0]!;
    if (time[LAST]! - time[BUSY_SINCE]! > this.#sleepAfter && this.#canSleep && shared[SHARED_VERBS] === this.#verbs) {
      this.#sleep(this.#verbs);
      counters[C_SLEEPS] = counters[C_SLEEPS]! + 1;
      sampleTsc();
      time[LAST] = clock[0]!;
      time[BUSY_SINCE] = clock[0]!;
    }
    return true;
  }

  #sleep(verbs: number): void {
    const queues = this.#queues;
    const header = this.#lane.header;
    const fds = this.#fds;
    let armed = 0;
    let waiting = false;
    while (armed < queues.length && !waiting) waiting = queues[armed++]!.arm();
    if (!waiting) {
      Atomics.store(header, H_WORKER_ASLEEP, 1);
      const quiet =
        Atomics.load(header, H_COMMAND_HEAD) === header[H_COMMAND_TAIL] &&
        Atomics.load(this.#shared, SHARED_VERBS) === verbs;
      if (quiet) pollFds(fds, this.#fdCount, SLEEP_MICROS);
      Atomics.store(header, H_WORKER_ASLEEP, 0);
      for (let i = 0; i < this.#eventFds; i++) eventfdDrain(fds[i]!);
    }
    for (let i = 0; i < armed; i++) queues[i]!.disarm();
  }
}
