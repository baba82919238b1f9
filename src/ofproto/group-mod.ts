/** group_mods on the groups of a bridge (OpenFlow 1.3 §6.5, bucket commands OpenFlow 1.5 §7.3.4.3): all of a list or none. */

import { orderActionSet } from './action-set.ts';
import { groupsOf } from './actions.ts';
import { RequestError } from './api.ts';
import { Bucket, Group } from './group.ts';
import { ALL_GROUPS, type BucketSpec, type GroupModSpec, MAX_BUCKETS, NO_GROUP } from './group-parse.ts';

/** Groups of a bridge. */
export const MAX_GROUPS = 65_536;

export interface GroupTables {
  readonly groupMap: Map<number, Group>;
  now(): number;
  syncStatistics(): void;
}

export class GroupModBatch {
  readonly #tables: GroupTables;
  readonly #undo: (() => void)[] = [];
  /** Groups that are gone: flows that refer to them have to go too. */
  readonly deleted = new Set<number>();

  constructor(tables: GroupTables) {
    this.#tables = tables;
    tables.syncStatistics();
  }

  /** @throws RequestError with the OFPGMFC name; `rollBack` then undoes what was applied before. */
  apply(mod: GroupModSpec): void {
    const groups = this.#tables.groupMap;
    const old = groups.get(mod.groupId);
    switch (mod.command) {
      case 'add':
        if (old !== undefined) throw refuse('OFPGMFC_GROUP_EXISTS', `group ${mod.groupId} already exists`, 409);
        return this.#put(mod, undefined);
      case 'modify':
        if (old === undefined) throw refuse('OFPGMFC_UNKNOWN_GROUP', `group ${mod.groupId} does not exist`, 404);
        return this.#put(mod, old);
      case 'add_or_modify':
        return this.#put(mod, old);
      case 'delete':
        for (const id of mod.groupId === ALL_GROUPS ? [...groups.keys()] : [mod.groupId]) this.#delete(id);
        return;
      case 'insert_buckets':
      case 'remove_buckets':
        if (old === undefined) throw refuse('OFPGMFC_UNKNOWN_GROUP', `group ${mod.groupId} does not exist`, 404);
        return this.#set(editBuckets(old, mod));
    }
  }

  rollBack(): void {
    for (let i = this.#undo.length - 1; i >= 0; i--) this.#undo[i]!();
    this.#undo.length = 0;
    this.deleted.clear();
  }

  #put(mod: GroupModSpec, old: Group | undefined): void {
    if (old === undefined && this.#tables.groupMap.size >= MAX_GROUPS) {
      throw refuse('OFPGMFC_OUT_OF_GROUPS', `a bridge holds ${MAX_GROUPS} groups at most`, 409);
    }
    const buckets = mod.buckets.map((bucket) => newBucket(bucket));
    const group = new Group(mod.groupId, mod.type!, mod.selection, buckets, old?.created ?? this.#tables.now());
    this.#set(group);
    this.deleted.delete(mod.groupId);
  }

  #set(group: Group): void {
    const groups = this.#tables.groupMap;
    const old = groups.get(group.groupId);
    const type = group.type;
    if (type === 'indirect' && group.buckets.length !== 1)
      throw refuse('OFPGMFC_INVALID_GROUP', 'indirect groups have one bucket', 400);
    for (const bucket of group.buckets) {
      for (const target of [
        ...groupsOf(bucket.actions),
        ...(bucket.watchGroup === NO_GROUP ? [] : [bucket.watchGroup]),
      ]) {
        if (target !== group.groupId && !groups.has(target))
          throw refuse('OFPBAC_BAD_OUT_GROUP', `group ${target} does not exist`, 400);
      }
    }
    if (reaches(groups, group)) throw refuse('OFPGMFC_LOOP', `group ${group.groupId} would lead back to itself`, 400);
    groups.set(group.groupId, group);
    this.#undo.push(() => {
      if (old === undefined) groups.delete(group.groupId);
      else groups.set(group.groupId, old);
    });
  }

  #delete(id: number): void {
    const groups = this.#tables.groupMap;
    const old = groups.get(id);
    if (old === undefined) return;
    groups.delete(id);
    this.deleted.add(id);
    this.#undo.push(() => groups.set(id, old));
  }
}

const refuse = (code: string, message: string, status: number): RequestError =>
  new RequestError(code, message, { field: 'group', status });

const newBucket = (spec: BucketSpec): Bucket => new Bucket(spec, orderActionSet(spec.actions));

/** Whether the actions of a group lead to the group again. */
function reaches(groups: ReadonlyMap<number, Group>, start: Group): boolean {
  const seen = new Set<number>();
  const left = start.buckets.flatMap(({ actions }) => groupsOf(actions));
  for (let id = left.pop(); id !== undefined; id = left.pop()) {
    if (id === start.groupId) return true;
    if (seen.has(id)) continue;
    seen.add(id);
    for (const { actions } of groups.get(id)?.buckets ?? []) left.push(...groupsOf(actions));
  }
  return false;
}

/** The group after insert_buckets or remove_buckets; buckets that stay keep their counters. */
function editBuckets(old: Group, mod: GroupModSpec): Group {
  const at = mod.commandBucket;
  let buckets = [...old.buckets];
  const index = typeof at === 'number' ? buckets.findIndex(({ bucketId }) => bucketId === at) : -1;
  if (typeof at === 'number' && index < 0)
    throw refuse('OFPGMFC_UNKNOWN_BUCKET', `group ${old.groupId} has no bucket ${at}`, 404);
  if (mod.command === 'remove_buckets') {
    if (at === 'all') buckets = [];
    else if (at === 'first') buckets.shift();
    else if (at === 'last') buckets.pop();
    else buckets.splice(index, 1);
  } else {
    const taken = new Set(buckets.map(({ bucketId }) => bucketId));
    for (const bucket of mod.buckets) {
      if (taken.has(bucket.bucketId))
        throw refuse('OFPGMFC_BUCKET_EXISTS', `group ${old.groupId} has a bucket ${bucket.bucketId}`, 409);
    }
    const place = at === 'first' ? 0 : typeof at === 'number' ? index + 1 : buckets.length;
    buckets.splice(place, 0, ...mod.buckets.map((bucket) => newBucket(bucket)));
  }
  if (buckets.length > MAX_BUCKETS) throw refuse('OFPGMFC_OUT_OF_BUCKETS', `more than ${MAX_BUCKETS} buckets`, 400);
  const group = new Group(old.groupId, old.type, old.selection, buckets, old.created);
  group.packets = old.packets;
  group.bytes = old.bytes;
  return group;
}
