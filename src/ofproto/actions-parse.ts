/** Reads a list of actions in the syntax of ovs-actions(7). */
import { LRUCache } from 'lru-cache';
import { ETH_QINQ, ETH_VLAN } from '#contract/flow-key.ts';
import { type Action, type ControllerReason, type LegacySetName, legacySetFields, MAX_ACTIONS } from './actions.ts';
import { RequestError } from './api.ts';
import {
  noPortNames,
  OFPP_CONTROLLER,
  OFPP_IN_PORT,
  OFPP_MAX,
  OFPP_NONE,
  OFPP_UNSET,
  type PortNames,
  parsePort,
} from './ofp-port.ts';
import { badAction, parseLegacySet, parseLoad, parseModVlan, parseMove, parseSetField } from './set-parse.ts';
import { parseSubfield } from './subfield-parse.ts';
import { clip, parseBounded, parseNumber, parseUnsigned, splitTerms, type Term } from './text.ts';

/** Highest number of a table that a flow may be in or go to; 254 is for the switch itself. */
export const MAX_TABLE = 253;
/** "The table of this action" in resubmit. */
export const SAME_TABLE = 255;

const GROUP_MAX = 0xffffff00;
const MIN_TRUNCATE = 14;

const UNSUPPORTED = new Set(
  (
    'learn ct ct_clear conjunction clone bundle bundle_load multipath sample meter fin_timeout push pop push_mpls pop_mpls ' +
    'set_mpls_label set_mpls_tc set_mpls_ttl dec_mpls_ttl dec_nsh_ttl encap decap set_tunnel set_tunnel64 check_pkt_larger ' +
    'delete_field'
  ).split(' '),
);
const QUEUES = new Set(['set_queue', 'pop_queue', 'enqueue']);

/** Order that OpenFlow 1.1 and later execute instructions in; every plain action counts as apply_actions. */
const INSTRUCTIONS = ['apply_actions', 'clear_actions', 'write_actions', 'write_metadata', 'goto_table'];

/**
 * Actions of a flow or bucket; `drop` gives an empty list.
 * @throws RequestError, in the words of ovs-ofctl where it has some.
 */
export function parseActions(text: string, names: PortNames = noPortNames): readonly Action[] {
  const known = recent.get(text);
  if (known) return known;
  let named = false;
  const noting: PortNames = {
    numberOf: (name) => {
      named = true;
      return names.numberOf(name);
    },
    nameOf: (port) => names.nameOf(port),
  };
  const actions = checkedActions(text, noting);
  // What a name stands for may change.
  if (!named && text.length <= LONGEST_KEPT) recent.set(text, actions);
  return actions;
}

/** Many flows say the same actions: read once, they share one list. */
const recent = new LRUCache<string, readonly Action[]>({ max: 1024 });
const LONGEST_KEPT = 256;

function checkedActions(text: string, names: PortNames): Action[] {
  const actions = parseList(text, names);
  if (countActions(actions) > MAX_ACTIONS) {
    throw new RequestError('OFPBAC_TOO_MANY', `more than ${MAX_ACTIONS} actions`, { field: 'actions' });
  }
  checkOrder(actions);
  return actions;
}

const countActions = (actions: readonly Action[]): number =>
  actions.reduce((sum, action) => sum + 1 + (action.kind === 'write_actions' ? action.actions.length : 0), 0);

function parseList(text: string, names: PortNames): Action[] {
  const terms = splitTerms(text);
  if (terms.some((term) => term.key.toLowerCase() === 'drop')) {
    if (terms.length > 1) throw badAction('drop', '"drop" must not be accompanied by any other action or instruction');
    takesNothing(terms[0]!);
    return [];
  }
  const actions = terms.map((term) => parseAction(term, names));
  // As in OVS: an empty set to write is nothing to do.
  return actions.filter((action) => action.kind !== 'write_actions' || action.actions.length > 0);
}

