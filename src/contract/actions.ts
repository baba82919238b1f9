/**
 * Datapath actions: what the data plane does with the packets of a megaflow.
 *
 * A program is a row of 32-bit words. Every action starts with a head word `op << 16 | words`, where `words` counts the
 * head itself, so that a reader may step over what it does not know. An empty program drops (reason `flow_drop`).
 * Actions run in order; an edit after an output does not change what was output.
 *
 * | op | operands | what it does |
 * |---|---|---|
 * | OUTPUT | port | send to the datapath port |
 * | DROP | reason | end here and count the drop reason (catalogue) |
 * | SET | word, value, mask | packet fields of key word `word` := value under mask; checksums follow |
 * | PUSH_VLAN | tpid << 16 or tci | push a tag (bit 12 of the TCI, "present", is not sent) |
 * | POP_VLAN | | remove the outer tag; no tag: no change |
 * | DEC_TTL | | decrement TTL or hop limit; at 0 or 1: end here, reason `ttl_exceeded` |
 */
export const ACTION_OUTPUT = 1;
export const ACTION_DROP = 2;
export const ACTION_SET = 3;
export const ACTION_PUSH_VLAN = 4;
export const ACTION_POP_VLAN = 5;
export const ACTION_DEC_TTL = 6;

/** Longest program, in words: an output with a tag edit to every port of a large bridge. */
export const MAX_ACTION_WORDS = 8192;

/** Words of each action, its head included; index = op. 0 = no such action. */
export const ACTION_WORDS: readonly number[] = [0, 2, 2, 4, 2, 1, 1];

const head = (op: number): number => ((op << 16) | ACTION_WORDS[op]!) >>> 0;

export const output = (port: number): number[] => [head(ACTION_OUTPUT), port];
export const drop = (reason: number): number[] => [head(ACTION_DROP), reason];
export const set = (word: number, value: number, mask: number): number[] => [
  head(ACTION_SET),
  word,
  (value & mask) >>> 0,
  mask >>> 0,
];
export const pushVlan = (tpid: number, tci: number): number[] => [
  head(ACTION_PUSH_VLAN),
  ((tpid << 16) | (tci & 0xffff)) >>> 0,
];
export const popVlan = (): number[] => [head(ACTION_POP_VLAN)];
export const decTtl = (): number[] => [head(ACTION_DEC_TTL)];

/**
 * Checks a program that came from outside: known actions, whole operands, no more than MAX_ACTION_WORDS.
 * @returns undefined when sound, else what is wrong and at which word.
 */
export function checkProgram(words: ArrayLike<number>, keyWords: number): string | undefined {
  if (words.length > MAX_ACTION_WORDS)
    return `program has ${words.length} words, at most ${MAX_ACTION_WORDS} are allowed`;
  for (let at = 0; at < words.length; ) {
    const op = words[at]! >>> 16;
    const size = words[at]! & 0xffff;
    if (op === 0 || op >= ACTION_WORDS.length) return `unknown action ${op} at word ${at}`;
    if (size !== ACTION_WORDS[op]) return `action ${op} at word ${at} has ${size} words, not ${ACTION_WORDS[op]}`;
    if (at + size > words.length) return `action ${op} at word ${at} is cut short`;
    if (op === ACTION_SET && words[at + 1]! >= keyWords)
      return `action set at word ${at} names key word ${words[at + 1]}`;
    at += size;
  }
  return undefined;
}
