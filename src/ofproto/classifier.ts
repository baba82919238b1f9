/**
 * The classifier of one OpenFlow table: tuple space search with priorities.
 *
 * Rules with the same mask share a subtable, a hash table over their masked words. A lookup walks the subtables from the
 * highest priority down and stops at the first whose best rule cannot beat what was found. It reports the bits it looked
 * at: a megaflow that matches those bits takes the same decision, so fewer bits are better. Three means keep them few:
 *
 * Priority order. Subtables below the hit are never looked at.
 *
 * Stages. The words of a subtable are ordered: port and registers, Ethernet, network, transport. A running hash is looked
 * up at the end of each stage; when no rule has it, the later stages are not looked at.
 *
 * Prefix tries. For nw_src and nw_dst the trie says after a few leading bits that no prefix of this subtable's length
 * covers the address.
 *
 * Keys are the 64-word OpenFlow keys of key.ts. Rules hold only the words that their subtable masks, as int32.
 */
import { W_NW_DST, W_NW_SRC } from '#contract/flow-key.ts';
import { PrefixTrie } from './prefix-trie.ts';
import { type Classified, type MatchWords, mix, STAGES, Subtable, WORDS } from './subtable.ts';

const equalAt = (key: Uint32Array, words: readonly number[], masks: readonly number[], values: readonly number[]) => {
  for (let i = 0; i < words.length; i++) if ((key[words[i]!]! & masks[i]!) !== values[i]!) return false;
  return true;
};

const sameValues = (a: readonly number[], b: readonly number[]): boolean => {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
};

export class Classifier<R extends Classified> {
  /** Ordered by falling maxPriority when `#sorted`. */
  #subtables: Subtable<R>[] = [];
  readonly #byMask = new Map<number, Subtable<R>[]>();
  readonly #src = new PrefixTrie();
  readonly #dst = new PrefixTrie();
  #sorted = true;
  size = 0;

  get subtables(): readonly Subtable<R>[] {
    this.#sort();
    return this.#subtables;
  }

  #sort(): void {
    if (this.#sorted) return;
    this.#subtables.sort((a, b) => b.maxPriority - a.maxPriority);
    this.#sorted = true;
  }

