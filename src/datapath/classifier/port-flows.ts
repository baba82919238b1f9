/**
 * The megaflows of one in_port: subtables ranked by hits, and the union of their masks.
 *
 * Every megaflow matches in_port wholly (contract/records.ts), so a packet can only hit flows of its own port: tables are
 * per port, and what none of the port's masks covers is neither read nor hashed.
 */
import { KEY_WORDS, W_IN_PORT } from '#contract/flow-key.ts';
import { NEED_NOTHING, needOf, wordsOf } from '../parse/need.ts';
import { CompactMask } from './mask.ts';
import type { Subtable } from './subtable.ts';

/** Subtables a hit searches on average, in hundredths, from which on the match cache is asked first. */
const CACHE_FROM = 150;
/** A port with fewer hits since the last ranking keeps its order. */
const RANK_HITS = 64;

export class PortFlows {
  readonly port: number;
  /** Ranked: the most hit first. */
  readonly subtables: Subtable[] = [];
  /** OR of the compared masks, in_port left out. */
  readonly union = new Uint32Array(KEY_WORDS);
  /** What of a packet must be read (parse/need.ts). */
  need = NEED_NOTHING;
  /** Key words that any mask covers, a bit each. */
  words = 0;
  /** The union as the match cache hashes it. */
  compact = new CompactMask(this.union);
  /** One subtable, and it compares nothing: each packet of the port hits its one flow. */
  simple = false;
  /** Simple, and the flow edits nothing: frames need not be looked at. */
  untouched = false;
  /** Ask the match cache before the subtables. */
  cached = false;
  /** Bursts to come that are not searched for runs. */
  scattered = 0;
  /** Bursts since the last ranking. */
  bursts = 0;

  constructor(port: number) {
    this.port = port;
  }

  add(subtable: Subtable): void {
    this.subtables.push(subtable);
    this.#widen();
  }

  remove(subtable: Subtable): void {
    this.subtables.splice(this.subtables.indexOf(subtable), 1);
    this.#widen();
  }

  /** Sorts by hits and lets old hits weigh half. Allocates nothing. */
  rank(): void {
    const list = this.subtables;
    this.bursts = 0;
    let hits = 0;
    for (let i = 0; i < list.length; i++) hits += list[i]!.hits;
    if (hits < RANK_HITS) return;
    for (let i = 1; i < list.length; i++) {
      const moving = list[i]!;
      let at = i;
      for (; at > 0 && list[at - 1]!.hits < moving.hits; at--) list[at] = list[at - 1]!;
      list[at] = moving;
    }
    let searched = 0;
    for (let i = 0; i < list.length; i++) {
      searched += list[i]!.hits * (i + 1);
      list[i]!.hits >>>= 1;
    }
    this.cached = searched * 100 > hits * CACHE_FROM;
  }

  #widen(): void {
    this.union.fill(0);
    for (const subtable of this.subtables) {
      for (let i = 0; i < subtable.width; i++) {
        const word = subtable.words[i]!;
        this.union[word] = this.union[word]! | subtable.bits[i]!;
      }
    }
    this.union[W_IN_PORT] = 0;
    this.need = needOf(this.union);
    this.words = wordsOf(this.union);
    this.compact = new CompactMask(this.union);
    this.simple = this.subtables.length === 1 && this.compact.used === 0;
    this.untouched = false;
    if (this.subtables.length < 2) this.cached = false;
  }
}
