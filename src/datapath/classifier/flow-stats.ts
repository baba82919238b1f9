// hot
/**
 * Flow statistics on their way from table entries to the lane.
 *
 * A hit counts in the entry itself, in the cache line that the key comparison has just loaded. Adding to the flow's row of
 * the lane at once would touch a second cold line per packet: with 100 000 flows that is 50 ns of 120 (bench/stage/
 * megaflow-100k.ts). The worker's sweep carries the sums over to the lane a few times a second.
 *
 * ENTRY_TALLY holds packets << 12 | OR of TCP flags, ENTRY_BYTES bytes. Both stay under 2^30: a hit that passes it spills.
 */
import { FLOW_ROW } from '#contract/lane.ts';
import { ENTRY_BYTES, ENTRY_ID, ENTRY_TALLY, TALLY_ONE, TALLY_SHIFT } from './entry.ts';

const ROW = FLOW_ROW;
const ID = ENTRY_ID;
const TALLY = ENTRY_TALLY;
const BYTES = ENTRY_BYTES;
const SHIFT = TALLY_SHIFT;
const FLAGS = TALLY_ONE - 1;

export class FlowStats {
  readonly #rows: Float64Array;
  readonly #clock: Float64Array;

  /** @param rows the lane's flow rows; @param clock clock[0] = ms since the epoch, kept by the caller. */
  constructor(rows: Float64Array, clock: Float64Array) {
    this.#rows = rows;
    this.#clock = clock;
  }

  /** Adds an entry's sums to its flow's row and empties them. */
  spill(table: Int32Array, at: number): void {
    const tally = table[at + TALLY]!;
    if (tally === 0) return;
    const rows = this.#rows;
    const row = (table[at + ID]! - 1) * ROW;
    rows[row] = rows[row]! + (tally >>> SHIFT);
    rows[row + 1] = rows[row + 1]! + table[at + BYTES]!;
    rows[row + 2] = this.#clock[0]!;
    rows[row + 3] = rows[row + 3]! | (tally & FLAGS);
    table[at + TALLY] = 0;
    table[at + BYTES] = 0;
  }

  /** A new flow starts from nothing. */
  reset(id: number): void {
    this.#rows.fill(0, id * ROW, (id + 1) * ROW);
  }
}
