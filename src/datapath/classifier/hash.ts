// hot
/**
 * The hash of masked key words. One multiply-and-fold round a word (the words arrive in a chain, so that no two of them
 * cancel out), one finishing round that brings the high bits down to the bits that pick a place in a table.
 * The seed is drawn at start: a guest cannot prepare addresses that collide.
 */
const K1 = 0x9e3779b1 | 0;
const K2 = 0x85ebca6b | 0;

/** Start value of every hash of this process. */
export const HASH_SEED = (Math.random() * 0x100000000) | 0;

export const hashWord = (hash: number, word: number): number => {
  const mixed = Math.imul(hash ^ word, K1);
  return mixed ^ (mixed >>> 15);
};

export const hashFinish = (hash: number): number => {
  const mixed = Math.imul(hash, K2);
  return mixed ^ (mixed >>> 16);
};
