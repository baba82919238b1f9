/** Prints groups as `ovs-ofctl dump-groups` does. */
import { formatActions } from './actions-format.ts';
import { type BucketSpec, type GroupModSpec, type GroupType, NO_GROUP } from './group-parse.ts';
import { formatPort, OFPP_NONE, type PortNames } from './ofp-port.ts';

export interface GroupText extends Pick<GroupModSpec, 'groupId' | 'selection' | 'buckets'> {
  readonly type: GroupType;
}

export interface GroupTextOptions {
  readonly names?: PortNames;
  /** OpenFlow 1.1 to 1.4 know no bucket ids. Default true. */
  readonly bucketIds?: boolean;
}

/** `group_id=1,type=select,bucket=bucket_id:0,weight:100,actions=output:1`, without a leading blank. */
export function formatGroup(group: GroupText, options: GroupTextOptions = {}): string {
  const parts = [`group_id=${group.groupId}`, `type=${group.type}`];
  const { method, param, fields } = group.selection;
  if (method) parts.push(`selection_method=${method}`);
  if (param) parts.push(`selection_method_param=${param}`);
  if (fields.length === 1) parts.push(`fields=${fields[0]!.name}`);
  if (fields.length > 1) parts.push(`fields(${fields.map(({ name }) => name).join(',')})`);
  for (const bucket of group.buckets) parts.push(`bucket=${formatBucket(bucket, group.type, options)}`);
  return parts.join(',');
}

function formatBucket(bucket: BucketSpec, type: GroupType, { names, bucketIds = true }: GroupTextOptions): string {
  const parts: string[] = [];
  if (bucketIds) parts.push(`bucket_id:${bucket.bucketId}`);
  if (type === 'select' && bucket.weight !== 1) parts.push(`weight:${bucket.weight}`);
  if (bucket.watchPort !== OFPP_NONE) parts.push(`watch_port:${formatPort(bucket.watchPort, names)}`);
  if (bucket.watchGroup !== NO_GROUP) parts.push(`watch_group:${bucket.watchGroup}`);
  parts.push(`actions=${formatActions(bucket.actions, names)}`);
  return parts.join(',');
}
