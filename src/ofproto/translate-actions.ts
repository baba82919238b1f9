/** What each OpenFlow action does to a packet in translation (ovs-actions(7); action sets: OpenFlow 1.3 §5.10). */
import {
  ETH_IPV4,
  ETH_IPV6,
  FRAG_LATER,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  VLAN_PRESENT,
  W_DL_DST,
  W_DL_MIX,
  W_DL_SRC,
  W_IN_PORT,
  W_IPV6_DST,
  W_IPV6_SRC,
  W_NW_DST,
  W_NW_MISC,
  W_NW_SRC,
  W_TP,
  W_TYPE,
  W_VLAN,
} from '#contract/flow-key.ts';
import type { Action, LegacySetName } from './actions.ts';
import type { Field, PrerequisiteName } from './fields.ts';
import { type Bucket, bucketIsLive, firstLiveBucket, type Group, selectBucket } from './group.ts';
import {
  fieldWrites,
  markSubfield,
  readSubfield,
  type Subfield,
  subfieldMask,
  W_ACTSET_OUTPUT,
  W_METADATA,
  type WordWrite,
  wholeField,
} from './key.ts';
import { runNormal } from './normal.ts';
import { OFPP_ALL, OFPP_CONTROLLER, OFPP_FLOOD, OFPP_IN_PORT, OFPP_NONE, OFPP_NORMAL, OFPP_TABLE } from './ofp-port.ts';
import type { OfPort } from './port.ts';
import type { Translator } from './translate.ts';

/** Actions that one packet may run, so that no flow table keeps the control plane busy for long. */
const MAX_ACTIONS_RUN = 65_536;
const SAME_TABLE = 255;
const TTL_MASK = 0x00ff0000;

const scratch = new Uint32Array(64);

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

const isIp = (x: Translator): boolean => {
  x.state.look(W_TYPE, 0xffff0000);
  const type = x.state.flow[W_TYPE]! >>> 16;
  return type === ETH_IPV4 || type === ETH_IPV6;
};

/** Whether the packet has ports of one of these protocols: later fragments have none. */
const hasTransport = (x: Translator, ...protocols: number[]): boolean => {
  if (!isIp(x)) return false;
  x.state.look(W_TYPE, 0xff00 | FRAG_LATER);
  const word = x.state.flow[W_TYPE]!;
  return protocols.includes((word >>> 8) & 0xff) && (word & FRAG_LATER) === 0;
};

const isNd = (x: Translator, first: number, second: number): boolean => {
  if (!hasField(x, 'icmp6')) return false;
  x.state.look(W_TP, 0xffffffff);
  const type = x.state.flow[W_TP]! >>> 16;
  return type === first || type === second;
};

/** Whether the packet has fields of this kind; what tells is looked at. */
function hasField(x: Translator, needs: PrerequisiteName): boolean {
  switch (needs) {
    case 'none':
      return true;
    case 'vlan':
      return x.state.hasTag();
    case 'ip':
      return isIp(x);
    case 'ipv4':
      return isIp(x) && x.state.flow[W_TYPE]! >>> 16 === ETH_IPV4;
    case 'ipv6':
      return isIp(x) && x.state.flow[W_TYPE]! >>> 16 === ETH_IPV6;
    case 'arp':
      x.state.look(W_TYPE, 0xffff0000);
      return [0x0806, 0x8035].includes(x.state.flow[W_TYPE]! >>> 16);
    case 'tcp':
      return hasTransport(x, IPPROTO_TCP);
    case 'udp':
      return hasTransport(x, IPPROTO_UDP);
    case 'sctp':
      return hasTransport(x, IPPROTO_SCTP);
    case 'icmp':
      return hasTransport(x, 1) && x.state.flow[W_TYPE]! >>> 16 === ETH_IPV4;
    case 'icmp6':
      return hasTransport(x, 58) && x.state.flow[W_TYPE]! >>> 16 === ETH_IPV6;
    case 'nd':
      return isNd(x, 135, 136);
    case 'nd_solicit':
      return isNd(x, 135, 135);
    case 'nd_advert':
      return isNd(x, 136, 136);
  }
}

function hasLegacyField(x: Translator, name: LegacySetName): boolean {
  switch (name) {
    case 'mod_dl_src':
    case 'mod_dl_dst':
      return true;
    case 'mod_nw_src':
    case 'mod_nw_dst':
      return hasField(x, 'ipv4');
    case 'mod_nw_tos':
    case 'mod_nw_ecn':
    case 'mod_nw_ttl':
      return isIp(x);
    case 'mod_tp_src':
    case 'mod_tp_dst':
      return hasTransport(x, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP);
  }
}

