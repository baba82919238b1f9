/**
 * An OpenFlow rule (a flow entry of a table): its match lives in the classifier, its counters are credited here.
 */
import type { Action } from './actions.ts';
import { type Classified, type MatchWords, type Subtable, WORDS } from './subtable.ts';

/** What a flow_mod gives a rule besides match and priority. */
export interface RuleBody {
  readonly cookie: bigint;
  /** Seconds; 0 = never. */
  readonly idleTimeout: number;
  readonly hardTimeout: number;
  readonly importance: number;
  readonly flags: readonly string[];
  readonly actions: readonly Action[];
}

const NO_VALUES: number[] = [];

export class Rule implements Classified {
  readonly table: number;
  readonly priority: number;
  subtable: Subtable<this>;
  values: number[] = NO_VALUES;
  next: this | undefined = undefined;

  cookie: bigint;
  idleTimeout: number;
  hardTimeout: number;
  importance: number;
  flags: readonly string[];
  actions: readonly Action[];

  /** Times in ms. */
  created: number;
  modified: number;
  used: number;
  packets = 0;
  bytes = 0;
  /** False once it is out of its table. */
  installed = false;

  constructor(table: number, priority: number, body: RuleBody, now: number) {
    this.table = table;
    this.priority = priority;
    this.subtable = undefined as unknown as Subtable<this>;
    this.cookie = body.cookie;
    this.idleTimeout = body.idleTimeout;
    this.hardTimeout = body.hardTimeout;
    this.importance = body.importance;
    this.flags = body.flags;
    this.actions = body.actions;
    this.created = now;
    this.modified = now;
    this.used = now;
  }

  /** Its match as values and masks of an OpenFlow key. @param into is overwritten and returned. */
  match(into: MatchWords = { values: new Uint32Array(WORDS), masks: new Uint32Array(WORDS) }): MatchWords {
    const { values, masks } = into;
    values.fill(0);
    masks.fill(0);
    const { words, masks: own } = this.subtable;
    for (let i = 0; i < words.length; i++) {
      values[words[i]!]! |= this.values[i]!;
      masks[words[i]!]! |= own[i]!;
    }
    return into;
  }
}
