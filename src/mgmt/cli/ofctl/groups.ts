/** Commands on groups. */
import { json, text } from '../client.ts';
import { atBridge, type Command, type Context, explain, readFlowFile } from './context.ts';
import { replyHeader } from './protocol.ts';

interface GroupMessage {
  readonly groupId: number;
  readonly text: string;
  readonly duration: number;
  readonly refCount: number;
  readonly packets: number;
  readonly bytes: number;
  readonly buckets: readonly { readonly packets: number; readonly bytes: number }[];
}

type GroupCommand = 'add' | 'modify' | 'add_or_modify' | 'delete' | 'insert_buckets' | 'remove_buckets';

const WORDS: Readonly<Record<GroupCommand, string>> = {
  add: 'ADD',
  modify: 'MOD',
  add_or_modify: 'ADD_OR_MOD',
  delete: 'DEL',
  insert_buckets: 'INSERT_BUCKET',
  remove_buckets: 'REMOVE_BUCKET',
};

async function modify(context: Context, command: GroupCommand, group: string): Promise<undefined> {
  try {
    const body = json({ mods: [{ command, group }] });
    await atBridge(context.args[0]!, (path) => context.client.call('POST', `${path}/groups`, body));
  } catch (error) {
    throw explain(error, context, `OFPT_GROUP_MOD ${WORDS[command]} ${group}`);
  }
  return undefined;
}

async function sendFile(context: Context, name: string): Promise<undefined> {
  const content = readFlowFile(name);
  try {
    await atBridge(context.args[0]!, (path) => context.client.call('POST', `${path}/groups`, text(content)));
  } catch (error) {
    throw explain(error, context, 'OFPT_GROUP_MOD ADD', { name, text: content });
  }
  return undefined;
}

/** Groups of a bridge; with `id` only that one. */
async function fetchGroups(context: Context, id: string | undefined): Promise<GroupMessage[]> {
  const all = await atBridge(context.args[0]!, (path) => context.client.list<GroupMessage>(`${path}/groups`, 'groups'));
  const wanted = id === undefined || id.toLowerCase() === 'all' ? undefined : Number(id.replace(/^group_id=/, ''));
  return wanted === undefined ? all : all.filter((group) => group.groupId === wanted);
}

/** Bucket ids are of OpenFlow 1.5, which is also what the Nicira extension of 1.0 to 1.2 carries. */
function groupText(group: string, withIds: boolean): string {
  if (!withIds) return group.replace(/bucket=bucket_id:\d+,/g, 'bucket=');
  let next = 0;
  return group.replace(/bucket=(bucket_id:\d+,)?/g, (_all, id) => {
    const own = next++;
    return `bucket=${id ?? `bucket_id:${own},`}`;
  });
}

async function dumpGroups(context: Context): Promise<undefined> {
  const { version, out } = context;
  // Before 1.5 the request has no group in it: all are told.
  const groups = await fetchGroups(context, version.number >= 6 ? context.args[1] : undefined);
  if (context.json) {
    out.line(JSON.stringify(groups));
    return undefined;
  }
  out.line(replyHeader(version, 'GROUP_DESC', 2, true));
  for (const group of groups) out.line(` ${groupText(group.text, version.number >= 6 || version.number === 1)}`);
  return undefined;
}

async function dumpGroupStats(context: Context): Promise<undefined> {
  const { version, out } = context;
  const groups = await fetchGroups(context, context.args[1]);
  if (context.json) {
    out.line(JSON.stringify(groups));
    return undefined;
  }
  out.line(replyHeader(version, 'GROUP', 6, true));
  for (const group of groups) {
    const buckets = group.buckets
      .map((b, at) => `,bucket${at}:packet_count=${b.packets},byte_count=${b.bytes}`)
      .join('');
    out.line(
      ` group_id=${group.groupId},duration=${group.duration.toFixed(3)}s,ref_count=${group.refCount},` +
        `packet_count=${group.packets},byte_count=${group.bytes}${buckets}`,
    );
  }
  return undefined;
}

const fileOr = (context: Context, command: GroupCommand): Promise<undefined> =>
  context.args[1] === '-' ? sendFile(context, '-') : modify(context, command, context.args[1] ?? '');

export const groupCommands: Readonly<Record<string, Command>> = {
  'add-group': { least: 2, most: 2, run: (context) => fileOr(context, 'add') },
  'add-groups': { least: 2, most: 2, run: (context) => sendFile(context, context.args[1]!) },
  'mod-group': {
    least: 2,
    most: 2,
    run: (context) => fileOr(context, context.options.has('may-create') ? 'add_or_modify' : 'modify'),
  },
  'del-groups': { least: 1, most: 2, run: (context) => fileOr(context, 'delete') },
  'insert-buckets': { least: 2, most: 2, run: (context) => modify(context, 'insert_buckets', context.args[1]!) },
  'remove-buckets': { least: 2, most: 2, run: (context) => modify(context, 'remove_buckets', context.args[1]!) },
  'dump-groups': { least: 1, most: 2, run: dumpGroups },
  'dump-group-stats': { least: 1, most: 2, run: dumpGroupStats },
};
