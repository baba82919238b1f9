/** Reads flows in ovs-ofctl(8) syntax: flow keys, match and actions of flow_mods, and the filters of dump-flows. */
import type { Action } from './actions.ts';
import { checkActions } from './actions-check.ts';
import { parseActions, parseGroupId, parseTable } from './actions-parse.ts';
import { type FlowCommand, RequestError } from './api.ts';
import type { Match } from './match.ts';
import { MatchParser } from './match-parse.ts';
import { noPortNames, OFPP_NONE, type PortNames, parsePort } from './ofp-port.ts';
import { clip, parseBounded, parseNumber, splitTerms } from './text.ts';

export const DEFAULT_PRIORITY = 32_768;
/** `table` of a flow that names none, where that means every table. */
export const ALL_TABLES = 255;
/** `outGroup` of a flow that names none. */
export const ANY_GROUP = 0xffffffff;

const ALL_ONES = (1n << 64n) - 1n;

export type FlowFlag = 'send_flow_rem' | 'check_overlap' | 'reset_counts' | 'no_packet_counts' | 'no_byte_counts';
/** In the order of printing. */
export const flowFlags: readonly FlowFlag[] = [
  'send_flow_rem',
  'check_overlap',
  'reset_counts',
  'no_packet_counts',
  'no_byte_counts',
];

/** What selects flows: of modify, delete and dump-flows. */
export interface FlowFilter {
  readonly match: Match;
  /** 0 to 253, or ALL_TABLES. */
  readonly table: number;
  /** Selects in strict commands only. */
  readonly priority: number;
  /** Flows whose cookie equals `cookie` under `cookieMask`; mask 0n = any. */
  readonly cookie: bigint;
  readonly cookieMask: bigint;
  /** OFPP_NONE = any. */
  readonly outPort: number;
  /** ANY_GROUP = any. */
  readonly outGroup: number;
}

/** A flow_mod. `table` is 0 in an addition that names none; a modification that names none goes over ALL_TABLES. */
export interface FlowModSpec extends FlowFilter {
  readonly command: FlowCommand;
  /** Cookie to give the flow; undefined leaves that of a modified flow (a new flow gets 0). */
  readonly newCookie: bigint | undefined;
  /** Seconds; 0 = never. */
  readonly idleTimeout: number;
  readonly hardTimeout: number;
  readonly importance: number;
  readonly flags: readonly FlowFlag[];
  /** Empty for deletions. */
  readonly actions: readonly Action[];
}

type Kind = FlowCommand | 'dump' | 'dump_strict';

const KEYS_WITH_ACTIONS = ['cookie', 'idle_timeout', 'hard_timeout', 'importance', 'priority', ...flowFlags];
const KEYS_OF_FILTER = ['cookie', 'out_port', 'out_group'];
const allowedKeys: Readonly<Record<Kind, ReadonlySet<string>>> = {
  add: new Set(['table', ...KEYS_WITH_ACTIONS]),
  modify: new Set(['table', ...KEYS_WITH_ACTIONS]),
  modify_strict: new Set(['table', ...KEYS_WITH_ACTIONS]),
  delete: new Set(['table', ...KEYS_OF_FILTER]),
  delete_strict: new Set(['table', 'priority', ...KEYS_OF_FILTER]),
  dump: new Set(['table', ...KEYS_OF_FILTER]),
  dump_strict: new Set(['table', 'priority', ...KEYS_OF_FILTER]),
};
/** Printed by dump-flows, ignored on input. */
const statistics = new Set(['duration', 'n_packets', 'n_bytes', 'idle_age', 'hard_age']);
const keyWords = new Set(['table', ...KEYS_WITH_ACTIONS, ...KEYS_OF_FILTER]);

/**
 * One flow_mod. @param into as MatchParser has it.
 * @throws RequestError; its messages are those of ovs-ofctl where that has the same error.
 */
export function parseFlowMod(
  command: FlowCommand,
  text: string,
  names: PortNames = noPortNames,
  into?: Match,
): FlowModSpec {
  if (command === 'delete' || command === 'delete_strict') return { ...parse(command, text, names, into), command };
  const at = /(?:^|[\s,])actions?\s*=/.exec(text);
  if (!at)
    throw new RequestError('no_actions', 'must specify an action', {
      field: 'actions',
      hint: 'add actions=…, or actions=drop',
    });
  const spec = parse(command, text.slice(0, at.index), names, into);
  const actions = parseActions(text.slice(at.index + at[0].length), names);
  checkActions(actions, spec.match, spec.table === ALL_TABLES ? 0 : spec.table);
  return { ...spec, command, actions };
}

