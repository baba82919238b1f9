// hot
/**
 * When a guest is told that frames which it sent are done.
 *
 * Its driver has but memory to free then, and mostly does so by itself when it sends or receives more. So a call comes late:
 * one for all frames of a while, and none where the driver has looked by then and its event index says so.
 */
import { portCounter } from '#contract/catalogue.ts';
import { eventfdSignal, tscHz, tscSample } from '#contract/os.ts';
import type { PortCounters } from '#ports/port.ts';

/**
 * So long after the last frame, and after the first. The first is longer than most answers take; in the second TCP, which
 * has a millisecond's worth of frames under way, runs out of them (tcp_small_queue_check).
 */
export const QUIET_MICROS = 400;
export const LONGEST_MICROS = 1000;

const signal = eventfdSignal;
const now = tscSample;
const CALLS = portCounter('calls');

export class LateCall {
  /** There are frames of which nothing was said. */
  waiting = false;
  readonly #callFd: number;
  readonly #counters: PortCounters;
  /** In cycles: QUIET_MICROS, LONGEST_MICROS. */
  readonly #quiet: number;
  readonly #longest: number;
  /** Of the time stamp counter: when to call, and when at the latest. */
  readonly #until = new Float64Array(2);

  /** @param callFd eventfd, or -1. */
  constructor(callFd: number, counters: PortCounters) {
    this.#callFd = callFd;
    this.#counters = counters;
    this.#quiet = (QUIET_MICROS / 1e6) * tscHz();
    this.#longest = (LONGEST_MICROS / 1e6) * tscHz();
  }

  /** Frames are done. */
  put(): void {
    const until = this.#until;
    if (!this.waiting) until[1] = now[0]! + this.#longest;
    this.waiting = true;
    const quiet = now[0]! + this.#quiet;
    until[0] = quiet < until[1]! ? quiet : until[1]!;
  }

  /** Whether it is time, as the clock was read last in this thread. */
  get due(): boolean {
    return this.waiting && now[0]! >= this.#until[0]!;
  }

  /** Calls, or decides not to. */
  end(wanted: boolean): void {
    this.waiting = false;
    if (!wanted || this.#callFd < 0) return;
    signal(this.#callFd);
    this.#counters.slots[this.#counters.base + CALLS]!++;
  }
}
