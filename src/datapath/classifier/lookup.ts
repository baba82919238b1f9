// hot
/**
 * Looks the packets of a burst up in one subtable.
 *
 * ## Two passes
 * The first pass masks and hashes all packets, the second compares. The second pass is short and its loads depend on
 * nothing but the first, so the processor has the table rows of many packets in flight at once: with 100 000 flows the
 * cache misses of a burst overlap instead of adding up.
 *
 * ## Runs
 * Packets in a row with the same masked key, as bursts of one flow have them, are one run: hashed, searched and counted once.
 *
 * ## Groups of four words
 * Words and masks are read into locals four at a time and compared without a branch per word; there is one body for masks
 * of up to 4 words, one for up to 8, and a loop for the rest.
 */
import { KEY_WORDS, W_NW_MISC } from '#contract/flow-key.ts';
import { BURST, type PacketBatch } from '../packet/batch.ts';
import { ENTRY_BYTES, ENTRY_KEY, ENTRY_TALLY, ENTRY_VERDICT, TALLY_FULL, TALLY_ONE } from './entry.ts';
import type { FlowStats } from './flow-stats.ts';
import { foundId, foundVerdict, pendingSlots, runFlags, runPackets } from './found.ts';
import { HASH_SEED, hashFinish, hashWord } from './hash.ts';
import type { Subtable } from './subtable.ts';

const ROW = KEY_WORDS;
const MISC = W_NW_MISC;
const KEY = ENTRY_KEY;
const VERDICT = ENTRY_VERDICT;
const TALLY = ENTRY_TALLY;
const BYTES = ENTRY_BYTES;
const ONE = TALLY_ONE;
const FULL = TALLY_FULL;
const ids = foundId;
const verdicts = foundVerdict;
const pending = pendingSlots;
const packets = runPackets;
const tcpFlags = runFlags;
const SEED = HASH_SEED;
const word = hashWord;
const finish = hashFinish;

/**
 * Counts the hit of a run in its entry. @param leader its slot; @param flags TCP flags of the leader's packet.
 */
export const countHit = (
  batch: PacketBatch,
  stats: FlowStats,
  table: Int32Array,
  at: number,
  leader: number,
  flags: number,
): void => {
  const tally = (table[at + TALLY]! + packets[leader]! * ONE) | flags | tcpFlags[leader]!;
  const sum = table[at + BYTES]! + batch.runBytes[leader]!;
  table[at + TALLY] = tally;
  table[at + BYTES] = sum;
  if ((tally | sum) >= FULL) stats.spill(table, at);
};
const hit = countHit;

/** Masked key words of each run, its hash, and where in `pending` it begins; one more marks the end of the last. */
const masked = new Int32Array(BURST * 8);
const hashes = new Int32Array(BURST);
const begins = new Int32Array(BURST + 1);

/**
 * Looks up pending[0..count-1]; hits are counted and written to found.ts, the others stay pending, in order.
 * @param flags bits of key word 11 that are TCP flags; 0 when that word is not parsed. @returns slots still pending.
 */
export const lookup = (
  subtable: Subtable,
  batch: PacketBatch,
  stats: FlowStats,
  count: number,
  flags: number,
): number => {
  let left = 0;
  if (subtable.width === 4) left = lookup4(subtable, batch, stats, count, flags);
  else if (subtable.width === 8) left = lookup8(subtable, batch, stats, count, flags);
  else left = lookupWide(subtable, batch, stats, count, flags);
  if (left < count) {
    subtable.hits += count - left;
    subtable.touched = true;
  }
  return left;
};

