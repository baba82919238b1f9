/**
 * Words of a subtable entry. What a hit reads and counts lies in one cache line for masks of up to 4 words (32 bytes) and
 * of up to 12 (64 bytes).
 */
/** Flow id + 1; 0 = free row. */
export const ENTRY_ID = 0;
/** actions/program.ts. */
export const ENTRY_VERDICT = 1;
/** Packets not yet in the lane << TALLY_SHIFT, OR of their TCP flags. */
export const ENTRY_TALLY = 2;
/** Bytes not yet in the lane. */
export const ENTRY_BYTES = 3;
/** Masked key words from here on. */
export const ENTRY_KEY = 4;

export const TALLY_SHIFT = 12;
export const TALLY_ONE = 1 << TALLY_SHIFT;
/** A tally or byte sum from here on is spilled at once. */
export const TALLY_FULL = 1 << 30;
