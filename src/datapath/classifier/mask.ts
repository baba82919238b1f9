/**
 * A mask in two forms: the whole row of key words, and the short list of words that a lookup reads and compares.
 *
 * The short list leaves out in_port (tables are per port) and pads to a multiple of LANE_WORDS with words whose mask is 0,
 * so that lookups work on whole groups without a test per word.
 */
import { KEY_WORDS, W_IN_PORT, W_RECIRC_ID } from '#contract/flow-key.ts';

/** Words compared at a time. */
export const GROUP = 4;

export class CompactMask {
  /** Key word numbers, padded. */
  readonly words: Int32Array;
  /** Their masks, 0 for padding. */
  readonly bits: Int32Array;
  /** Words that count; 0: matches everything. */
  readonly used: number;

  /** @param mask KEY_WORDS words. */
  constructor(mask: ArrayLike<number>) {
    const words: number[] = [];
    for (let word = 0; word < KEY_WORDS; word++) {
      if (word !== W_IN_PORT && mask[word] !== 0) words.push(word);
    }
    this.used = words.length;
    const width = Math.max(GROUP, Math.ceil(words.length / GROUP) * GROUP);
    // Padding reads word 1, which lies on the cache line of the words in use.
    this.words = new Int32Array(width).fill(W_RECIRC_ID);
    this.bits = new Int32Array(width);
    for (let i = 0; i < words.length; i++) {
      this.words[i] = words[i]!;
      this.bits[i] = mask[words[i]!]!;
    }
  }
}
