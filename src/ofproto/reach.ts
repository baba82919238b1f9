/**
 * Which megaflows a rule may concern: those that visited its table and may hold packets of its match.
 *
 * A megaflow and a rule are strangers when they ask for different values of a bit that both look at. Words that an action
 * wrote before the lookup say nothing, and neither do registers, which a megaflow does not have.
 */
import { KEY_WORDS, W_IN_PORT } from '#contract/flow-key.ts';
import type { Bridge } from './bridge.ts';
import { editedBit } from './edit-state.ts';
import type { InstalledFlow, MaskClass, MegaflowTable } from './megaflow.ts';
import type { Rule } from './rule.ts';
import type { MatchWords } from './subtable.ts';

/** Bit of a table in InstalledFlow.tableBits. */
export const tableBit = (table: number): number => 1 << Math.min(table, 31);

export function* reachedBy(megaflows: MegaflowTable, bridge: Bridge, rule: Rule): Iterable<InstalledFlow> {
  const match = rule.match();
  const bit = tableBit(rule.table);
  for (const maskClass of megaflows.classes()) {
    if (maskClass.edited > 0 || match.masks[W_IN_PORT] !== 0xffff || !maskClass.isWithin(match.masks)) {
      yield* reachedIn(maskClass, bridge, bit, match);
      continue;
    }
    // The rule says all that these megaflows match: there is at most one of them.
    const key = match.values.slice(0, KEY_WORDS);
    key[W_IN_PORT] = bridge.portOf(match.values[W_IN_PORT]!)?.dpPort ?? 0;
    const flow = megaflows.find(maskClass, maskClass.keyHash(key), key);
    if (flow?.visits(bridge) && (flow.tableBits & bit) !== 0) yield flow;
  }
}

function reachedIn(
  { words, masks, flows }: MaskClass,
  bridge: Bridge,
  bit: number,
  match: MatchWords,
): InstalledFlow[] {
  const inMask = match.masks[W_IN_PORT]!;
  const inValue = match.values[W_IN_PORT]!;
  const at: number[] = [];
  const bits: number[] = [];
  for (let i = 0; i < words.length; i++) {
    const w = words[i]!;
    const common = w === W_IN_PORT ? 0 : masks[i]! & match.masks[w]!;
    if (common === 0) continue;
    at.push(w);
    bits.push(common);
  }
  const found: InstalledFlow[] = [];
  for (const head of flows.values()) {
    next: for (let flow: InstalledFlow | undefined = head; flow !== undefined; flow = flow.next) {
      if (!flow.visits(bridge) || (flow.tableBits & bit) === 0) continue;
      const edited = flow.editedWords;
      if (inMask !== 0 && (edited & 1) === 0 && ((flow.ofport ^ inValue) & inMask) !== 0) continue;
      for (let i = 0; i < at.length; i++) {
        const w = at[i]!;
        if ((edited & editedBit(w)) === 0 && ((flow.flow.key[w]! ^ match.values[w]!) & bits[i]!) !== 0) continue next;
      }
      found.push(flow);
    }
  }
  return found;
}