/** The filter of dump-flows, dump-aggregate. @throws RequestError. */
export const parseFlowFilter = (text: string, names: PortNames = noPortNames, strict = false): FlowFilter =>
  parse(strict ? 'dump_strict' : 'dump', text, names);

function parse(kind: Kind, text: string, names: PortNames, into?: Match): Omit<FlowModSpec, 'command'> {
  const keys = new Map<string, string>();
  const parser = new MatchParser(names, into);
  for (const term of splitTerms(text)) {
    if (allowedKeys[kind].has(term.key)) {
      if (keys.has(term.key))
        throw new RequestError('duplicate_field', `${term.key} is given twice`, { field: term.key });
      keys.set(term.key, keyValue(term.key, term.value));
    } else if (keyWords.has(term.key)) {
      throw new RequestError('unknown_keyword', `unknown keyword ${term.key}`, {
        field: term.key,
        hint: `not with ${kind}`,
      });
    } else if (!statistics.has(term.key)) parser.take(term);
  }
  const number = (key: string, max: number, otherwise: number) =>
    keys.has(key) ? parseBounded(keys.get(key)!, key, max) : otherwise;
  return {
    match: parser.finish(),
    table: parseFlowTable(kind, keys.get('table')),
    priority: number('priority', 65535, DEFAULT_PRIORITY),
    ...parseCookie(kind, keys.get('cookie')),
    outPort: parseOutPort(keys.get('out_port'), names),
    outGroup: keys.has('out_group') ? parseOutGroup(keys.get('out_group')!) : ANY_GROUP,
    idleTimeout: number('idle_timeout', 65535, 0),
    hardTimeout: number('hard_timeout', 65535, 0),
    importance: number('importance', 65535, 0),
    flags: parseFlags(keys),
    actions: [],
  };
}

const NO_FLAGS: readonly FlowFlag[] = [];

function parseFlags(keys: ReadonlyMap<string, string>): readonly FlowFlag[] {
  const flags = flowFlags.filter((flag) => keys.has(flag));
  return flags.length === 0 ? NO_FLAGS : flags;
}

function keyValue(key: string, value: string | undefined): string {
  if ((flowFlags as readonly string[]).includes(key)) {
    if (value) throw new RequestError('bad_syntax', `${key} takes no value`, { field: key });
    return '';
  }
  if (!value) throw new RequestError('bad_syntax', `field ${key} missing value`, { field: key });
  return value;
}

function parseFlowTable(kind: Kind, text: string | undefined): number {
  if (text === undefined) return kind === 'add' ? 0 : ALL_TABLES;
  if (text === String(ALL_TABLES) && kind !== 'add') return ALL_TABLES;
  return parseTable(text);
}

function parseCookie(kind: Kind, text: string | undefined) {
  if (text === undefined) return { cookie: 0n, cookieMask: 0n, newCookie: kind === 'add' ? 0n : undefined };
  const sets = kind === 'add' || kind === 'modify' || kind === 'modify_strict';
  const slash = text.indexOf('/');
  if (slash < 0) {
    if (!sets)
      throw new RequestError('bad_value', 'cannot set cookie', { field: 'cookie', hint: `cookie=${clip(text)}/-1` });
    return { cookie: 0n, cookieMask: 0n, newCookie: parseNumber(text, 'cookie', 64) };
  }
  if (kind === 'add')
    throw new RequestError('bad_value', 'flow additions cannot use a cookie mask', { field: 'cookie' });
  const maskText = text.slice(slash + 1);
  const cookieMask = maskText === '-1' ? ALL_ONES : parseNumber(maskText, 'cookie', 64);
  return { cookie: parseNumber(text.slice(0, slash), 'cookie', 64) & cookieMask, cookieMask, newCookie: undefined };
}

function parseOutPort(text: string | undefined, names: PortNames): number {
  const port = text === undefined ? OFPP_NONE : parsePort(text, names);
  if (port !== undefined) return port;
  throw new RequestError('bad_value', `${clip(text!)} is not a valid OpenFlow port`, { field: 'out_port' });
}

const parseOutGroup = (text: string): number => (text.toLowerCase() === 'any' ? ANY_GROUP : parseGroupId(text));
