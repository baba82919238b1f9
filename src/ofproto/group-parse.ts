/** Reads group_mods in ovs-ofctl(8) syntax ("Group Syntax"). */
import type { Action } from './actions.ts';
import { parseActions, parseGroupId } from './actions-parse.ts';
import { type GroupCommand, RequestError } from './api.ts';
import { type Field, findField } from './fields.ts';
import { noPortNames, OFPP_MAX, OFPP_NONE, type PortNames, parsePort } from './ofp-port.ts';
import { clip, parseBounded, parseNumber, parseUnsigned, splitTerms } from './text.ts';

export type GroupType = 'all' | 'select' | 'indirect' | 'ff';

/** `groupId` of a deletion of all groups. */
export const ALL_GROUPS = 0xfffffffc;
/** `watchGroup` of a bucket that watches none. */
export const NO_GROUP = 0xffffffff;
/** Most buckets of a group. */
export const MAX_BUCKETS = 1024;
/** Highest bucket id (OpenFlow 1.5, OFPG_BUCKET_MAX). */
const BUCKET_MAX = 0xffffff00;

export interface BucketSpec {
  /** Own number within the group. */
  readonly bucketId: number;
  /** Share of a select group; 1 where not given, 0 in groups of other types. */
  readonly weight: number;
  /** OpenFlow port whose liveness counts; OFPP_NONE = none. */
  readonly watchPort: number;
  readonly watchGroup: number;
  readonly actions: readonly Action[];
}

/** How a select group chooses: empty method = the switch's own way. */
export interface Selection {
  readonly method: '' | 'hash' | 'dp_hash';
  readonly param: bigint;
  readonly fields: readonly Field[];
}

export interface GroupModSpec {
  readonly command: GroupCommand;
  /** Or ALL_GROUPS in a deletion. */
  readonly groupId: number;
  /** Undefined in deletions and bucket commands. */
  readonly type: GroupType | undefined;
  readonly selection: Selection;
  readonly buckets: readonly BucketSpec[];
  /** Where insert_buckets puts buckets (before all, behind all, behind that one), what remove_buckets takes away. */
  readonly commandBucket: 'first' | 'last' | 'all' | number | undefined;
}

const fail = (code: string, message: string, field: string, hint = ''): never => {
  throw new RequestError(code, message, { field, hint });
};

/**
 * One group_mod.
 * @throws RequestError, in the words of ovs-ofctl where it has some.
 */
export function parseGroupMod(command: GroupCommand, text: string, names: PortNames = noPortNames): GroupModSpec {
  const [head, ...bucketTexts] = splitBuckets(text);
  const keys = groupKeys(command, head!);
  const isBucketCommand = command === 'insert_buckets' || command === 'remove_buckets';
  const needsType = command !== 'delete' && !isBucketCommand;
  const type = needsType ? parseType(keys.get('type')) : undefined;
  if (bucketTexts.length > 0 && (command === 'delete' || command === 'remove_buckets'))
    fail('bad_syntax', 'bucket is not needed', 'bucket');
  if (bucketTexts.length > MAX_BUCKETS) fail('OFPGMFC_OUT_OF_BUCKETS', `more than ${MAX_BUCKETS} buckets`, 'bucket');
  const buckets = numberBuckets(
    bucketTexts.map((bucket, index) => parseBucket(bucket, `bucket[${index}]`, type, names)),
  );
  if (type === 'indirect' && buckets.length > 1)
    fail('OFPGMFC_INVALID_GROUP', 'Indirect groups can have at most one bucket.', 'bucket');
  if (type === 'indirect' && buckets.length === 0)
    fail('OFPGMFC_INVALID_GROUP', 'Indirect groups need a bucket.', 'bucket');
  return {
    command,
    groupId: parseTarget(command, keys.get('group_id')),
    type,
    selection: parseSelection(keys, type),
    buckets,
    commandBucket: parseCommandBucket(command, keys.get('command_bucket_id')),
  };
}

