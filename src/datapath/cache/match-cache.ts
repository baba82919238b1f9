// hot
/**
 * The match cache: which megaflow the packets of a connection hit last. Asked before the subtables of a port where a hit
 * would search several of them (PortFlows.cached).
 *
 * ## A hint, not a copy
 * An entry is 8 bytes: the hash of the packet's key under the union of the port's masks, and a flow id. The hit is then
 * proven against that megaflow's own entry. So nothing has to be invalidated: a flow that was deleted, replaced, moved by
 * growth, or that belongs to another port does not prove, and a wider or narrower union only changes hashes. Holding the
 * whole key instead (a true exact-match cache) costs eight times the memory and saves one cache line; with more flows than
 * entries, which is where a cache is hard pressed, the small entries win.
 *
 * Direct-mapped: with 1024 flows of 65 536 places about one in 64 shares its place with another, and falls back to the
 * subtables; ways would cost every packet a mispredicted branch.
 */
import { KEY_WORDS, W_NW_MISC } from '#contract/flow-key.ts';
import { ENTRY_KEY, ENTRY_VERDICT } from '../classifier/entry.ts';
import type { FlowTable } from '../classifier/flow-table.ts';
import { foundId, foundVerdict, pendingSlots } from '../classifier/found.ts';
import { HASH_SEED, hashFinish, hashWord } from '../classifier/hash.ts';
import { countHit } from '../classifier/lookup.ts';
import type { PortFlows } from '../classifier/port-flows.ts';
import { BURST, type PacketBatch } from '../packet/batch.ts';

const ROW = KEY_WORDS;
const MISC = W_NW_MISC;
const KEY = ENTRY_KEY;
const hit = countHit;
const ids = foundId;
const verdicts = foundVerdict;
const pending = pendingSlots;
const VERDICT = ENTRY_VERDICT;
const SEED = HASH_SEED;
const word = hashWord;
const finish = hashFinish;

/** Places; a power of two. */
export const CACHE_PLACES = 65_536;
const PLACES = CACHE_PLACES;

export class MatchCache {
  /** Pairs of hash and flow id + 1. */
  readonly #places = new Int32Array(PLACES * 2);
  /** Hash of each slot of the burst. */
  readonly #hashes = new Int32Array(BURST);

  /**
   * Looks up pending[0..count-1], like `lookup`.
   * @returns slots still pending; `insert` wants to know their results.
   */
  lookup(table: FlowTable, flows: PortFlows, batch: PacketBatch, count: number, tcpFlags: number): number {
    const keys = batch.keys;
    const stats = table.stats;
    const places = this.#places;
    const hashes = this.#hashes;
    const words = flows.compact.words;
    const bits = flows.compact.bits;
    const width = words.length;
    const seed = SEED ^ flows.port;
    for (let i = 0; i < count; i++) {
      const row = pending[i]! * ROW;
      let hash = seed;
      for (let w = 0; w < width; w += 4) {
        hash = word(hash, keys[row + words[w]!]! & bits[w]!);
        hash = word(hash, keys[row + words[w + 1]!]! & bits[w + 1]!);
        hash = word(hash, keys[row + words[w + 2]!]! & bits[w + 2]!);
        hash = word(hash, keys[row + words[w + 3]!]! & bits[w + 3]!);
      }
      hashes[pending[i]!] = finish(hash);
    }
    const subtables = table.subtables;
    const subtableOf = table.subtableOf;
    const home = table.home;
    const port = flows.port;
    let left = 0;
    for (let i = 0; i < count; i++) {
      const slot = pending[i]!;
      const hash = hashes[slot]!;
      const place = (hash & (PLACES - 1)) << 1;
      const id = places[place + 1]! - 1;
      if (places[place] === hash && id >= 0 && id < subtableOf.length && subtableOf[id]! >= 0) {
        const subtable = subtables[subtableOf[id]!]!;
        if (subtable.port === port) {
          const at = home[id]!;
          const entries = (at & 1) === subtable.parity ? subtable.table : subtable.old;
          if (proves(subtable.words, subtable.bits, entries, at >>> 1, keys, slot * ROW)) {
            ids[slot] = id;
            verdicts[slot] = entries[(at >>> 1) + VERDICT]!;
            subtable.hits++;
            subtable.touched = true;
            hit(batch, stats, entries, at >>> 1, slot, keys[slot * ROW + MISC]! & tcpFlags);
            continue;
          }
        }
      }
      pending[left++] = slot;
    }
    return left;
  }

  /** Remembers what a slot hit in the subtables after `lookup` did not find it. */
  insert(slot: number, id: number): void {
    const hash = this.#hashes[slot]!;
    const place = (hash & (PLACES - 1)) << 1;
    this.#places[place] = hash;
    this.#places[place + 1] = id + 1;
  }
}

/** Whether the packet's key, masked, is the entry's. */
const proves = (
  words: Int32Array,
  bits: Int32Array,
  entries: Int32Array,
  at: number,
  keys: Uint32Array,
  row: number,
): boolean => {
  const width = words.length;
  let differ = 0;
  for (let w = 0; w < width; w += 4) {
    differ |= (keys[row + words[w]!]! & bits[w]!) ^ entries[at + KEY + w]!;
    differ |= (keys[row + words[w + 1]!]! & bits[w + 1]!) ^ entries[at + KEY + w + 1]!;
    differ |= (keys[row + words[w + 2]!]! & bits[w + 2]!) ^ entries[at + KEY + w + 2]!;
    differ |= (keys[row + words[w + 3]!]! & bits[w + 3]!) ^ entries[at + KEY + w + 3]!;
  }
  return differ === 0;
};