function lookAtPart(x: Translator, part: Subfield): void {
  scratch.fill(0);
  markSubfield(scratch, part);
  for (const { word } of part.field.pieces) if (scratch[word] !== 0) x.state.look(word, scratch[word]!);
}

function readPart(x: Translator, part: Subfield): bigint {
  lookAtPart(x, part);
  return readSubfield(x.state.flow, part);
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
 * packet ends this list only, so the TTL has to be known.
 */
function decTtl(x: Translator, tail: boolean): boolean {
  if (!isIp(x)) return true;
  const { state } = x;
  const ttl = (state.flow[W_NW_MISC]! >>> 16) & 0xff;
  const constant = state.isWritten(W_NW_MISC, TTL_MASK);
  if (!constant && tail && x.actionSet.length === 0) {
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
  if (port === undefined || port.dpPort === 0) x.lose('no_such_port', 'Nonexistent output port');
  else if (!port.forwards) x.lose('port_blocked', 'OFPPC_NO_FWD set, skipping output');
  else if (!x.state.output(port.dpPort)) x.fail('program too long');
}

// Groups and action sets

function runGroup(x: Translator, id: number, last: boolean): void {
  x.usedGroups = true;
  const group = x.bridge.groupMap.get(id);
  if (group === undefined) return x.lose('group_no_bucket', `group ${id} does not exist`);
  if (!x.enter()) return;
  x.depth++;
  x.credits.push(group);
  if (group.type === 'all') for (const bucket of group.buckets) runBucket(x, bucket, false);
  else {
    const bucket = pick(x, group);
    if (bucket === undefined) x.decline('group_no_bucket', 'no live bucket');
    else {
      if (group.type !== 'indirect') x.trace?.note(`using bucket ${bucket.bucketId}`);
      runBucket(x, bucket, last && x.actionSet.length === 0);
    }
  }
  x.depth--;
}

function pick(x: Translator, group: Group): Bucket | undefined {
  if (group.type === 'indirect') return group.buckets[0];
  if (group.type === 'ff') return firstLiveBucket(group, x.bridge);
  if (group.buckets.length === 1) return bucketIsLive(group.buckets[0]!, x.bridge) ? group.buckets[0] : undefined;
  const { method, fields } = group.selection;
  const hash = method === 'hash' && fields.length > 0 ? hashFields(x, fields) : hashFlow(x);
  return selectBucket(group, hash, x.bridge);
}

/** Hash over addresses, VLAN and ports, all of which it looks at. */
function hashFlow(x: Translator): number {
  const { state } = x;
  let h = 0;
  const take = (word: number, bits: number): void => {
    state.look(word, bits);
    h = Math.imul(h ^ (state.flow[word]! & bits), 0x9e3779b1);
    h ^= h >>> 15;
  };
  take(W_DL_DST, 0xffffffff);
  take(W_DL_MIX, 0xffffffff);
  take(W_DL_SRC, 0xffffffff);
  take(W_VLAN, VLAN_PRESENT | 0xfff);
  if (isIp(x)) {
    take(W_TYPE, 0xffff0000);
    take(W_NW_SRC, 0xffffffff);
    take(W_NW_DST, 0xffffffff);
    if (state.flow[W_TYPE]! >>> 16 === ETH_IPV6) {
      for (let i = 0; i < 3; i++) {
        take(W_IPV6_SRC + i, 0xffffffff);
        take(W_IPV6_DST + i, 0xffffffff);
      }
    }
    if (hasTransport(x, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP)) {
      take(W_TYPE, 0xff00);
      take(W_TP, 0xffffffff);
    }
  }
  return h | 0;
}

/** Hash over the fields that a group names, as far as the packet has them. */
function hashFields(x: Translator, fields: readonly Field[]): number {
  let h = 0;
  for (const field of fields) {
    if (!hasField(x, field.prerequisite)) continue;
    lookAtPart(x, wholeField(field));
    for (const { word, mask } of fieldWrites(field, 0n, field.fullMask)) {
      h = Math.imul(h ^ (x.state.flow[word]! & mask), 0x9e3779b1);
      h ^= h >>> 15;
    }
  }
  return h | 0;
}

function runBucket(x: Translator, bucket: Bucket, last: boolean): void {
  const { state } = x;
  x.trace?.bucket(bucket.bucketId);
  x.credits.push(bucket);
  const saved = state.save();
  const set = x.actionSet;
  x.actionSet = [];
  runActions(x, bucket.actions, last);
  x.actionSet = set;
  state.restore(saved);
  // A bucket that ends early does not end what follows the group.
  x.exited = false;
  x.trace?.leave();
}

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
function outputOfSet(set: readonly Action[]): number {
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
