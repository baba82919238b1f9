/**
 * A subtable of the classifier: the rules of one table that share a mask, hashed over their masked words.
 */
import { W_NW_DST, W_NW_MISC, W_NW_SRC, W_TP, W_TYPE } from '#contract/flow-key.ts';
import { OF_KEY_WORDS } from './key.ts';
import { prefixLength } from './prefix-trie.ts';

/** Words of an OpenFlow-level key. */
export const WORDS = OF_KEY_WORDS;
export const STAGES = 4;

/** What the classifier needs of a rule; Rule implements it. */
export interface Classified {
  readonly priority: number;
  subtable: Subtable<this>;
  /** Masked values in the order of `subtable.words`, as int32. */
  values: number[];
  /** Next of the same hash, of the same or a lower priority. */
  next: this | undefined;
}

/** Values and masks, each WORDS words (match.ts). */
export interface MatchWords {
  readonly values: Uint32Array;
  readonly masks: Uint32Array;
}

export const mix = (hash: number, word: number): number => {
  let k = Math.imul(word, 0xcc9e2d51);
  k = (k << 15) | (k >>> 17);
  const h = hash ^ Math.imul(k, 0x1b873593);
  return (Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64) | 0;
};

/** Stage in which each key word's upper and lower half is looked at. */
const stageOf = (word: number, lower: boolean): number => {
  if (word < 2 || word >= 32) return 0;
  if (word < W_TYPE || (word === W_TYPE && !lower)) return 1;
  if (word === W_TP || (word === W_NW_MISC && lower)) return 3;
  return 2;
};

/** Words whose halves belong to different stages. */
const SPLIT = [W_TYPE, W_NW_MISC];

export class Subtable<R extends Classified> {
  /** Key words, ordered by stage, and the int32 mask of each. A word may stand twice, with different bits. */
  readonly words: number[] = [];
  readonly masks: number[] = [];
  /** End of each stage in `words`. */
  readonly ends: number[] = [];
  /** Running hash at the end of a stage → rules that have it; only where a later stage follows. */
  readonly partial: (Map<number, number> | undefined)[] = [];
  readonly rules = new Map<number, R>();
  readonly priorities = new Map<number, number>();
  readonly maskHash: number;
  /** Prefix length of nw_src and nw_dst where the mask is a prefix, else 0. */
  readonly srcPrefix: number;
  readonly dstPrefix: number;
  /** No rule here has a higher priority (it may be higher than any, see `lower`). */
  maxPriority = -1;
  count = 0;
  #stale = 0;

  constructor(masks: Uint32Array, maskHash: number) {
    this.maskHash = maskHash;
    for (let stage = 0; stage < STAGES; stage++) {
      for (let word = 0; word < WORDS; word++) {
        const mask = masks[word]! | 0;
        if (mask === 0) continue;
        const upper = mask & 0xffff0000;
        const lower = mask & 0xffff;
        if (!SPLIT.includes(word)) {
          if (stageOf(word, false) === stage) this.#push(word, mask);
        } else {
          if (upper !== 0 && stageOf(word, false) === stage) this.#push(word, upper);
          if (lower !== 0 && stageOf(word, true) === stage) this.#push(word, lower);
        }
      }
      this.ends.push(this.words.length);
    }
    for (let stage = 0; stage < STAGES; stage++) {
      const start = stage === 0 ? 0 : this.ends[stage - 1]!;
      const end = this.ends[stage]!;
      this.partial.push(end > start && end < this.words.length ? new Map() : undefined);
    }
    this.srcPrefix = Math.max(0, prefixLength(masks[W_NW_SRC]!));
    this.dstPrefix = Math.max(0, prefixLength(masks[W_NW_DST]!));
  }

  #push(word: number, mask: number): void {
    this.words.push(word);
    this.masks.push(mask);
  }

  hasMask(masks: Uint32Array): boolean {
    const words = this.words;
    const own = this.masks;
    let bits = 0;
    for (let i = 0; i < words.length; i++) {
      if ((masks[words[i]!]! & own[i]!) !== own[i]!) return false;
      bits += popcount(own[i]!);
    }
    for (let w = 0; w < WORDS; w++) if (masks[w] !== 0) bits -= popcount(masks[w]!);
    return bits === 0;
  }

  /** Masked words of a key in this subtable's order. */
  mask(key: Uint32Array): number[] {
    const words = this.words;
    const masks = this.masks;
    const values = new Array<number>(words.length);
    for (let i = 0; i < words.length; i++) values[i] = key[words[i]!]! & masks[i]!;
    return values;
  }

  /** Value of a key word under this mask, from a rule's values. */
  wordOf(values: readonly number[], word: number): number {
    let value = 0;
    for (let i = 0; i < this.words.length; i++) if (this.words[i] === word) value |= values[i]!;
    return value;
  }

  hash(values: readonly number[]): number {
    let h = 0;
    for (let i = 0; i < values.length; i++) h = mix(h, values[i]!);
    return h;
  }

  countStages(values: readonly number[], step: number): void {
    let h = 0;
    let i = 0;
    for (let stage = 0; stage < STAGES - 1; stage++) {
      const end = this.ends[stage]!;
      for (; i < end; i++) h = mix(h, values[i]!);
      const map = this.partial[stage];
      if (map === undefined) continue;
      const count = (map.get(h) ?? 0) + step;
      if (count === 0) map.delete(h);
      else map.set(h, count);
    }
  }

  /**
   * Lowers `maxPriority` after a removal. With many priorities it waits until an eighth of the rules is gone: too high
   * a bound costs a few bits of megaflow width, looking for it on every removal would cost more.
   */
  lower(): void {
    this.#stale++;
    if (this.priorities.has(this.maxPriority)) return;
    if (this.priorities.size > 64 && this.#stale < this.count / 8) return;
    let max = -1;
    for (const priority of this.priorities.keys()) if (priority > max) max = priority;
    this.maxPriority = max;
    this.#stale = 0;
  }
}

const popcount = (v: number): number => {
  v -= (v >>> 1) & 0x55555555;
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
};
