/**
 * Prints actions as `ovs-ofctl -O OpenFlow13 dump-flows` does: whole fields are set by set_field, instructions keep their
 * names, and what sets a VLAN says whether it adds a tag. That depends on the match: see {@link formatActions13}.
 */
import { VLAN_PRESENT } from '#contract/flow-key.ts';
import { type Action, type LegacySetAction, legacySetFields, type SetFieldAction } from './actions.ts';
import { formatAction, formatLoads } from './actions-format.ts';
import { formatFieldValue } from './field-format.ts';
import { type Field, fieldOf } from './fields.ts';
import { type Match, matchedProtocol, prerequisites } from './match.ts';
import type { PortNames } from './ofp-port.ts';

const VLAN_VID = fieldOf('vlan_vid');
const VLAN_PCP = fieldOf('vlan_pcp');
const TRANSPORT: Readonly<Record<number, string>> = { 6: 'tcp', 17: 'udp', 132: 'sctp' };

/** Canonical text of the actions of a flow with this match; `drop` for no actions. */
export function formatActions13(actions: readonly Action[], match: Match, names?: PortNames): string {
  const texts: string[] = [];
  let tags = prerequisites.vlan.holds(match) ? 1 : 0;
  for (const action of actions) {
    if (action.kind === 'mod_vlan_vid' || action.kind === 'mod_vlan_pcp') {
      if (tags === 0) texts.push('push_vlan:0x8100');
      tags ||= 1;
      texts.push(
        action.kind === 'mod_vlan_vid'
          ? setText(VLAN_VID, BigInt(action.vid | VLAN_PRESENT))
          : setText(VLAN_PCP, BigInt(action.pcp)),
      );
    } else texts.push(formatOther(action, match, names));
    if (action.kind === 'push_vlan') tags++;
    if (action.kind === 'pop_vlan' && tags > 0) tags--;
  }
  return texts.join(',') || 'drop';
}

function formatOther(action: Action, match: Match, names?: PortNames): string {
  switch (action.kind) {
    case 'set_field':
      return formatSet(action, names);
    case 'legacy_set':
      return formatLegacy(action, match);
    case 'pop_vlan':
      return 'pop_vlan';
    case 'write_actions':
      return `write_actions(${formatActions13(action.actions, match, names)})`;
    default:
      return formatAction(action, names);
  }
}

/** `set_field:VALUE[/MASK]->FIELD` */
export const formatSetField = (
  { field, value, mask }: Pick<SetFieldAction, 'field' | 'value' | 'mask'>,
  names?: PortNames,
): string => `set_field:${formatFieldValue(field, value, mask, names)}->${field.name}`;

const setText = (field: Field, value: bigint): string => formatSetField({ field, value, mask: field.fullMask });

function formatSet(action: SetFieldAction, names?: PortNames): string {
  const { form, field, value, mask } = action;
  if (form === 'set_field' && mask === field.fullMask) return formatSetField(action, names);
  return formatLoads(field, value, mask).join(',');
}

function formatLegacy({ name, value }: LegacySetAction, match: Match): string {
  if (name === 'mod_nw_tos') return setText(fieldOf('ip_dscp'), value >> 2n);
  if (name === 'mod_nw_ttl') return `mod_nw_ttl:${value}`;
  const protocol = TRANSPORT[matchedProtocol(match)] ?? 'tcp';
  return setText(fieldOf(legacySetFields[name].replace('tcp', protocol)), value);
}