const lookup4 = (subtable: Subtable, batch: PacketBatch, stats: FlowStats, count: number, flags: number): number => {
  const keys = batch.keys;
  const sums = batch.runBytes;
  const words = subtable.words;
  const bits = subtable.bits;
  const w0 = words[0]!;
  const w1 = words[1]!;
  const w2 = words[2]!;
  const w3 = words[3]!;
  const m0 = bits[0]!;
  const m1 = bits[1]!;
  const m2 = bits[2]!;
  const m3 = bits[3]!;
  let runs = 0;
  let p0 = 0;
  let p1 = 0;
  let p2 = 0;
  let p3 = 0;
  for (let i = 0; i < count; i++) {
    const row = pending[i]! * ROW;
    const k0 = keys[row + w0]! & m0;
    const k1 = keys[row + w1]! & m1;
    const k2 = keys[row + w2]! & m2;
    const k3 = keys[row + w3]! & m3;
    if (runs !== 0 && ((k0 ^ p0) | (k1 ^ p1) | (k2 ^ p2) | (k3 ^ p3)) === 0) continue;
    p0 = k0;
    p1 = k1;
    p2 = k2;
    p3 = k3;
    const to = runs << 2;
    masked[to] = k0;
    masked[to + 1] = k1;
    masked[to + 2] = k2;
    masked[to + 3] = k3;
    hashes[runs] = finish(word(word(word(word(SEED, k0), k1), k2), k3));
    begins[runs] = i;
    runs++;
  }
  begins[runs] = count;
  const table = subtable.table;
  const wrap = ((subtable.rowMask + 1) << 3) - 1;
  const draining = subtable.draining;
  let left = 0;
  for (let run = 0; run < runs; run++) {
    const from = run << 2;
    const begin = begins[run]!;
    const end = begins[run + 1]!;
    const k0 = masked[from]!;
    const k1 = masked[from + 1]!;
    const k2 = masked[from + 2]!;
    const k3 = masked[from + 3]!;
    let at = (hashes[run]! << 3) & wrap;
    let id = table[at]!;
    while (
      id !== 0 &&
      ((table[at + KEY]! ^ k0) |
        (table[at + KEY + 1]! ^ k1) |
        (table[at + KEY + 2]! ^ k2) |
        (table[at + KEY + 3]! ^ k3)) !==
        0
    ) {
      at = (at + 8) & wrap;
      id = table[at]!;
    }
    if (id !== 0) {
      const verdict = table[at + VERDICT]!;
      let bytes = table[at + BYTES]!;
      let hits = 0;
      let bits = 0;
      for (let i = begin; i < end; i++) {
        const slot = pending[i]!;
        hits += packets[slot]!;
        bytes += sums[slot]!;
        bits |= keys[slot * ROW + MISC]! | tcpFlags[slot]!;
        ids[slot] = id - 1;
        verdicts[slot] = verdict;
      }
      const tally = (table[at + TALLY]! + hits * ONE) | (bits & flags);
      table[at + TALLY] = tally;
      table[at + BYTES] = bytes;
      if ((tally | bytes) >= FULL) stats.spill(table, at);
      continue;
    }
    const old = draining ? oldRow(subtable, from, hashes[run]!) : -1;
    for (let i = begin; i < end; i++) {
      const slot = pending[i]!;
      if (old >= 0) {
        ids[slot] = subtable.old[old]! - 1;
        verdicts[slot] = subtable.old[old + VERDICT]!;
        hit(batch, stats, subtable.old, old, slot, keys[slot * ROW + MISC]! & flags);
      } else {
        ids[slot] = -1;
        pending[left++] = slot;
      }
    }
  }
  return left;
};

const lookup8 = (subtable: Subtable, batch: PacketBatch, stats: FlowStats, count: number, flags: number): number => {
  const keys = batch.keys;
  const sums = batch.runBytes;
  const words = subtable.words;
  const bits = subtable.bits;
  const w0 = words[0]!;
  const w1 = words[1]!;
  const w2 = words[2]!;
  const w3 = words[3]!;
  const w4 = words[4]!;
  const w5 = words[5]!;
  const w6 = words[6]!;
  const w7 = words[7]!;
  const m0 = bits[0]!;
  const m1 = bits[1]!;
  const m2 = bits[2]!;
  const m3 = bits[3]!;
  const m4 = bits[4]!;
  const m5 = bits[5]!;
  const m6 = bits[6]!;
  const m7 = bits[7]!;
  let runs = 0;
  for (let i = 0; i < count; i++) {
    const row = pending[i]! * ROW;
    const k0 = keys[row + w0]! & m0;
    const k1 = keys[row + w1]! & m1;
    const k2 = keys[row + w2]! & m2;
    const k3 = keys[row + w3]! & m3;
    const k4 = keys[row + w4]! & m4;
    const k5 = keys[row + w5]! & m5;
    const k6 = keys[row + w6]! & m6;
    const k7 = keys[row + w7]! & m7;
    // The run before, if any, stands right before this one's place.
    const last = (runs - 1) << 3;
    if (
      runs !== 0 &&
      ((k0 ^ masked[last]!) |
        (k1 ^ masked[last + 1]!) |
        (k2 ^ masked[last + 2]!) |
        (k3 ^ masked[last + 3]!) |
        (k4 ^ masked[last + 4]!) |
        (k5 ^ masked[last + 5]!) |
        (k6 ^ masked[last + 6]!) |
        (k7 ^ masked[last + 7]!)) ===
        0
    ) {
      continue;
    }
    const to = runs << 3;
    masked[to] = k0;
    masked[to + 1] = k1;
    masked[to + 2] = k2;
    masked[to + 3] = k3;
    masked[to + 4] = k4;
    masked[to + 5] = k5;
    masked[to + 6] = k6;
    masked[to + 7] = k7;
    hashes[runs] = finish(word(word(word(word(word(word(word(word(SEED, k0), k1), k2), k3), k4), k5), k6), k7));
    begins[runs] = i;
    runs++;
  }
  begins[runs] = count;
  const table = subtable.table;
  const wrap = ((subtable.rowMask + 1) << 4) - 1;
  const draining = subtable.draining;
  let left = 0;
  for (let run = 0; run < runs; run++) {
    const from = run << 3;
    const begin = begins[run]!;
    const end = begins[run + 1]!;
    let at = (hashes[run]! << 4) & wrap;
    let id = table[at]!;
    while (
      id !== 0 &&
      ((table[at + KEY]! ^ masked[from]!) |
        (table[at + KEY + 1]! ^ masked[from + 1]!) |
        (table[at + KEY + 2]! ^ masked[from + 2]!) |
        (table[at + KEY + 3]! ^ masked[from + 3]!) |
        (table[at + KEY + 4]! ^ masked[from + 4]!) |
        (table[at + KEY + 5]! ^ masked[from + 5]!) |
        (table[at + KEY + 6]! ^ masked[from + 6]!) |
        (table[at + KEY + 7]! ^ masked[from + 7]!)) !==
        0
    ) {
      at = (at + 16) & wrap;
      id = table[at]!;
    }
    if (id !== 0) {
      const verdict = table[at + VERDICT]!;
      let bytes = table[at + BYTES]!;
      let hits = 0;
      let bits = 0;
      for (let i = begin; i < end; i++) {
        const slot = pending[i]!;
        hits += packets[slot]!;
        bytes += sums[slot]!;
        bits |= keys[slot * ROW + MISC]! | tcpFlags[slot]!;
        ids[slot] = id - 1;
        verdicts[slot] = verdict;
      }
      const tally = (table[at + TALLY]! + hits * ONE) | (bits & flags);
      table[at + TALLY] = tally;
      table[at + BYTES] = bytes;
      if ((tally | bytes) >= FULL) stats.spill(table, at);
      continue;
    }
    const old = draining ? oldRow(subtable, from, hashes[run]!) : -1;
    for (let i = begin; i < end; i++) {
      const slot = pending[i]!;
      if (old >= 0) {
        ids[slot] = subtable.old[old]! - 1;
        verdicts[slot] = subtable.old[old + VERDICT]!;
        hit(batch, stats, subtable.old, old, slot, keys[slot * ROW + MISC]! & flags);
      } else {
        ids[slot] = -1;
        pending[left++] = slot;
      }
    }
  }
  return left;
};