/** The group's own keys, then what stands behind each `bucket=`. */
function splitBuckets(text: string): string[] {
  return text.split(/(?:^|[\s,])buckets?=/);
}

function groupKeys(command: GroupCommand, text: string): Map<string, string> {
  const keys = new Map<string, string>();
  for (const { key, value = '' } of splitTerms(text)) {
    const known = ['group_id', 'type', 'command_bucket_id', 'selection_method', 'selection_method_param', 'fields'];
    if (!known.includes(key)) fail('unknown_keyword', `unknown keyword ${clip(key)}`, clip(key));
    if (keys.has(key)) fail('duplicate_field', `${key} is given twice`, key);
    const isBucketCommand = command === 'insert_buckets' || command === 'remove_buckets';
    if (key === 'command_bucket_id' && !isBucketCommand) fail('bad_syntax', 'command bucket id is not needed', key);
    if (key !== 'group_id' && key !== 'command_bucket_id' && (command === 'delete' || isBucketCommand)) {
      fail('bad_syntax', `${key} is not needed`, key);
    }
    keys.set(key, value);
  }
  return keys;
}

function parseTarget(command: GroupCommand, text: string | undefined): number {
  if (command === 'delete' && (text === undefined || text === 'all')) return ALL_GROUPS;
  if (text === undefined) return fail('bad_syntax', 'must specify a group_id', 'group_id');
  return parseGroupId(text);
}

function parseType(text: string | undefined): GroupType {
  if (text === undefined) return fail('bad_syntax', 'must specify a type', 'type', 'all, select, indirect or ff');
  if (text === 'all' || text === 'select' || text === 'indirect' || text === 'ff') return text;
  if (text === 'fast_failover') return 'ff';
  return fail('OFPGMFC_BAD_TYPE', `invalid group type ${clip(text)}`, 'type', 'all, select, indirect or ff');
}

function parseSelection(keys: ReadonlyMap<string, string>, type: GroupType | undefined): Selection {
  const method = keys.get('selection_method') ?? '';
  const names = splitTerms(keys.get('fields') ?? '');
  if ((method || names.length > 0 || keys.has('selection_method_param')) && type !== 'select') {
    fail('bad_syntax', 'selection method is only for select groups', 'selection_method');
  }
  if (method !== '' && method !== 'hash' && method !== 'dp_hash') {
    return fail(
      'OFPBPC_BAD_VALUE',
      `selection method '${clip(method)}' is not supported`,
      'selection_method',
      'hash or dp_hash',
    );
  }
  if (method === '' && keys.has('selection_method_param'))
    fail('bad_syntax', 'selection_method_param needs a selection_method', 'selection_method_param');
  if (method !== 'hash' && names.length > 0) fail('bad_syntax', 'fields need selection_method=hash', 'fields');
  const fields = names.map(({ key, value }) => {
    const field = findField(key);
    if (value !== undefined) fail('unsupported', `${clip(key)}: a mask is not supported yet`, 'fields');
    return field ?? fail('bad_value', `unknown field ${clip(key)}`, 'fields');
  });
  return {
    method,
    param: parseNumber(keys.get('selection_method_param') || '0', 'selection_method_param', 64),
    fields,
  };
}

function parseCommandBucket(command: GroupCommand, text: string | undefined): GroupModSpec['commandBucket'] {
  if (command !== 'insert_buckets' && command !== 'remove_buckets') return undefined;
  if (text === undefined)
    return fail('bad_syntax', 'must specify a command bucket id', 'command_bucket_id', 'first, last, all or a number');
  if (text === 'first' || text === 'last') return text;
  if (text === 'all')
    return command === 'remove_buckets'
      ? 'all'
      : fail('bad_value', 'invalid command bucket id "all"', 'command_bucket_id');
  const id = parseUnsigned(text);
  if (id === undefined || id > BUCKET_MAX)
    return fail('bad_value', `invalid command bucket id "${clip(text)}"`, 'command_bucket_id');
  return Number(id);
}

