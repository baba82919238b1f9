/** An OpenFlow table: its rules in a classifier, and its lookup counters. */
import { Classifier } from './classifier.ts';
import type { Rule } from './rule.ts';

/** Tables 0..253; 254 and 255 are not for users, as in Open vSwitch. */
export const TABLES = 254;

/** Something that traffic is credited to; `used` is ms since the epoch. */
export interface Credit {
  packets: number;
  bytes: number;
  used: number;
}

export const newCredit = (): Credit => ({ packets: 0, bytes: 0, used: 0 });

export class Table {
  readonly id: number;
  readonly rules = new Classifier<Rule>();
  readonly lookups = newCredit();
  readonly matches = newCredit();

  constructor(id: number) {
    this.id = id;
  }
}
