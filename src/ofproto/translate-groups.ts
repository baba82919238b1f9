/** The group action in translation: which buckets a packet goes through (OpenFlow 1.3 §5.6.1). */
import {
  ETH_IPV6,
  IPPROTO_SCTP,
  IPPROTO_TCP,
  IPPROTO_UDP,
  VLAN_PRESENT,
  W_DL_DST,
  W_DL_MIX,
  W_DL_SRC,
  W_IPV6_DST,
  W_IPV6_SRC,
  W_NW_DST,
  W_NW_SRC,
  W_TP,
  W_TYPE,
  W_VLAN,
} from '#contract/flow-key.ts';
import type { Field } from './fields.ts';
import { type Bucket, bucketIsLive, firstLiveBucket, type Group, selectBucket } from './group.ts';
import { fieldWrites, wholeField } from './key.ts';
import { hasField, hasTransport, isIp, lookAtPart } from './packet-fields.ts';
import type { Translator } from './translate.ts';
import { runActions } from './translate-actions.ts';

/** @param last nothing runs after the group. */
export function runGroup(x: Translator, id: number, last: boolean): void {
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