  #subtable(masks: Uint32Array, make: boolean): Subtable<R> | undefined {
    let h = 0;
    for (let w = 0; w < WORDS; w++) if (masks[w] !== 0) h = mix(mix(h, w), masks[w]!);
    let list = this.#byMask.get(h);
    if (list !== undefined) for (const subtable of list) if (subtable.hasMask(masks)) return subtable;
    if (!make) return undefined;
    const subtable = new Subtable<R>(masks, h);
    if (list === undefined) this.#byMask.set(h, (list = []));
    list.push(subtable);
    this.#subtables.push(subtable);
    this.#sorted = false;
    return subtable;
  }

  /** The rule with exactly this match and priority. */
  find(match: MatchWords, priority: number): R | undefined {
    const subtable = this.#subtable(match.masks, false);
    if (subtable === undefined) return undefined;
    const values = subtable.mask(match.values);
    let rule = subtable.rules.get(subtable.hash(values));
    while (rule !== undefined && (rule.priority !== priority || !sameValues(rule.values, values))) rule = rule.next;
    return rule;
  }

  /** Adds a rule; none with the same match and priority may be there. Sets its `subtable` and `values`. */
  insert(rule: R, match: MatchWords): void {
    const subtable = this.#subtable(match.masks, true)!;
    rule.subtable = subtable;
    rule.values = subtable.mask(match.values);
    this.#link(rule);
  }

  /** Adds a rule again that `remove` took out. */
  restore(rule: R): void {
    const masks = new Uint32Array(WORDS);
    for (let i = 0; i < rule.values.length; i++) masks[rule.subtable.words[i]!]! |= rule.subtable.masks[i]!;
    rule.subtable = this.#subtable(masks, true)!;
    this.#link(rule);
  }

  #link(rule: R): void {
    const subtable = rule.subtable as Subtable<R>;
    const hash = subtable.hash(rule.values);
    const head = subtable.rules.get(hash);
    if (head === undefined || head.priority <= rule.priority) {
      rule.next = head;
      subtable.rules.set(hash, rule);
    } else {
      let at = head;
      while (at.next !== undefined && at.next.priority > rule.priority) at = at.next;
      rule.next = at.next;
      at.next = rule;
    }
    subtable.countStages(rule.values, 1);
    subtable.priorities.set(rule.priority, (subtable.priorities.get(rule.priority) ?? 0) + 1);
    subtable.count++;
    this.size++;
    if (rule.priority > subtable.maxPriority) {
      subtable.maxPriority = rule.priority;
      this.#sorted = false;
    }
    if (subtable.srcPrefix > 0) {
      this.#src.insert(subtable.wordOf(rule.values, W_NW_SRC), subtable.srcPrefix);
    }
    if (subtable.dstPrefix > 0) {
      this.#dst.insert(subtable.wordOf(rule.values, W_NW_DST), subtable.dstPrefix);
    }
  }

  remove(rule: R): void {
    const subtable = rule.subtable as Subtable<R>;
    const hash = subtable.hash(rule.values);
    const head = subtable.rules.get(hash);
    if (head === rule) {
      if (rule.next === undefined) subtable.rules.delete(hash);
      else subtable.rules.set(hash, rule.next);
    } else {
      let at = head;
      while (at !== undefined && at.next !== rule) at = at.next;
      if (at === undefined) throw new RangeError('rule is not in this classifier');
      at.next = rule.next;
    }
    rule.next = undefined;
    subtable.countStages(rule.values, -1);
    subtable.count--;
    this.size--;
    if (subtable.srcPrefix > 0) {
      this.#src.remove(subtable.wordOf(rule.values, W_NW_SRC), subtable.srcPrefix);
    }
    if (subtable.dstPrefix > 0) {
      this.#dst.remove(subtable.wordOf(rule.values, W_NW_DST), subtable.dstPrefix);
    }
    if (subtable.count === 0) {
      this.#drop(subtable);
      return;
    }
    const left = subtable.priorities.get(rule.priority)! - 1;
    if (left > 0) {
      subtable.priorities.set(rule.priority, left);
      return;
    }
    subtable.priorities.delete(rule.priority);
    const max = subtable.maxPriority;
    subtable.lower();
    if (subtable.maxPriority !== max) this.#sorted = false;
  }

  #drop(subtable: Subtable<R>): void {
    this.#subtables.splice(this.#subtables.indexOf(subtable), 1);
    const list = this.#byMask.get(subtable.maskHash)!;
    list.splice(list.indexOf(subtable), 1);
    if (list.length === 0) this.#byMask.delete(subtable.maskHash);
  }

  /**
   * The rule of the highest priority that matches `key`; undefined at a table miss.
   * @param looked 64 words; the bits that decided are set in it (others stay as they are).
   */
  lookup(key: Uint32Array, looked: Uint32Array): R | undefined {
    this.#sort();
    let best: R | undefined;
    let bestPriority = -1;
    let srcKnown = false;
    let dstKnown = false;
    const subtables = this.#subtables;
    next: for (let s = 0; s < subtables.length; s++) {
      const subtable = subtables[s]!;
      if (subtable.maxPriority <= bestPriority) break;
      const words = subtable.words;
      const masks = subtable.masks;
      let h = 0;
      let i = 0;
      for (let stage = 0; stage < STAGES; stage++) {
        if (stage === 2) {
          const src = subtable.srcPrefix;
          if (src > 0) {
            if (!srcKnown) {
              this.#src.lookup(key[W_NW_SRC]!);
              srcKnown = true;
            }
            if ((this.#src.lengths & (1 << (src - 1))) === 0) {
              const bits = Math.min(src, this.#src.examined);
              if (bits > 0) looked[W_NW_SRC]! |= -1 << (32 - bits);
              lookAt(looked, words, masks, i);
              continue next;
            }
          }
          const dst = subtable.dstPrefix;
          if (dst > 0) {
            if (!dstKnown) {
              this.#dst.lookup(key[W_NW_DST]!);
              dstKnown = true;
            }
            if ((this.#dst.lengths & (1 << (dst - 1))) === 0) {
              const bits = Math.min(dst, this.#dst.examined);
              if (bits > 0) looked[W_NW_DST]! |= -1 << (32 - bits);
              lookAt(looked, words, masks, i);
              continue next;
            }
          }
        }
        const end = subtable.ends[stage]!;
        for (; i < end; i++) h = mix(h, key[words[i]!]! & masks[i]!);
        const partial = subtable.partial[stage];
        if (partial !== undefined && !partial.has(h)) {
          lookAt(looked, words, masks, i);
          continue next;
        }
      }
      lookAt(looked, words, masks, i);
      let rule = subtable.rules.get(h);
      while (rule !== undefined && rule.priority > bestPriority) {
        if (equalAt(key, words, masks, rule.values)) {
          best = rule;
          bestPriority = rule.priority;
          break;
        }
        rule = rule.next;
      }
    }
    return best;
  }

  /** Calls `visit` with every rule whose match is at least as specific as `criteria` (OpenFlow's loose matching). */
  forEachWithin(criteria: MatchWords, visit: (rule: R) => void): void {
    const words: number[] = [];
    for (let w = 0; w < WORDS; w++) if (criteria.masks[w] !== 0) words.push(w);
    for (const subtable of [...this.#subtables]) {
      const own = new Int32Array(WORDS);
      for (let i = 0; i < subtable.words.length; i++) own[subtable.words[i]!]! |= subtable.masks[i]!;
      if (words.some((w) => (own[w]! & criteria.masks[w]!) !== (criteria.masks[w]! | 0))) continue;
      if (subtable.hasMask(criteria.masks)) {
        const values = subtable.mask(criteria.values);
        let rule = subtable.rules.get(subtable.hash(values));
        for (; rule !== undefined; ) {
          const next: R | undefined = rule.next;
          if (sameValues(rule.values, values)) visit(rule);
          rule = next;
        }
        continue;
      }
      const at: number[] = [];
      for (let i = 0; i < subtable.words.length; i++) if (words.includes(subtable.words[i]!)) at.push(i);
      for (const head of words.length === 0 ? subtable.rules.values() : [...subtable.rules.values()]) {
        let rule: R | undefined = head;
        while (rule !== undefined) {
          const next: R | undefined = rule.next;
          let within = true;
          for (const i of at) {
            const mask = criteria.masks[subtable.words[i]!]! & subtable.masks[i]!;
            if ((rule.values[i]! & mask) !== (criteria.values[subtable.words[i]!]! & mask)) {
              within = false;
              break;
            }
          }
          if (within) visit(rule);
          rule = next;
        }
      }
    }
  }

  /** A rule of this priority that some packet could match together with `match`; `match`'s own equal is one too. */
  findOverlap(match: MatchWords, priority: number): R | undefined {
    for (const subtable of this.#subtables) {
      if (!subtable.priorities.has(priority)) continue;
      const covered = subtable.words.every((w, i) => (match.masks[w]! & subtable.masks[i]!) === subtable.masks[i]!);
      if (covered) {
        const values = subtable.mask(match.values);
        let rule = subtable.rules.get(subtable.hash(values));
        for (; rule !== undefined; rule = rule.next) {
          if (rule.priority === priority && sameValues(rule.values, values)) return rule;
        }
        continue;
      }
      for (const head of subtable.rules.values()) {
        for (let rule: R | undefined = head; rule !== undefined; rule = rule.next) {
          if (rule.priority === priority && overlaps(rule, match)) return rule;
        }
      }
    }
    return undefined;
  }

  *[Symbol.iterator](): Iterator<R> {
    for (const subtable of this.subtables) {
      for (const head of subtable.rules.values()) {
        for (let rule: R | undefined = head; rule !== undefined; rule = rule.next) yield rule;
      }
    }
  }
}

const lookAt = (looked: Uint32Array, words: readonly number[], masks: readonly number[], end: number): void => {
  for (let i = 0; i < end; i++) looked[words[i]!]! |= masks[i]!;
};

const overlaps = (rule: Classified, match: MatchWords): boolean => {
  const { words, masks } = rule.subtable;
  for (let i = 0; i < words.length; i++) {
    const w = words[i]!;
    if (((match.values[w]! ^ rule.values[i]!) & match.masks[w]! & masks[i]!) !== 0) return false;
  }
  return true;
};
