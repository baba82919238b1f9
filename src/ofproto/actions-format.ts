/**
 * Prints actions as `ovs-ofctl dump-flows` does by default, that is in the terms of OpenFlow 1.0 with Nicira extensions:
 * set_field becomes mod_* or load, goto_table becomes resubmit. What Open vSwitch cannot say there (write_actions,
 * clear_actions, push_vlan, a masked set of an address) is printed in the syntax that the parser reads.
 */
import { VLAN_PRESENT } from '#contract/flow-key.ts';
import type { Action, ControllerAction, LegacySetName, ResubmitAction, SetFieldAction } from './actions.ts';
import { SAME_TABLE } from './actions-parse.ts';
import { formatIpv4, formatMac } from './field-format.ts';
import type { Field } from './fields.ts';
import { formatPort, OFPP_IN_PORT, OFPP_MAX, type PortNames } from './ofp-port.ts';
import { formatSubfield } from './subfield-parse.ts';
import { hex } from './text.ts';

/** Canonical text; `drop` for no actions. */
export function formatActions(actions: readonly Action[], names?: PortNames): string {
  if (actions.length === 0) return 'drop';
  const last = actions.at(-1)!;
  // After another instruction a resubmit would stand out of order.
  const plainGoto = actions.some(
    ({ kind }) => kind === 'write_metadata' || kind === 'write_actions' || kind === 'clear_actions',
  );
  const text = (action: Action): string =>
    action === last && action.kind === 'goto_table' && !plainGoto
      ? `resubmit(,${action.table})`
      : formatAction(action, names);
  return actions.map(text).join(',');
}

/** One action by itself. */
export function formatAction(action: Action, names?: PortNames): string {
  switch (action.kind) {
    case 'output':
      return formatOutput(action.port, action.maxLen, names);
    case 'output_field':
      return `output:${formatSubfield(action.source)}`;
    case 'controller':
      return formatController(action);
    case 'set_field':
      return formatSet(action).join(',');
    case 'legacy_set':
      return formatLegacy(action.name, action.value);
    case 'mod_vlan_vid':
      return `mod_vlan_vid:${action.vid}`;
    case 'mod_vlan_pcp':
      return `mod_vlan_pcp:${action.pcp}`;
    case 'pop_vlan':
      return 'strip_vlan';
    case 'push_vlan':
      return `push_vlan:${hex(action.ethertype)}`;
    case 'move':
      return `move:${formatSubfield(action.source)}->${formatSubfield(action.destination)}`;
    case 'dec_ttl':
      return action.controllerIds.length === 0 ? 'dec_ttl' : `dec_ttl(${action.controllerIds.join(',')})`;
    case 'resubmit':
      return formatResubmit(action, names);
    case 'group':
      return `group:${action.groupId}`;
    case 'note':
      return `note:${Array.from(action.data, (byte) => byte.toString(16).padStart(2, '0')).join('.')}`;
    case 'exit':
    case 'clear_actions':
      return action.kind;
    case 'write_actions':
      return `write_actions(${formatActions(action.actions, names)})`;
    case 'write_metadata': {
      const whole = action.mask === (1n << 64n) - 1n;
      return `write_metadata:${hex(action.value)}${whole ? '' : `/${hex(action.mask)}`}`;
    }
    case 'goto_table':
      return `goto_table:${action.table}`;
  }
}

function formatOutput(port: number, maxLen: number, names?: PortNames): string {
  const text = formatPort(port, names);
  if (maxLen) return `output(port=${text},max_len=${maxLen})`;
  return port < OFPP_MAX ? `output:${text}` : text;
}

function formatController({ maxLen, reason, controllerId }: ControllerAction): string {
  if (reason === 'action' && controllerId === 0) return `CONTROLLER:${maxLen}`;
  const parts: string[] = [];
  if (reason !== 'action') parts.push(`reason=${reason}`);
  if (maxLen !== 65535) parts.push(`max_len=${maxLen}`);
  if (controllerId !== 0) parts.push(`id=${controllerId}`);
  return `controller(${parts.join(',')})`;
}

function formatResubmit({ port, table }: ResubmitAction, names?: PortNames): string {
  if (table === SAME_TABLE) return `resubmit:${formatPort(port, names)}`;
  return `resubmit(${port === OFPP_IN_PORT ? '' : formatPort(port, names)},${table})`;
}

function formatLegacy(name: LegacySetName, value: bigint): string {
  switch (name) {
    case 'mod_dl_src':
    case 'mod_dl_dst':
      return `${name}:${formatMac(value)}`;
    case 'mod_nw_src':
    case 'mod_nw_dst':
      return `${name}:${formatIpv4(value)}`;
    case 'mod_nw_ecn':
      return `load:${hex(value)}->NXM_NX_IP_ECN[]`;
    case 'mod_nw_ttl':
      return `load:${hex(value)}->NXM_NX_IP_TTL[]`;
    default:
      return `${name}:${value}`;
  }
}

const LEGACY_FORMS: Readonly<Record<string, LegacySetName>> = {
  eth_src: 'mod_dl_src',
  eth_dst: 'mod_dl_dst',
  ip_src: 'mod_nw_src',
  ip_dst: 'mod_nw_dst',
  nw_tos: 'mod_nw_tos',
  tcp_src: 'mod_tp_src',
  tcp_dst: 'mod_tp_dst',
  udp_src: 'mod_tp_src',
  udp_dst: 'mod_tp_dst',
};

function formatSet({ form, field, value, mask }: SetFieldAction): string[] {
  if (form === 'load' || mask !== field.fullMask) return formatLoads(field, value, mask);
  const legacy = LEGACY_FORMS[field.name];
  if (legacy) return [formatLegacy(legacy, value)];
  switch (field.name) {
    case 'ip_dscp':
      return [`mod_nw_tos:${value << 2n}`];
    case 'vlan_vid':
      return [`mod_vlan_vid:${value & 0xfffn}`];
    case 'vlan_pcp':
      return [`mod_vlan_pcp:${value}`];
    case 'vlan_tci':
      return value & BigInt(VLAN_PRESENT)
        ? [`mod_vlan_vid:${value & 0xfffn}`, `mod_vlan_pcp:${value >> 13n}`]
        : ['strip_vlan'];
    default:
      return formatLoads(field, value, mask);
  }
}

/** One load for each run of mask bits, the lowest first; NXAST_REG_LOAD takes 64 bits at most. */
export function formatLoads(field: Field, value: bigint, mask: bigint, most = 64): string[] {
  const loads: string[] = [];
  const all = (1n << BigInt(field.subfieldBits)) - 1n;
  const wanted = mask === field.fullMask ? all : mask & all;
  for (let offset = 0; wanted >> BigInt(offset) !== 0n; ) {
    let bits = 0;
    while (bits < most && (wanted >> BigInt(offset + bits)) & 1n) bits++;
    if (bits > 0) {
      const part = (value >> BigInt(offset)) & ((1n << BigInt(bits)) - 1n);
      loads.push(`load:${hex(part)}->${formatSubfield({ field, offset, bits })}`);
    }
    offset += bits || 1;
  }
  return loads;
}
