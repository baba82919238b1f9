/** What each OpenFlow action does to a packet in translation (ovs-actions(7)). */
import { VLAN_PRESENT, W_IN_PORT, W_NW_MISC, W_VLAN } from '#contract/flow-key.ts';
import { outputOfSet } from './action-set.ts';
import type { Action } from './actions.ts';
import { fieldWrites, type Subfield, subfieldMask, W_ACTSET_OUTPUT, W_METADATA, type WordWrite } from './key.ts';
import { runNormal } from './normal.ts';
import {
  OFPP_ALL,
  OFPP_CONTROLLER,
  OFPP_FLOOD,
  OFPP_IN_PORT,
  OFPP_LOCAL,
  OFPP_NONE,
  OFPP_NORMAL,
  OFPP_TABLE,
  OFPP_UNSET,
} from './ofp-port.ts';
import { hasField, hasLegacyField, isIp, readPart } from './packet-fields.ts';
import type { OfPort } from './port.ts';
import type { Translator } from './translate.ts';
import { runGroup } from './translate-groups.ts';
import { outputTunnel, terminate } from './translate-tunnel.ts';

/** Actions that one packet may run, so that no flow table keeps the control plane busy for long. */
const MAX_ACTIONS_RUN = 65_536;
const SAME_TABLE = 255;
const TTL_MASK = 0x00ff0000;

/** Runs a list in order. @param tail nothing else of the pipeline runs after it. */
export function runActions(x: Translator, actions: readonly Action[], tail: boolean): void {
  const { trace } = x;
  x.actionsRun += actions.length;
  if (x.actionsRun > MAX_ACTIONS_RUN) return x.fail(`over ${MAX_ACTIONS_RUN} actions`);
  for (let i = 0; i < actions.length; i++) {
    const action = actions[i]!;
    trace?.action(action);
    if (!runAction(x, action, tail && i === actions.length - 1, tail) || x.exited || x.failed) return;
  }
}

/**
 * @param last nothing at all runs after this action; @param tail nothing runs after its list.
 * @returns false when the rest of its list is not to be run.
 */
function runAction(x: Translator, action: Action, last: boolean, tail: boolean): boolean {
  const { state } = x;
  switch (action.kind) {
    case 'output':
      outputTo(x, action.port, last);
      return true;
    case 'output_field':
      outputTo(x, Number(readPart(x, action.source)) & 0xffff, last);
      return true;
    case 'controller':
      x.lose('controller', 'no controller is connected');
      return true;
    case 'set_field':
      if (hasField(x, action.field.prerequisite)) writeAll(x, action.writes);
      return true;
    case 'legacy_set':
      if (hasLegacyField(x, action.name)) writeAll(x, action.writes);
      return true;
    case 'mod_vlan_vid':
      state.write(W_VLAN, VLAN_PRESENT | action.vid, VLAN_PRESENT | 0xfff);
      return true;
    case 'mod_vlan_pcp':
      state.write(W_VLAN, VLAN_PRESENT | (action.pcp << 13), VLAN_PRESENT | 0xe000);
      return true;
    case 'push_vlan':
      pushVlan(x, action.ethertype);
      return true;
    case 'pop_vlan':
      if (state.hasTag()) state.popTag();
      return true;
    case 'move':
      move(x, action.source, action.destination);
      return true;
    case 'dec_ttl':
      return decTtl(x, tail);
    case 'resubmit':
      x.resubmit(action.table === SAME_TABLE ? x.table : action.table, action.port, last);
      return true;
    case 'goto_table':
      x.resubmit(action.table, -1, last);
      return true;
    case 'group':
      runGroup(x, action.groupId, last);
      return true;
    case 'write_actions':
      x.actionSet.push(...action.actions);
      state.flow[W_ACTSET_OUTPUT] = outputOfSet(x.actionSet);
      return true;
    case 'clear_actions':
      x.actionSet = [];
      state.flow[W_ACTSET_OUTPUT] = OFPP_UNSET;
      return true;
    case 'write_metadata':
      state.write(W_METADATA, Number((action.value & action.mask) >> 32n), Number(action.mask >> 32n));
      state.write(W_METADATA + 1, Number(action.value & action.mask & 0xffffffffn), Number(action.mask & 0xffffffffn));
      return true;
    case 'exit':
      x.exited = true;
      return true;
    case 'note':
      return true;
  }
}

