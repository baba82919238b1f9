/**
 * Prints actions as they are: every action in its own form, so that the text read again gives the same actions. For
 * storing flows and comparing them; OpenFlow versions lose or rewrite some (actions-format.ts, actions-format13.ts).
 */
import type { Action } from './actions.ts';
import { formatAction, formatActions, formatLoads } from './actions-format.ts';
import { formatSetField } from './actions-format13.ts';
import { formatIpv4, formatMac } from './field-format.ts';

/** `drop` for no actions. */
export const formatExactActions = (actions: readonly Action[]): string => actions.map(exact).join(',') || 'drop';

function exact(action: Action): string {
  switch (action.kind) {
    case 'set_field':
      return action.form === 'set_field'
        ? formatSetField(action)
        : formatLoads(action.field, action.value, action.mask, 128).join(',');
    case 'legacy_set': {
      const { name, value } = action;
      if (name === 'mod_dl_src' || name === 'mod_dl_dst') return `${name}:${formatMac(value)}`;
      return `${name}:${name === 'mod_nw_src' || name === 'mod_nw_dst' ? formatIpv4(value) : value}`;
    }
    case 'write_actions':
      return `write_actions(${formatExactActions(action.actions)})`;
    default:
      return formatAction(action);
  }
}

/**
 * One text for all lists of actions that do the same whatever form they are written in: for comparing. Unlike in
 * OpenFlow 1.0, goto_table and resubmit stay two things.
 */
export function canonicalActions(actions: readonly Action[]): string {
  const last = actions.at(-1);
  if (last?.kind !== 'goto_table') return formatActions(actions);
  const before = actions.length > 1 ? `${formatActions(actions.slice(0, -1))},` : '';
  return `${before}${formatAction(last)}`;
}
