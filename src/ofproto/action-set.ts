/** Action sets (OpenFlow 1.3 §5.10): what write_actions collects, and what a bucket holds. */
import type { Action } from './actions.ts';
import { OFPP_UNSET } from './ofp-port.ts';
import type { Translator } from './translate.ts';
import { runActions } from './translate-actions.ts';

/** Place of an action in an action set; those of one place replace each other, but sets and moves, which add up. */
const order = (action: Action): number => {
  switch (action.kind) {
    case 'pop_vlan':
      return 0;
    case 'push_vlan':
      return 1;
    case 'dec_ttl':
      return 2;
    case 'set_field':
    case 'legacy_set':
    case 'move':
    case 'mod_vlan_vid':
    case 'mod_vlan_pcp':
      return 3;
    case 'group':
      return 4;
    case 'output':
    case 'output_field':
    case 'controller':
    case 'resubmit':
      return 5;
    default:
      return -1;
  }
};

/** Actions of a set in the order in which they are run; a group goes before, and instead of, an output. */
export function orderActionSet(actions: readonly Action[]): Action[] {
  const places: Action[][] = [[], [], [], [], [], []];
  for (const action of actions) {
    const place = order(action);
    if (place === 3) places[3]!.push(action);
    else if (place >= 0) places[place] = [action];
  }
  if (places[4]!.length > 0) places[5] = [];
  return places.flat();
}

/** Port that an action set outputs to, as far as `actset_output` tells: OFPP_UNSET with a group or without an output. */
export function outputOfSet(set: readonly Action[]): number {
  const last = orderActionSet(set).at(-1);
  return last?.kind === 'output' ? last.port : OFPP_UNSET;
}

/** Runs the action set that the pipeline left. */
export function runActionSet(x: Translator): void {
  const set = orderActionSet(x.actionSet);
  x.actionSet = [];
  x.exited = false;
  runActions(x, set, true);
}