function writeAll(x: Translator, writes: readonly WordWrite[]): void {
  for (const { word, value, mask } of writes) x.state.write(word, value, mask);
}

function move(x: Translator, from: Subfield, to: Subfield): void {
  if (!hasField(x, from.field.prerequisite) || !hasField(x, to.field.prerequisite)) return;
  const value = readPart(x, from);
  writeAll(x, fieldWrites(to.field, value << BigInt(to.offset), subfieldMask(to)));
  x.trace?.moved(to);
}

/** A pushed tag starts with VID and priority 0, as in Open vSwitch; OpenFlow 1.3 §5.12.1 would copy those of the tag below. */
function pushVlan(x: Translator, ethertype: number): void {
  if (!x.state.pushTag(ethertype, 0)) x.fail('too many VLAN tags');
}

/**
 * At the end of the pipeline the datapath decrements, and drops an expired packet, whatever its TTL. Elsewhere an expired
 * packet ends this list only, so the TTL has to be known. A trace tells of an expired packet in either case.
 */
function decTtl(x: Translator, tail: boolean): boolean {
  if (!isIp(x)) return true;
  const { state } = x;
  const ttl = (state.flow[W_NW_MISC]! >>> 16) & 0xff;
  const constant = state.isWritten(W_NW_MISC, TTL_MASK);
  if (!constant && tail && x.actionSet.length === 0 && (ttl > 1 || x.trace === undefined)) {
    if (!state.decTtl()) x.fail('program too long');
    return true;
  }
  state.look(W_NW_MISC, TTL_MASK);
  if (ttl > 1) {
    state.write(W_NW_MISC, (ttl - 1) << 16, TTL_MASK);
    return true;
  }
  x.lose('ttl_exceeded', 'IPv4 decrement TTL exception');
  return false;
}

// Output

function outputTo(x: Translator, port: number, last: boolean): void {
  const { bridge, state } = x;
  const inPort = state.flow[W_IN_PORT]!;
  switch (port) {
    case OFPP_IN_PORT:
      return outputPort(x, bridge.portOf(inPort));
    case OFPP_TABLE:
      return x.resubmit(0, -1, last);
    case OFPP_NORMAL:
      return runNormal(x);
    case OFPP_FLOOD:
    case OFPP_ALL:
      for (const each of bridge.portList) {
        if (each.ofport !== inPort && (port === OFPP_ALL || each.floods)) outputPort(x, each);
      }
      return;
    case OFPP_CONTROLLER:
      return x.lose('controller', 'no controller is connected');
    case OFPP_NONE:
      return;
    default:
      if (port === inPort) x.lose('hairpin', 'skipping output to input port');
      else outputPort(x, bridge.portOf(port));
  }
}

/** Sends the packet as it is now; undefined: there is no such port. */
export function outputPort(x: Translator, port: OfPort | undefined): void {
  if (port === undefined) x.lose('no_such_port', 'Nonexistent output port');
  else if (!port.forwards) x.lose('port_blocked', 'OFPPC_NO_FWD set, skipping output');
  else if (port.isPatch) outputPatch(x, port);
  else if (port.tunnel !== undefined) outputTunnel(x, port);
  else if (port.ofport === OFPP_LOCAL && terminate(x)) return;
  else if (port.dpPort === 0) x.lose('no_such_port', 'Nonexistent output port');
  else if (!x.state.output(port.dpPort)) x.fail('program too long');
}

/** Through a patch port into the peer's bridge; both ports count it. */
function outputPatch(x: Translator, port: OfPort): void {
  const { peer } = port;
  if (peer === undefined) return x.lose('no_such_port', 'Nonexistent output port');
  x.credits.push(port.sent, peer.port.received);
  x.cross(peer.bridge, peer.port);
}