type BucketDraft = Omit<BucketSpec, 'bucketId'> & { readonly bucketId: number | undefined };

const BUCKET_KEYS = new Set(['bucket_id', 'weight', 'watch_port', 'watch_group']);

function parseBucket(text: string, where: string, type: GroupType | undefined, names: PortNames): BucketDraft {
  const keys = new Map<string, string>();
  const list: string[] = [];
  for (const { key, value = '', delimiter } of splitTerms(text)) {
    if (BUCKET_KEYS.has(key)) {
      if (keys.has(key)) fail('duplicate_field', `${key} is given twice`, `${where}.${key}`);
      keys.set(key, value);
    } else if (key === 'actions' || key === 'action') list.push(value);
    else list.push(`${key}${delimiter}${value}${delimiter === '(' ? ')' : ''}`);
  }
  if (list.length === 0) fail('bad_syntax', 'bucket must specify actions', where, 'actions=…, or actions=drop');
  const actions = parseActions(list.join(','), names);
  for (const { kind } of actions) {
    if (['clear_actions', 'write_actions', 'write_metadata', 'goto_table'].includes(kind)) {
      fail('bad_action', `${kind} instruction not allowed here`, `${where}.actions`);
    }
  }
  const bucketId = keys.has('bucket_id') ? parseBounded(keys.get('bucket_id')!, 'bucket_id', BUCKET_MAX) : undefined;
  return { bucketId, ...bucketKeys(keys, where, type, names), actions };
}

function bucketKeys(keys: ReadonlyMap<string, string>, where: string, type: GroupType | undefined, names: PortNames) {
  const weight = keys.has('weight')
    ? parseBounded(keys.get('weight')!, 'weight', 65535)
    : type === 'select' || type === undefined
      ? 1
      : 0;
  if (keys.has('weight') && type !== undefined && type !== 'select') {
    fail('OFPGMFC_INVALID_GROUP', 'Only select groups can have bucket weights.', `${where}.weight`);
  }
  const portText = keys.get('watch_port');
  const watchPort = portText === undefined ? OFPP_NONE : (parsePort(portText, names) ?? OFPP_MAX);
  if (portText !== undefined && watchPort >= OFPP_MAX)
    fail('OFPGMFC_BAD_WATCH', `${clip(portText)}: invalid watch_port`, `${where}.watch_port`);
  const watchGroup = keys.has('watch_group') ? parseGroupId(keys.get('watch_group')!) : NO_GROUP;
  const watches = watchPort !== OFPP_NONE || watchGroup !== NO_GROUP;
  if (type === 'ff' && !watches)
    fail('OFPGMFC_BAD_WATCH', 'fast failover bucket requires watch_port or watch_group', where);
  if ((type === 'all' || type === 'indirect') && watches) {
    fail(
      'OFPGMFC_WATCH_UNSUPPORTED',
      `a bucket of a group of type ${type} cannot watch`,
      where,
      'type=ff or type=select',
    );
  }
  return { weight, watchPort, watchGroup };
}

/** Buckets without a number get the lowest free ones. */
function numberBuckets(drafts: readonly BucketDraft[]): BucketSpec[] {
  const used = new Set<number>();
  for (const { bucketId } of drafts) {
    if (bucketId === undefined) continue;
    if (used.has(bucketId)) fail('OFPGMFC_BUCKET_EXISTS', `bucket_id ${bucketId} is given twice`, 'bucket');
    used.add(bucketId);
  }
  let next = 0;
  return drafts.map((draft) => {
    if (draft.bucketId !== undefined) return { ...draft, bucketId: draft.bucketId };
    while (used.has(next)) next++;
    return { ...draft, bucketId: next++ };
  });
}
