import test from 'ava';
import { dropReason } from '#contract/catalogue.ts';
import { orderActionSet } from '#ofproto/action-set.ts';
import { formatActions } from '#ofproto/actions-format.ts';
import { parseActions } from '#ofproto/actions-parse.ts';
import { RequestError } from '#ofproto/api.ts';
import { bucketIsLive, type Group, type LiveSource, selectBucket } from '#ofproto/group.ts';
import { GroupModBatch } from '#ofproto/group-mod.ts';
import { parseGroupMod } from '#ofproto/group-parse.ts';
import { type Pipeline, Translator } from '#ofproto/translate.ts';
import { runGroup } from '#ofproto/translate-groups.ts';

function build(...texts: string[]) {
  const groupMap = new Map<number, Group>();
  const batch = new GroupModBatch({ groupMap, now: () => 0, syncStatistics: () => undefined });
  for (const text of texts) batch.apply(parseGroupMod('add', text));
  return {
    groupMap,
    batch,
    source: (live: readonly number[]): LiveSource => ({ groupMap, isLive: (port) => live.includes(port) }),
  };
}

test('an action set runs pops before pushes, sets before outputs, and a group instead of an output', (t) => {
  const ordered = (text: string): string => formatActions(orderActionSet(parseActions(text)));
  t.is(
    ordered('output:1,mod_dl_dst:02:00:00:00:00:01,push_vlan:0x8100,output:2'),
    'push_vlan:0x8100,mod_dl_dst:02:00:00:00:00:01,output:2',
  );
  t.is(ordered('output:1,group:5'), 'group:5');
  t.is(ordered('load:1->NXM_NX_REG0[],load:2->NXM_NX_REG0[]'), 'load:0x1->NXM_NX_REG0[],load:0x2->NXM_NX_REG0[]');
});

test('a bucket lives by its port or its group', (t) => {
  const { groupMap, source } = build(
    'group_id=1,type=ff,bucket=watch_port:1,actions=1',
    'group_id=2,type=ff,bucket=watch_group:1,actions=2',
    'group_id=3,type=select,bucket=actions=3',
  );
  const lives = (id: number, live: readonly number[]): boolean =>
    bucketIsLive(groupMap.get(id)!.buckets[0]!, source(live));
  t.deepEqual(
    [1, 2, 3].map((id) => lives(id, [])),
    [false, false, true],
  );
  t.deepEqual(
    [1, 2, 3].map((id) => lives(id, [1])),
    [true, true, true],
  );
});

test('buckets of weight 0 take nothing', (t) => {
  const { groupMap, source } = build('group_id=1,type=select,bucket=weight:0,actions=1,bucket=weight:5,actions=2');
  for (let hash = 0; hash < 100; hash++) t.is(selectBucket(groupMap.get(1)!, hash, source([]))!.bucketId, 1);
});

test('buckets are put in and taken out by place, and keep their counters', (t) => {
  const { groupMap, batch } = build('group_id=1,type=all,bucket=bucket_id:5,actions=1,bucket=bucket_id:6,actions=2');
  const ids = (): number[] => groupMap.get(1)!.buckets.map(({ bucketId }) => bucketId);
  groupMap.get(1)!.buckets[1]!.packets = 9;
  batch.apply(parseGroupMod('insert_buckets', 'group_id=1,command_bucket_id=5,bucket=bucket_id:7,actions=3'));
  t.deepEqual(ids(), [5, 7, 6]);
  batch.apply(parseGroupMod('remove_buckets', 'group_id=1,command_bucket_id=first'));
  t.deepEqual(ids(), [7, 6]);
  t.is(groupMap.get(1)!.buckets[1]!.packets, 9);
  t.is(
    t.throws(() => batch.apply(parseGroupMod('remove_buckets', 'group_id=1,command_bucket_id=99')), {
      instanceOf: RequestError,
    }).code,
    'OFPGMFC_UNKNOWN_BUCKET',
  );
  batch.rollBack();
  t.is(groupMap.size, 0);
});

test('a group that is gone loses the packet', (t) => {
  const x = new Translator();
  x.bridge = { groupMap: new Map<number, Group>() } as unknown as Pipeline;
  runGroup(x, 5, true);
  t.is(x.reason, dropReason('group_no_bucket'));
  t.true(x.usedGroups);
});
