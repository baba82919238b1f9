import test from 'ava';
import type { GroupCommand } from '#ofproto/api.ts';
import { formatGroup } from '#ofproto/group-format.ts';
import { ALL_GROUPS, NO_GROUP, parseGroupMod } from '#ofproto/group-parse.ts';
import { OFPP_NONE } from '#ofproto/ofp-port.ts';
import { portNames, refusal } from './golden.ts';

const add = (text: string) => parseGroupMod('add', text, portNames);

test('buckets have their keys, defaults and numbers', (t) => {
  const { groupId, type, buckets } = add(
    'group_id=7,type=select,bucket=bucket_id:1,weight:5,output:1,bucket=actions=output:2,output:3,watch_port:p2',
  );
  t.is(groupId, 7);
  t.is(type, 'select');
  t.like(buckets[0], { bucketId: 1, weight: 5, watchPort: OFPP_NONE, watchGroup: NO_GROUP });
  t.like(buckets[1], { bucketId: 0, weight: 1, watchPort: 2 });
  t.is(buckets[1]!.actions.length, 2);
});

test('deletions and bucket commands say what they are for', (t) => {
  t.is(parseGroupMod('delete', '').groupId, ALL_GROUPS);
  t.is(parseGroupMod('delete', 'group_id=all').groupId, ALL_GROUPS);
  t.is(parseGroupMod('delete', 'group_id=3').groupId, 3);
  t.like(parseGroupMod('insert_buckets', 'group_id=3,command_bucket_id=first,bucket=output:1'), {
    commandBucket: 'first',
  });
  t.like(parseGroupMod('remove_buckets', 'group_id=3,command_bucket_id=9'), { commandBucket: 9 });
  t.like(parseGroupMod('remove_buckets', 'group_id=3,command_bucket_id=all'), { commandBucket: 'all' });
});

for (const [command, text, message] of [
  ['add', 'group_id=1', 'must specify a type'],
  ['add', 'type=all,bucket=output:1', 'must specify a group_id'],
  ['add', 'group_id=1,type=foo', 'invalid group type foo'],
  ['add', 'group_id=1,type=all,foo=1', 'unknown keyword foo'],
  ['add', 'group_id=1,type=all,group_id=2', 'group_id is given twice'],
  ['add', 'group_id=abc,type=all', 'invalid numeric format abc'],
  ['add', 'group_id=4294967041,type=all', 'invalid group id 4294967041'],
  ['add', 'group_id=1,type=all,bucket=', 'bucket must specify actions'],
  ['add', 'group_id=1,type=all,bucket=weight:5,output:1', 'Only select groups can have bucket weights.'],
  ['add', 'group_id=1,type=select,bucket=weight:65536,output:1', 'invalid weight "65536"'],
  ['add', 'group_id=1,type=ff,bucket=output:1', 'fast failover bucket requires watch_port or watch_group'],
  ['add', 'group_id=1,type=ff,bucket=watch_port:LOCAL,output:1', 'LOCAL: invalid watch_port'],
  ['add', 'group_id=1,type=indirect,bucket=output:1,bucket=output:2', 'Indirect groups can have at most one bucket.'],
  ['add', 'group_id=1,type=all,bucket=goto_table:3', 'goto_table instruction not allowed here'],
  ['add', 'group_id=1,type=all,bucket=foo:1', 'unknown action foo'],
  ['add', 'group_id=1,type=select,bucket=bucket_id:5,1,bucket=bucket_id:5,2', 'bucket_id 5 is given twice'],
  ['add', 'group_id=1,type=all,selection_method=hash,bucket=1', 'selection method is only for select groups'],
  ['add', `group_id=1,type=all${',bucket=1'.repeat(1025)}`, 'more than 1024 buckets'],
  ['delete', 'group_id=1,type=all', 'type is not needed'],
  ['insert_buckets', 'group_id=1,bucket=1', 'must specify a command bucket id'],
  ['remove_buckets', 'group_id=1', 'must specify a command bucket id'],
] as const satisfies readonly (readonly [GroupCommand, string, string])[]) {
  test(`${command} of ${text.slice(0, 60)} is refused: ${message}`, (t) => {
    t.is(
      refusal(() => parseGroupMod(command, text, portNames)),
      message,
    );
  });
}

test('groups are printed with names, and without bucket ids for OpenFlow 1.3', (t) => {
  const { groupId, selection, buckets } = add(
    'group_id=1,type=ff,bucket=watch_port:1,output:1,bucket=watch_group:2,output:p2',
  );
  const text = formatGroup({ groupId, type: 'ff', selection, buckets }, { names: portNames, bucketIds: false });
  t.is(text, 'group_id=1,type=ff,bucket=watch_port:p1,actions=output:p1,bucket=watch_group:2,actions=output:p2');
});
