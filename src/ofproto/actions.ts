/**
 * OpenFlow actions and instructions as the tables hold them. Texts: actions-parse.ts, actions-format.ts; consistency with
 * the match: actions-check.ts; semantics: ovs-actions(7).
 */
import type { Field } from './fields.ts';
import type { Subfield, WordWrite } from './key.ts';
import { OFPP_CONTROLLER } from './ofp-port.ts';

/** Longest list of actions of a flow or bucket, nested ones included (OpenFlow bounds the list to 64 kB). */
export const MAX_ACTIONS = 1024;

/** Actions of OpenFlow 1.0 that set a field where the packet has it and else do nothing. */
export type LegacySetName =
  | 'mod_dl_src'
  | 'mod_dl_dst'
  | 'mod_nw_src'
  | 'mod_nw_dst'
  | 'mod_nw_tos'
  | 'mod_nw_ecn'
  | 'mod_nw_ttl'
  | 'mod_tp_src'
  | 'mod_tp_dst';

export interface OutputAction {
  readonly kind: 'output';
  /** 16-bit OpenFlow port number, reserved ones (ofp-port.ts) included; never OFPP_CONTROLLER or OFPP_NONE. */
  readonly port: number;
  /** Bytes to send at most; 0 = all. */
  readonly maxLen: number;
}

/** Output to the port that a field names. */
export interface OutputFieldAction {
  readonly kind: 'output_field';
  readonly source: Subfield;
}

export interface ControllerAction {
  readonly kind: 'controller';
  readonly maxLen: number;
  readonly reason: ControllerReason;
  readonly controllerId: number;
}
export type ControllerReason = 'no_match' | 'action' | 'invalid_ttl' | 'action_set' | 'group' | 'packet_out';

/** set_field and load: the bits `mask` of `field` become those of `value`. */
export interface SetFieldAction {
  readonly kind: 'set_field';
  /** `load` is kept apart since it is printed as it was given. */
  readonly form: 'set_field' | 'load';
  readonly field: Field;
  readonly value: bigint;
  readonly mask: bigint;
  /** The same, as changes of key words. */
  readonly writes: readonly WordWrite[];
}

/** mod_dl_src … mod_tp_dst. */
export interface LegacySetAction {
  readonly kind: 'legacy_set';
  readonly name: LegacySetName;
  readonly value: bigint;
  readonly writes: readonly WordWrite[];
}

/** Sets the VLAN ID, or adds a tag with it where there is none. */
export interface ModVlanVidAction {
  readonly kind: 'mod_vlan_vid';
  readonly vid: number;
}

/** Sets the VLAN priority, or adds a tag with it where there is none. */
export interface ModVlanPcpAction {
  readonly kind: 'mod_vlan_pcp';
  readonly pcp: number;
}

export interface PopVlanAction {
  readonly kind: 'pop_vlan';
}

export interface PushVlanAction {
  readonly kind: 'push_vlan';
  /** 0x8100 or 0x88a8 */
  readonly ethertype: number;
}

export interface MoveAction {
  readonly kind: 'move';
  readonly source: Subfield;
  readonly destination: Subfield;
}

export interface DecTtlAction {
  readonly kind: 'dec_ttl';
  /** Controllers told of an expired TTL; empty: dec_ttl without a list. */
  readonly controllerIds: readonly number[];
}

export interface ResubmitAction {
  readonly kind: 'resubmit';
  /** in_port of the new lookup; OFPP_IN_PORT = the packet's. */
  readonly port: number;
  /** 255 = the table that the action is in. */
  readonly table: number;
}

export interface GroupAction {
  readonly kind: 'group';
  readonly groupId: number;
}

export interface NoteAction {
  readonly kind: 'note';
  readonly data: Uint8Array;
}

export interface ExitAction {
  readonly kind: 'exit';
}

export interface ClearActionsInstruction {
  readonly kind: 'clear_actions';
}

export interface WriteActionsInstruction {
  readonly kind: 'write_actions';
  readonly actions: readonly Action[];
}

export interface WriteMetadataInstruction {
  readonly kind: 'write_metadata';
  readonly value: bigint;
  readonly mask: bigint;
}

export interface GotoTableInstruction {
  readonly kind: 'goto_table';
  readonly table: number;
}

export type Instruction =
  | ClearActionsInstruction
  | WriteActionsInstruction
  | WriteMetadataInstruction
  | GotoTableInstruction;

/** In the order of execution; instructions stand after all other actions, in the order of {@link Instruction}. Empty: drop. */
export type Action =
  | OutputAction
  | OutputFieldAction
  | ControllerAction
  | SetFieldAction
  | LegacySetAction
  | ModVlanVidAction
  | ModVlanPcpAction
  | PopVlanAction
  | PushVlanAction
  | MoveAction
  | DecTtlAction
  | ResubmitAction
  | GroupAction
  | NoteAction
  | ExitAction
  | Instruction;

/** Key field that a legacy action sets; mod_tp_* set the same words for TCP, UDP and SCTP. */
export const legacySetFields: Readonly<Record<LegacySetName, string>> = {
  mod_dl_src: 'eth_src',
  mod_dl_dst: 'eth_dst',
  mod_nw_src: 'ip_src',
  mod_nw_dst: 'ip_dst',
  mod_nw_tos: 'nw_tos',
  mod_nw_ecn: 'nw_ecn',
  mod_nw_ttl: 'nw_ttl',
  mod_tp_src: 'tcp_src',
  mod_tp_dst: 'tcp_dst',
};

/** Whether a list outputs to a port, or to a group (filters out_port and out_group; group references). */
export function outputsTo(actions: readonly Action[], kind: 'output' | 'group', target: number): boolean {
  return actions.some((action) => {
    if (action.kind === 'write_actions') return outputsTo(action.actions, kind, target);
    if (action.kind === 'output') return kind === 'output' && action.port === target;
    if (action.kind === 'controller') return kind === 'output' && target === OFPP_CONTROLLER;
    return action.kind === 'group' && kind === 'group' && action.groupId === target;
  });
}

/** Ids of the groups that a list refers to. */
export function groupsOf(actions: readonly Action[]): number[] {
  return actions.flatMap((action) => {
    if (action.kind === 'write_actions') return groupsOf(action.actions);
    return action.kind === 'group' ? [action.groupId] : [];
  });
}
