/**
 * Programs of installed megaflows (contract/actions.ts), in the form that the packet path wants.
 *
 * A flow's **verdict** is one word, kept beside its key so that a hit needs no further look-up: kind << 24 | argument.
 *
 * | kind | argument |
 * |---|---|
 * | VERDICT_OUTPUT | port: one output and nothing else |
 * | VERDICT_DROP | drop reason; bit 23: the program was empty |
 * | VERDICT_OUTPUTS | index of a program that edits nothing |
 * | VERDICT_EDITS | index of any other program: needs l3, l4 and W_TYPE of the packet |
 *
 * Programs of the last two kinds are kept once however many flows share them.
 */
import {
  ACTION_CLONE,
  ACTION_DEC_TTL,
  ACTION_DROP,
  ACTION_OUTPUT,
  ACTION_SET,
  checkProgram,
  drop,
  output,
} from '#contract/actions.ts';
import { dropReason } from '#contract/catalogue.ts';
import { KEY_WORDS } from '#contract/flow-key.ts';
import { MAX_PORTS } from '#contract/lane.ts';

export const VERDICT_NONE = 0;
export const VERDICT_OUTPUT = 1;
export const VERDICT_DROP = 2;
export const VERDICT_OUTPUTS = 3;
export const VERDICT_EDITS = 4;
const EMPTY_PROGRAM = 1 << 23;
const FLOW_DROP = dropReason('flow_drop');

interface Program {
  /** As it was put. */
  readonly words: Uint32Array;
  readonly text: string;
  flows: number;
}

export class Programs {
  /** What to run, by program index. */
  readonly code: Uint32Array[] = [];
  readonly #programs: (Program | undefined)[] = [];
  readonly #byText = new Map<string, number>();
  readonly #free: number[] = [];

  /** Takes the program words[at .. at + count - 1] for one flow. @returns its verdict. @throws RangeError when unsound. */
  add(words: ArrayLike<number>, at: number, count: number): number {
    if (count === 0) return (VERDICT_DROP << 24) | EMPTY_PROGRAM | FLOW_DROP;
    if (count === 2) {
      const operand = words[at + 1]!;
      if (words[at]! === output(0)[0] && operand < MAX_PORTS) return (VERDICT_OUTPUT << 24) | operand;
      if (words[at]! === drop(0)[0] && operand < 256) return (VERDICT_DROP << 24) | operand;
    }
    const own = new Uint32Array(count);
    for (let i = 0; i < count; i++) own[i] = words[at + i]!;
    const text = own.join();
    const known = this.#byText.get(text);
    if (known !== undefined) {
      this.#programs[known]!.flows++;
      return (kindOf(this.code[known]!) << 24) | known;
    }
    const fault = checkProgram(own, KEY_WORDS);
    if (fault !== undefined) throw new RangeError(fault);
    const index = this.#free.pop() ?? this.#programs.length;
    this.#programs[index] = { words: own, text, flows: 1 };
    this.code[index] = trim(own);
    this.#byText.set(text, index);
    return (kindOf(this.code[index]!) << 24) | index;
  }

  /** One flow less has this verdict. */
  release(verdict: number): void {
    if (verdict >>> 24 < VERDICT_OUTPUTS) return;
    const index = verdict & 0xffffff;
    const program = this.#programs[index]!;
    if (--program.flows > 0) return;
    this.#byText.delete(program.text);
    this.#programs[index] = undefined;
    this.code[index] = new Uint32Array(0);
    this.#free.push(index);
  }

  /** The program as it was put. */
  wordsOf(verdict: number): Uint32Array {
    const operand = verdict & 0xffffff;
    if (verdict >>> 24 === VERDICT_OUTPUT) return Uint32Array.from(output(operand));
    if (verdict >>> 24 === VERDICT_DROP) return Uint32Array.from(operand & EMPTY_PROGRAM ? [] : drop(operand));
    return this.#programs[operand]!.words;
  }

  clear(): void {
    this.code.length = 0;
    this.#programs.length = 0;
    this.#byText.clear();
    this.#free.length = 0;
  }
}

/** Leaves out edits that nothing shows: those behind the last action that can be seen. They would cost a copy. */
function trim(words: Uint32Array): Uint32Array {
  let end = 0;
  let inClone = 0;
  for (let at = 0; at < words.length; at += words[at]! & 0xffff) {
    const op = words[at]! >>> 16;
    if (op === ACTION_CLONE) inClone = at + 2 + words[at + 1]!;
    if (op === ACTION_OUTPUT || op === ACTION_DROP || op === ACTION_DEC_TTL || op >= ACTION_CLONE)
      end = at + (words[at]! & 0xffff);
    if (op === ACTION_DROP && at >= inClone) break;
  }
  return words.slice(0, end);
}

function kindOf(code: Uint32Array): number {
  for (let at = 0; at < code.length; at += code[at]! & 0xffff) {
    if (code[at]! >>> 16 >= ACTION_SET) return VERDICT_EDITS;
  }
  return VERDICT_OUTPUTS;
}
