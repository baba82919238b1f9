/** Whether actions fit the match of their flow: OpenFlow 1.5 §6.4, "prerequisite" of set-field and of actions. */
import { VLAN_PRESENT, W_VLAN } from '#contract/flow-key.ts';
import type { Action, LegacySetName } from './actions.ts';
import { RequestError } from './api.ts';
import type { Field, PrerequisiteName } from './fields.ts';
import { type Match, prerequisites } from './match.ts';

/**
 * @param table table of the flow; goto_table must go up.
 * @throws RequestError OFPBAC_MATCH_INCONSISTENT or OFPBIC_BAD_TABLE_ID.
 */
export function checkActions(actions: readonly Action[], match: Match, table: number): void {
  checkList(actions, match, table, (match.values[W_VLAN]! & match.masks[W_VLAN]! & VLAN_PRESENT) === 0 ? 0 : 1);
}

function checkList(actions: readonly Action[], match: Match, table: number, tags: number): void {
  const need = (what: string, names: readonly PrerequisiteName[]): void => {
    if (names.some((name) => (name === 'vlan' ? tags > 0 : prerequisites[name].holds(match)))) return;
    const fix = names.map((name) => prerequisites[name].fix).join(' or ');
    throw inconsistent('OFPBAC_MATCH_INCONSISTENT', `${what} needs ${fix} in the match`);
  };
  const field = (what: string, { name, prerequisite }: Field): void => {
    if (prerequisite !== 'none') need(`${what} ${name}`, [prerequisite]);
  };
  for (const action of actions) {
    switch (action.kind) {
      case 'set_field':
        field(action.form, action.field);
        if (action.field.name === 'vlan_tci' && action.value & BigInt(VLAN_PRESENT)) tags ||= 1;
        break;
      case 'move':
        field('move from', action.source.field);
        field('move to', action.destination.field);
        break;
      case 'output_field':
        field('output', action.source.field);
        break;
      case 'legacy_set': {
        const names = legacyNeeds[action.name];
        if (names) need(action.name, names);
        break;
      }
      case 'dec_ttl':
        need('dec_ttl', ['ip']);
        break;
      case 'push_vlan':
        tags++;
        break;
      case 'mod_vlan_vid':
      case 'mod_vlan_pcp':
        tags ||= 1;
        break;
      case 'pop_vlan':
        if (tags > 0) tags--;
        break;
      case 'goto_table':
        if (action.table <= table) {
          throw inconsistent('OFPBIC_BAD_TABLE_ID', `goto_table:${action.table} must go to a table above ${table}`);
        }
        break;
      case 'write_actions':
        checkList(action.actions, match, table, tags);
        break;
    }
  }
}

const legacyNeeds: Readonly<Partial<Record<LegacySetName, readonly PrerequisiteName[]>>> = {
  mod_nw_src: ['ipv4'],
  mod_nw_dst: ['ipv4'],
  mod_nw_tos: ['ip'],
  mod_nw_ecn: ['ip'],
  mod_nw_ttl: ['ip'],
  mod_tp_src: ['tcp', 'udp', 'sctp'],
  mod_tp_dst: ['tcp', 'udp', 'sctp'],
};

const inconsistent = (code: string, hint: string): RequestError =>
  new RequestError(code, `actions are invalid with specified match (${code})`, { field: 'actions', hint });