function parseAction(term: Term, names: PortNames): Action {
  const { key } = term;
  const value = term.value ?? '';
  if (UNSUPPORTED.has(key)) throw badAction(key, `${key} is not supported yet`, '', 'unsupported');
  if (QUEUES.has(key))
    throw badAction(key, `${key} is not supported yet: ports have no queues`, 'output:PORT', 'unsupported');
  if (Object.hasOwn(legacySetFields, key)) return parseLegacySet(key as LegacySetName, value);
  switch (key) {
    case 'output':
      return parseOutput(term, names);
    case 'set_field':
      return parseSetField(value, names);
    case 'load':
      return parseLoad(value);
    case 'move':
      return parseMove(value);
    case 'mod_vlan_vid':
    case 'mod_vlan_pcp':
      return parseModVlan(key, value);
    case 'strip_vlan':
    case 'pop_vlan':
      takesNothing(term);
      return { kind: 'pop_vlan' };
    case 'push_vlan':
      return parsePushVlan(value);
    case 'dec_ttl':
      return parseDecTtl(term);
    case 'resubmit':
      return parseResubmit(value, names);
    case 'group':
      return { kind: 'group', groupId: parseGroupId(value) };
    case 'note':
      return parseNote(value);
    case 'exit':
      takesNothing(term);
      return { kind: 'exit' };
    case 'clear_actions':
      takesNothing(term);
      return { kind: 'clear_actions' };
    case 'write_actions':
      return { kind: 'write_actions', actions: parseActionSet(value, names) };
    case 'write_metadata':
      return parseWriteMetadata(value);
    case 'goto_table':
      return { kind: 'goto_table', table: parseTable(value) };
    default:
      return parsePortAction(term, names);
  }
}

function takesNothing({ key, value }: Term): void {
  if (value) throw badAction(key, `${clip(key)} takes no argument`);
}

/** A bare port: `1`, `p1`, `LOCAL`, `controller:128`. */
function parsePortAction(term: Term, names: PortNames): Action {
  if (term.key.toLowerCase() === 'controller') return parseController(term);
  const port = parsePort(term.key, names);
  if (port === undefined) throw badAction(clip(term.key), `unknown action ${clip(term.key)}`, '', 'unknown_action');
  takesNothing(term);
  return outputTo(port, 0);
}

function outputTo(port: number, maxLen: number): Action {
  if (port === OFPP_NONE || (port >= OFPP_MAX && port <= OFPP_UNSET)) {
    throw badAction(
      'output',
      'actions are invalid with specified match (OFPBAC_BAD_OUT_PORT)',
      '',
      'OFPBAC_BAD_OUT_PORT',
    );
  }
  if (port === OFPP_CONTROLLER && maxLen === 0)
    return { kind: 'controller', maxLen: 65535, reason: 'action', controllerId: 0 };
  return { kind: 'output', port, maxLen };
}

function parseOutput({ value = '' }: Term, names: PortNames): Action {
  if (value.startsWith('(') && value.endsWith(')')) value = value.slice(1, -1);
  if (value.includes('=')) {
    const terms = new Map(splitTerms(value).map((term) => [term.key, term.value ?? '']));
    const port = parsePort(terms.get('port') ?? '', names);
    for (const key of terms.keys()) {
      if (key !== 'port' && key !== 'max_len') throw badAction('output', `invalid key '${clip(key)}' in output action`);
    }
    const text = terms.get('max_len');
    if (port === undefined || text === undefined) throw badAction('output', `${clip(value)}: output to unknown port`);
    const maxLen = Number(parseNumber(text, 'actions.output', 32));
    if (maxLen < MIN_TRUNCATE)
      throw badAction('output', `max_len ${maxLen} is less than the minimum value ${MIN_TRUNCATE}`);
    return outputTo(port, maxLen);
  }
  const port = value === '' ? undefined : parsePort(value, names);
  if (port !== undefined) return outputTo(port, 0);
  const source = outputField(value);
  if (source && source.bits <= 32) return { kind: 'output_field', source };
  throw badAction('output', `${clip(value)}: output to unknown port`, source ? 'a field of at most 32 bits' : '');
}

function outputField(text: string) {
  try {
    return parseSubfield(text);
  } catch {
    return undefined;
  }
}

const REASONS: readonly string[] = ['no_match', 'action', 'invalid_ttl', 'action_set', 'group', 'packet_out'];

function parseController({ value = '', delimiter }: Term): Action {
  let maxLen = 65535;
  let reason: ControllerReason = 'action';
  let controllerId = 0;
  if (delimiter !== '(' && /^[0-9]/.test(value))
    return { kind: 'controller', maxLen: parseBounded(value, 'max_len', 65535), reason, controllerId };
  for (const { key, value: text = '' } of splitTerms(value.replace(/^\((.*)\)$/s, '$1'))) {
    if (key === 'max_len') maxLen = parseBounded(text, 'max_len', 65535);
    else if (key === 'id') controllerId = parseBounded(text, 'id', 65535);
    else if (key === 'reason') {
      if (!REASONS.includes(text)) throw badAction('controller', `unknown reason "${clip(text)}"`, REASONS.join(', '));
      reason = text as ControllerReason;
    } else if (key === 'userdata' || key === 'pause' || key === 'meter_id') {
      throw badAction('controller', `${key} is not supported yet`, '', 'unsupported');
    } else throw badAction('controller', `unknown key "${clip(key)}" parsing controller action`);
  }
  return { kind: 'controller', maxLen, reason, controllerId };
}