/** The row of masked[from..] in the table before a growth, or -1. */
const oldRow = (subtable: Subtable, from: number, hash: number): number => {
  const table = subtable.old;
  const width = subtable.width;
  const size = 1 << subtable.shift;
  const wrap = ((subtable.oldRowMask + 1) << subtable.shift) - 1;
  for (let at = (hash << subtable.shift) & wrap; table[at] !== 0; at = (at + size) & wrap) {
    let i = 0;
    while (i < width && table[at + KEY + i] === masked[from + i]) i++;
    if (i === width) return at;
  }
  return -1;
};

/** Masks of more than 8 words: packets one by one, their masked words in the first row of `wide`. */
const lookupWide = (subtable: Subtable, batch: PacketBatch, stats: FlowStats, count: number, flags: number): number => {
  const keys = batch.keys;
  const words = subtable.words;
  const bits = subtable.bits;
  const width = subtable.width;
  for (let i = 0; i < count; i++) {
    const row = pending[i]! * ROW;
    let hash = SEED;
    for (let w = 0; w < width; w++) hash = word(hash, keys[row + words[w]!]! & bits[w]!);
    hashes[i] = finish(hash);
  }
  let left = 0;
  for (let i = 0; i < count; i++) {
    const slot = pending[i]!;
    let table = subtable.table;
    let at = wideRow(subtable, table, subtable.rowMask, keys, slot * ROW, hashes[i]!);
    if (at < 0 && subtable.draining) {
      table = subtable.old;
      at = wideRow(subtable, table, subtable.oldRowMask, keys, slot * ROW, hashes[i]!);
    }
    if (at < 0) {
      ids[slot] = -1;
      pending[left++] = slot;
    } else {
      ids[slot] = table[at]! - 1;
      verdicts[slot] = table[at + VERDICT]!;
      hit(batch, stats, table, at, slot, keys[slot * ROW + MISC]! & flags);
    }
  }
  return left;
};

const wideRow = (
  subtable: Subtable,
  table: Int32Array,
  rowMask: number,
  keys: Uint32Array,
  row: number,
  hash: number,
): number => {
  const words = subtable.words;
  const bits = subtable.bits;
  const width = subtable.width;
  const shift = subtable.shift;
  const size = 1 << shift;
  const wrap = ((rowMask + 1) << shift) - 1;
  for (let at = (hash << shift) & wrap; table[at] !== 0; at = (at + size) & wrap) {
    let i = 0;
    while (i < width && table[at + KEY + i] === (keys[row + words[i]!]! & bits[i]!)) i++;
    if (i === width) return at;
  }
  return -1;
};
