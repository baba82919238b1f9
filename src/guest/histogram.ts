// hot
/**
 * Latency histogram over shared memory: one writer counts, anybody reads percentiles.
 *
 * Buckets are log-linear, eight to a doubling, so that a percentile is right within about 9 %. Values are microseconds from
 * 0.1 on; the last bucket takes all above 400 s.
 */
const PER_DOUBLING = 8;
const LOWEST = 0.1;
const log2 = Math.log2;

/** Slots (float64) of a histogram. */
export const HISTOGRAM_SLOTS = 256;

/** Counts a value in microseconds. */
export const countLatency = (slots: Float64Array, base: number, micros: number): void => {
  let bucket = micros <= LOWEST ? 0 : Math.ceil(log2(micros / LOWEST) * PER_DOUBLING);
  if (bucket >= HISTOGRAM_SLOTS) bucket = HISTOGRAM_SLOTS - 1;
  slots[base + bucket]! += 1;
};

/** Adds up what was counted since `before`, a copy of the histogram at an earlier time. */
export const latencyCount = (slots: Float64Array, base: number, before?: Float64Array): number => {
  let count = 0;
  for (let i = 0; i < HISTOGRAM_SLOTS; i++) count += slots[base + i]! - (before ? before[i]! : 0);
  return count;
};

/**
 * The value in microseconds below which the share `quantile` (0 to 1) of all counts since `before` lies.
 * @returns NaN when nothing was counted.
 */
export const percentile = (slots: Float64Array, base: number, quantile: number, before?: Float64Array): number => {
  let left = latencyCount(slots, base, before) * quantile;
  if (left <= 0) return Number.NaN;
  for (let i = 0; i < HISTOGRAM_SLOTS; i++) {
    left -= slots[base + i]! - (before ? before[i]! : 0);
    if (left <= 0) return LOWEST * 2 ** (i / PER_DOUBLING);
  }
  return LOWEST * 2 ** (HISTOGRAM_SLOTS / PER_DOUBLING);
};
