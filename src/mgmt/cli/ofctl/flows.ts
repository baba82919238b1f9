/** Commands on flows. */
import { existsSync } from 'node:fs';
import { Fatal, json, text } from '../client.ts';
import { atBridge, bridgeName, type Command, type Context, explain, readFlowFile } from './context.ts';
import { type FlowMessage, formatFlow, isSortField, sortFlows } from './flow-format.ts';
import { replyHeader } from './protocol.ts';

type FlowCommand = 'add' | 'modify' | 'modify_strict' | 'delete' | 'delete_strict';

const WORDS: Readonly<Record<FlowCommand, string>> = {
  add: 'ADD',
  modify: 'MOD',
  modify_strict: 'MOD_STRICT',
  delete: 'DEL',
  delete_strict: 'DEL_STRICT',
};

async function modify(context: Context, command: FlowCommand, flow: string): Promise<undefined> {
  const target = context.args[0]!;
  try {
    await atBridge(target, (path) => context.client.call('POST', `${path}/flows`, json({ mods: [{ command, flow }] })));
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
    await atBridge(context.args[0]!, (path) => context.client.call(method, `${path}/flows`, text(body)));
  } catch (error) {
    throw explain(error, context, `OFPT_FLOW_MOD ${WORDS[command]}`, { name, text: body });
  }
  return undefined;
}

const strict = (context: Context): '' | '_strict' => (context.options.has('strict') ? '_strict' : '');

export async function fetchFlows(
  context: Context,
  target: string,
  filter: string,
  names: boolean,
): Promise<FlowMessage[]> {
  const query = new URLSearchParams();
  if (filter) query.set('filter', filter);
  if (names) query.set('names', 'true');
  return atBridge(target, (path) => context.client.list<FlowMessage>(`${path}/flows?${query}`, 'flows'));
}

async function dumpFlows(context: Context): Promise<undefined> {
  const { options, version, out } = context;
  const sort = options.has('rsort') ? 'rsort' : options.has('sort') ? 'sort' : undefined;
  const field = sort ? options.get(sort) || 'priority' : '';
  if (sort && !isSortField(field)) throw new Fatal(`${field}: unknown field name`);
  const names = options.has('names');
  const stats = !options.has('no-stats');
  const flows = await fetchFlows(context, context.args[0]!, context.args[1] ?? '', names);
  if (sort) sortFlows(flows, field, sort === 'rsort');
  if (context.json) {
    out.line(JSON.stringify(flows));
    return undefined;
  }
  const plain = stats && !names && !sort;
  if (plain) out.line(replyHeader(version, 'FLOW', version.number === 1 ? 4 : 2, true));
  for (const flow of flows) out.line(formatFlow(flow, { version, stats, plain }));
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

const asFile = (flows: readonly FlowMessage[]): string =>
  flows
    .map((flow) => {
      const head = [`table=${flow.table}`, `priority=${flow.priority}`, `cookie=${flow.cookie}`];
      if (flow.idleTimeout) head.push(`idle_timeout=${flow.idleTimeout}`);
      if (flow.hardTimeout) head.push(`hard_timeout=${flow.hardTimeout}`);
      if (flow.importance) head.push(`importance=${flow.importance}`);
      head.push(...flow.flags);
      if (flow.match) head.push(flow.match);
      return `${head.join(',')} actions=${flow.actions}`;
    })
    .join('\n');

const swap = (line: string): string => (line.startsWith('-') ? '+' : '-') + line.slice(1);

async function diffFlows(context: Context): Promise<number> {
  const [first = '', second = ''] = context.args;
  const content = async (source: string): Promise<string> =>
    isFile(source) ? readFlowFile(source) : asFile(await fetchFlows(context, source, '', false));
  // The switch compares a bridge's flows with a file; another order is turned round, two bridges make one a file.
  const turned = isFile(first) && !isFile(second);
  const bridge = turned ? second : isFile(first) ? '' : first;
  const fileName = turned ? first : second;
  const a = bridge === '' ? readFlowFile(first) : '';
  const b = await content(fileName);
  let lines: string[];
  try {
    const request = { bridge: bridge && bridgeName(bridge), a, b };
    lines = (await atBridge(bridge, () => context.client.call('POST', '/v1/flows/diff', json(request)))).lines;
  } catch (error) {
    const inFirst = error instanceof Error && 'field' in error && String(error.field).startsWith('a ');
    throw explain(error, context, 'OFPT_FLOW_MOD ADD', { name: inFirst ? first : fileName, text: inFirst ? a : b });
  }
  if (context.json) context.out.line(JSON.stringify(turned ? lines.map(swap) : lines));
  else for (const line of turned ? lines.map(swap) : lines) context.out.line(line);
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