function parsePushVlan(text: string): Action {
  const ethertype = parseBounded(text, 'ethertype', 65535);
  if (ethertype === ETH_VLAN || ethertype === ETH_QINQ) return { kind: 'push_vlan', ethertype };
  throw badAction('push_vlan', `${clip(text)}: not a valid VLAN ethertype`, '0x8100 or 0x88a8');
}

function parseDecTtl({ value = '' }: Term): Action {
  const controllerIds = splitTerms(value).map(({ key }) => parseBounded(key, 'controller id', 65535));
  return { kind: 'dec_ttl', controllerIds };
}

function parseResubmit(value: string, names: PortNames): Action {
  const [portText = '', tableText = '', ct, more] = value.split(',').map((part) => part.trim());
  if (ct !== undefined)
    throw badAction(
      'resubmit',
      ct === 'ct' && more === undefined ? 'resubmit with ct is not supported yet' : `${clip(value)}: invalid resubmit`,
    );
  const port = portText === '' ? OFPP_IN_PORT : parsePort(portText, names);
  if (port === undefined) throw badAction('resubmit', `${clip(portText)}: resubmit to unknown port`);
  const table = tableText === '' ? SAME_TABLE : tableNumber(tableText, SAME_TABLE);
  if (table === undefined) throw badAction('resubmit', `${clip(tableText)}: resubmit to unknown table`);
  if (port === OFPP_IN_PORT && table === SAME_TABLE) {
    throw badAction('resubmit', 'at least one "in_port" or "table" must be specified on resubmit');
  }
  return { kind: 'resubmit', port, table };
}

function tableNumber(text: string, also?: number): number | undefined {
  const value = parseUnsigned(text);
  return value !== undefined && (value <= MAX_TABLE || Number(value) === also) ? Number(value) : undefined;
}

/** Number of a table. @throws RequestError `unknown table "256"`. */
export function parseTable(text: string): number {
  const table = tableNumber(text);
  if (table === undefined) {
    throw new RequestError('bad_value', `unknown table "${clip(text)}"`, { field: 'table', hint: `0 to ${MAX_TABLE}` });
  }
  return table;
}

/** Id of a group. @throws RequestError. */
export function parseGroupId(text: string): number {
  const groupId = Number(parseNumber(text, 'group_id', 32));
  if (groupId <= GROUP_MAX) return groupId;
  throw new RequestError('OFPGMFC_INVALID_GROUP', `invalid group id ${clip(text)}`, {
    field: 'group_id',
    hint: `at most ${GROUP_MAX}`,
  });
}

function parseNote(text: string): Action {
  const digits = text.replaceAll('.', '');
  if (!/^([0-9a-f]{2}\.*)*$/i.test(text)) throw badAction('note', "bad hex digit in `note' argument");
  // NXAST_NOTE: 10 bytes of header, then data to a multiple of 8.
  const length = digits.length / 2;
  const data = new Uint8Array(length <= 6 ? 6 : 6 + 8 * Math.ceil((length - 6) / 8));
  data.set(Buffer.from(digits, 'hex'));
  return { kind: 'note', data };
}

function parseActionSet(text: string, names: PortNames): Action[] {
  const actions = parseList(text, names);
  for (const { kind } of actions) {
    if (INSTRUCTIONS.includes(kind)) throw badAction('write_actions', `${kind} instruction not allowed here`);
    if (kind === 'exit' || kind === 'note') throw badAction('write_actions', `${kind} has no effect in write_actions`);
  }
  return actions;
}

function parseWriteMetadata(text: string): Action {
  const [valueText, maskText] = text.split('/', 2) as [string, string | undefined];
  const value = parseNumber(valueText, 'actions.write_metadata', 64);
  const mask = maskText === undefined ? (1n << 64n) - 1n : parseNumber(maskText, 'actions.write_metadata', 64);
  return { kind: 'write_metadata', value, mask };
}

function checkOrder(actions: readonly Action[]): void {
  let previous = 0;
  for (const { kind } of actions) {
    const rank = Math.max(INSTRUCTIONS.indexOf(kind), 0);
    const why = 'for OpenFlow 1.1+ compatibility';
    if (rank === previous && rank !== 0) throw badAction(kind, `duplicate ${kind} instruction not allowed, ${why}`);
    if (rank < previous) {
      const words = `${INSTRUCTIONS[rank]} must appear before ${INSTRUCTIONS[previous]}`;
      throw badAction(kind, `invalid instruction ordering: ${words}, ${why}`, '', 'OFPBAC_UNSUPPORTED_ORDER');
    }
    previous = rank;
  }
}
