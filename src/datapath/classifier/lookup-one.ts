// hot
/** Looks one packet up in one subtable: for packets that do not come in bursts (lookup.ts is for those that do). */
import { KEY_WORDS, W_NW_MISC } from '#contract/flow-key.ts';
import type { PacketBatch } from '../packet/batch.ts';
import { ENTRY_BYTES, ENTRY_KEY, ENTRY_TALLY, ENTRY_VERDICT, TALLY_FULL, TALLY_ONE } from './entry.ts';
import type { FlowStats } from './flow-stats.ts';
import { HASH_SEED, hashFinish, hashWord } from './hash.ts';
import type { Subtable } from './subtable.ts';

const ROW = KEY_WORDS;
const MISC = W_NW_MISC;
const KEY = ENTRY_KEY;
const VERDICT = ENTRY_VERDICT;
const SEED = HASH_SEED;
const word = hashWord;
const finish = hashFinish;
const TALLY = ENTRY_TALLY;
const BYTES = ENTRY_BYTES;
const FULL = TALLY_FULL;
const ONE = TALLY_ONE;

/**
 * @param flags bits of key word 11 that are TCP flags; 0 when that word is not parsed.
 * @returns the verdict of the megaflow hit, which is counted; 0 (VERDICT_NONE) when there is none.
 */
export const lookupOne = (
  subtable: Subtable,
  batch: PacketBatch,
  stats: FlowStats,
  slot: number,
  flags: number,
): number => {
  const keys = batch.keys;
  const row = slot * ROW;
  const words = subtable.words;
  const bits = subtable.bits;
  const width = subtable.width;
  let hash = SEED;
  for (let w = 0; w < width; w++) hash = word(hash, keys[row + words[w]!]! & bits[w]!);
  hash = finish(hash);
  let table = subtable.table;
  let at = rowOf(subtable, table, subtable.rowMask, keys, row, hash);
  if (at < 0 && subtable.draining) {
    table = subtable.old;
    at = rowOf(subtable, table, subtable.oldRowMask, keys, row, hash);
  }
  if (at < 0) return 0;
  subtable.hits++;
  subtable.touched = true;
  const tally = (table[at + TALLY]! + ONE) | (keys[row + MISC]! & flags);
  const sum = table[at + BYTES]! + batch.length[slot]!;
  table[at + TALLY] = tally;
  table[at + BYTES] = sum;
  if ((tally | sum) >= FULL) stats.spill(table, at);
  return table[at + VERDICT]!;
};

const rowOf = (
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
  const wrap = ((rowMask + 1) << shift) - 1;
  for (let at = (hash << shift) & wrap; table[at] !== 0; at = (at + (1 << shift)) & wrap) {
    let i = 0;
    while (i < width && table[at + KEY + i] === (keys[row + words[i]!]! & bits[i]!)) i++;
    if (i === width) return at;
  }
  return -1;
};
