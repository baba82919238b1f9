/** Commands on flows. */
import { existsSync } from 'node:fs';
import { formatFlowLine } from '#contract/flow-line.ts';
import { ApiError, Fatal, json, text } from '../client.ts';
import { atBridge, bridgeName, type Command, type Context, explain, readFlowFile } from './context.ts';
import { type FlowMessage, isSortField, sortFlows } from './flow-format.ts';
import { replyHeader, versionName } from './protocol.ts';

type FlowCommand = 'add' | 'modify' | 'modify_strict' | 'delete' | 'delete_strict';

const WORDS: Readonly<Record<FlowCommand, string>> = {
  add: 'ADD',
  modify: 'MOD',
  modify_strict: 'MOD_STRICT',
  delete: 'DEL',
  delete_strict: 'DEL_STRICT',
};

/** Where flow_mods of this protocol version go. */
const flowsPath = (path: string, context: Context): string => `${path}/flows?protocol=${versionName(context.version)}`;

async function modify(context: Context, command: FlowCommand, flow: string): Promise<undefined> {
  const target = context.args[0]!;
  try {
    await atBridge(target, (path) =>
      context.client.call('POST', flowsPath(path, context), json({ mods: [{ command, flow }] })),
    );
  } catch (error) {
    throw explain(error, context, `OFPT_FLOW_MOD ${WORDS[command]} ${flow}`);
  }
  return undefined;
}

/** Sends a flow file; lines without a command word get `command`. */
async function sendFile(
  context: Context,
  method: 'POST' | 'PUT',
  name: string,
  command: FlowCommand = 'add',
): Promise<undefined> {
  const content = readFlowFile(name);
  const body = command === 'add' ? content : content.replace(/^(?=[^\S\n]*[^\s#])/gm, `${command} `);
  try {
    await atBridge(context.args[0]!, (path) => context.client.call(method, flowsPath(path, context), text(body)));
  } catch (error) {
    throw explain(error, context, `OFPT_FLOW_MOD ${WORDS[command]}`, { name, text: body });
  }
  return undefined;
}

const strict = (context: Context): '' | '_strict' => (context.options.has('strict') ? '_strict' : '');

async function dumpFlows(context: Context): Promise<undefined> {
  const { options, version, out, client } = context;
  const [target = '', filter = ''] = context.args;
  const sort = options.has('rsort') ? 'rsort' : options.has('sort') ? 'sort' : undefined;
  const field = sort ? options.get(sort) || 'priority' : '';
  if (sort && !isSortField(field)) throw new Fatal(`${field}: unknown field name`);
  const stats = !options.has('no-stats');
  const query = new URLSearchParams({ protocol: versionName(version) });
  if (filter) query.set('filter', filter);
  if (options.has('names')) query.set('names', 'true');
  if (sort || context.json) {
    const flows = await atBridge(target, (path) => client.list<FlowMessage>(`${path}/flows?${query}`, 'flows'));
    if (sort) sortFlows(flows, field, sort === 'rsort');
    if (context.json) out.line(JSON.stringify(flows));
    else for (const flow of flows) out.line(formatFlowLine(flow, { version: version.number, stats, ages: false }));
    return undefined;
  }
  if (!stats) query.set('stats', 'false');
  if (stats && !options.has('names')) out.line(replyHeader(version, 'FLOW', version.number === 1 ? 4 : 2, true));
  await atBridge(target, (path) => client.stream(`${path}/flows?${query}`, (chunk) => out.bytes(chunk)));
  return undefined;
}

async function dumpAggregate(context: Context): Promise<undefined> {
  const { version, out } = context;
  const query = context.args[1] ? `?${new URLSearchParams({ filter: context.args[1] })}` : '';
  const sums = await atBridge(context.args[0]!, (path) => context.client.get(`${path}/flows/aggregate${query}`));
  if (context.json) out.line(JSON.stringify(sums));
  else {
    const header = replyHeader(version, 'AGGREGATE', version.number === 1 ? 4 : 2, true);
    out.line(`${header} packet_count=${sums.packets} byte_count=${sums.bytes} flow_count=${sums.flows}`);
  }
  return undefined;
}

/** A source of diff-flows: a file when there is one of that name, else a bridge. */
const isFile = (source: string): boolean => source === '-' || (!source.includes(':') && existsSync(source));

async function diffFlows(context: Context): Promise<number> {
  const sources = context.args.slice(0, 2);
  const files = sources.map((source) => (isFile(source) ? readFlowFile(source) : ''));
  const bridges = sources.map((source) => (isFile(source) ? '' : bridgeName(source)));
  const [bridge, otherBridge] = bridges;
  const [a, b] = files;
  const request = json({ bridge, a, otherBridge, b, protocol: versionName(context.version) });
  let lines: string[];
  try {
    lines = (await context.client.call('POST', '/v1/flows/diff', request)).lines;
  } catch (error) {
    if (error instanceof ApiError && error.code === 'no_such_bridge')
      throw new Fatal(
        `${sources[bridges.indexOf(error.field === 'otherBridge' ? otherBridge! : bridge!)]} is not a bridge or a socket`,
      );
    const at = error instanceof ApiError && error.field.startsWith('a ') ? 0 : 1;
    throw explain(error, context, 'OFPT_FLOW_MOD ADD', { name: sources[at]!, text: files[at]! });
  }
  if (context.json) context.out.line(JSON.stringify(lines));
  else for (const line of lines) context.out.line(line);
  return lines.length > 0 ? 2 : 0;
}

/** Commands that take flows from the command line, from a file, or `-`. */
const fileOr = (context: Context, command: FlowCommand): Promise<undefined> =>
  context.args[1] === '-' ? sendFile(context, 'POST', '-', command) : modify(context, command, context.args[1] ?? '');

export const flowCommands: Readonly<Record<string, Command>> = {
  'dump-flows': { least: 1, most: 2, run: dumpFlows },
  'dump-aggregate': { least: 1, most: 2, run: dumpAggregate },
  'add-flow': { least: 2, most: 2, run: (context) => fileOr(context, 'add') },
  'add-flows': { least: 2, most: 2, run: (context) => sendFile(context, 'POST', context.args[1]!) },
  'mod-flows': { least: 2, most: 2, run: (context) => fileOr(context, `modify${strict(context)}`) },
  'del-flows': { least: 1, most: 2, run: (context) => fileOr(context, `delete${strict(context)}`) },
  'replace-flows': { least: 2, most: 2, run: (context) => sendFile(context, 'PUT', context.args[1]!) },
  'diff-flows': { least: 2, most: 2, run: diffFlows },
};
