/** Flows, tables and groups of a bridge, and traces. */
import { type FlowLineOptions, formatFlowLine, OPENFLOW_VERSIONS } from '#contract/flow-line.ts';
import type { DumpOptions, FlowMod, FlowView, GroupMod } from '#ofproto/api.ts';
import { RequestError } from '#ofproto/api.ts';
import { diffFlows, replaceMods } from '../flow-diff.ts';
import { byLine, parseFlowFile, parseGroupFile } from '../flow-text.ts';
import { LARGE_BODY, PAGE_QUERY, paged, type Route } from '../route.ts';

const tag = 'openflow';

const FLOW_FILTER = {
  filter: 'Flows to take, as ovs-ofctl dump-flows has it: table, cookie/mask, match fields, out_port, out_group.',
} as const;

/** Runs `work`; errors name the field of the request: `mods[3].flow`, or with a text body the line. */
async function withLines(lines: readonly number[] | undefined, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    throw lines ? byLine(error, lines) : byMod(error);
  }
}

function byMod(error: unknown): unknown {
  if (!(error instanceof RequestError)) return error;
  const { code, message, hint, status } = error;
  const field = error.field.replace(/^flows(\[\d+\])/, 'mods$1.flow').replace(/^groups(\[\d+\])/, 'mods$1.group');
  return new RequestError(code, message, { field, hint, status });
}

const flowMods = (body: unknown): { mods: FlowMod[]; lines?: number[] } => {
  if (typeof body === 'string') return parseFlowFile(body);
  const { mods = [] } = body as { mods?: { command: FlowMod['command']; flow?: string }[] };
  return { mods: mods.map(({ command, flow = '' }) => ({ command, flow })) };
};

const groupMods = (body: unknown): { mods: GroupMod[]; lines?: number[] } => {
  if (typeof body === 'string') return parseGroupFile(body);
  const { mods = [] } = body as { mods?: { command: GroupMod['command']; group?: string }[] };
  return { mods: mods.map(({ command, group = '' }) => ({ command, group })) };
};

const PROTOCOL = {
  protocol:
    'OpenFlow10 to OpenFlow15. As in that version an addition clears the counters of the flow that it replaces (1.0, 1.1).',
} as const;

/** Wire version of a `protocol` parameter. @throws RequestError */
function wireVersion(name: string): number {
  const at = OPENFLOW_VERSIONS.indexOf(name);
  if (at >= 0) return at + 1;
  throw new RequestError('bad_value', `unknown OpenFlow version "${name}"`, {
    field: 'protocol',
    hint: OPENFLOW_VERSIONS.join(', '),
  });
}

/** OpenFlow 1.2 and later leave the counters of a flow that an addition replaces (OpenFlow 1.2 §A.3.4.1). */
const resetsCounts = (protocol: string | undefined): boolean => protocol !== undefined && wireVersion(protocol) <= 2;

const withReset = (mods: readonly FlowMod[], protocol: string | undefined): readonly FlowMod[] =>
  resetsCounts(protocol) ? mods.map((mod) => (mod.command === 'add' ? { ...mod, resetCounts: true } : mod)) : mods;

/** Lines in one piece of a text reply; between two pieces other work gets its turn. */
const LINES_PER_PIECE = 500;

function* flowLines(flows: Iterable<FlowView>, options: FlowLineOptions): Generator<string> {
  let piece = '';
  let lines = 0;
  for (const flow of flows) {
    piece += `${formatFlowLine(flow, options)}\n`;
    if (++lines % LINES_PER_PIECE !== 0) continue;
    yield piece;
    piece = '';
  }
  if (piece !== '') yield piece;
}

function dumpOptions({ names, protocol = 'OpenFlow10' }: Readonly<Record<string, string>>): DumpOptions {
  return { names: isTrue(names), actions: wireVersion(protocol) === 1 ? 'nicira' : 'openflow' };
}

const isTrue = (text: string | undefined): boolean => text === 'true' || text === '1';

export const openflowRoutes: readonly Route[] = [
  {
    method: 'GET',
    url: '/v1/bridges/:name/flows',
    summary: 'Flows with statistics',
    tag,
    query: {
      ...FLOW_FILTER,
      names: 'true: port names instead of numbers.',
      protocol: 'OpenFlow10 (default) to OpenFlow15: in whose terms flows are told.',
      stats: 'false: text without statistics.',
      ...PAGE_QUERY,
    },
    reply: 'FlowList',
    handler: (context, request) =>
      paged(context, request, 'flows', () =>
        context.manager.bridge(request.params.name!).dumpFlows(request.query.filter ?? '', dumpOptions(request.query)),
      ),
    textReply: ({ manager }, { params, query }) => {
      const options = dumpOptions(query);
      const version = wireVersion(query.protocol ?? 'OpenFlow10');
      const flows = manager.bridge(params.name!).walkFlows(query.filter ?? '', options);
      return flowLines(flows, { version, stats: query.stats !== 'false', ages: !options.names });
    },
  },
  {
    method: 'POST',
    url: '/v1/bridges/:name/flows',
    summary: 'Add, modify and delete flows: all or none',
    tag,
    query: PROTOCOL,
    body: 'FlowMods',
    text: 'A flow file as ovs-ofctl add-flows takes it.',
    bodyLimit: LARGE_BODY,
    reply: 'Applied',
    handler: async ({ manager }, { params, query, body }) => {
      const { mods, lines } = flowMods(body);
      await withLines(lines, () => manager.modifyFlows(params.name!, withReset(mods, query.protocol)));
      return { applied: mods.length };
    },
  },
  {
    method: 'PUT',
    url: '/v1/bridges/:name/flows',
    summary: 'Make these the only flows; those that are there already keep their statistics',
    tag,
    query: PROTOCOL,
    body: 'FlowTexts',
    text: 'A flow file, one flow a line.',
    bodyLimit: LARGE_BODY,
    reply: 'Applied',
    handler: async ({ manager }, { params, query, body }) => {
      const bridge = manager.bridge(params.name!);
      const file = typeof body === 'string' ? parseFlowFile(body) : undefined;
      const texts = file ? file.mods.map((mod) => mod.flow) : ((body as { flows?: string[] }).flows ?? []);
      let mods: FlowMod[];
      try {
        mods = replaceMods(bridge, texts);
      } catch (error) {
        throw file ? byLine(error, file.lines) : error;
      }
      if (mods.length > 0) await manager.modifyFlows(params.name!, withReset(mods, query.protocol));
      return { applied: mods.length };
    },
  },
  {
    method: 'DELETE',
    url: '/v1/bridges/:name/flows',
    summary: 'Delete the flows that a filter takes; all without one',
    tag,
    query: { ...FLOW_FILTER, strict: 'true: the flow with exactly this match and priority only.' },
    reply: 'Empty',
    handler: async ({ manager }, { params, query }) => {
      const command = isTrue(query.strict) ? 'delete_strict' : 'delete';
      await manager.modifyFlows(params.name!, [{ command, flow: query.filter ?? '' }]);
      return {};
    },
  },
  {
    method: 'GET',
    url: '/v1/bridges/:name/flows/aggregate',
    summary: 'Sums over the flows that a filter takes',
    tag,
    query: FLOW_FILTER,
    reply: 'Aggregate',
    handler: ({ manager }, { params, query }) => manager.bridge(params.name!).aggregate(query.filter ?? ''),
  },
  {
    method: 'POST',
    url: '/v1/flows/diff',
    summary: 'What differs between two sets of flows',
    tag,
    body: 'FlowDiffRequest',
    bodyLimit: LARGE_BODY,
    reply: 'FlowDiff',
    handler: ({ manager }, { body }) => {
      const { bridge = '', a = '', otherBridge = '', b = '', protocol } = body as Readonly<Record<string, string>>;
      const flows = (name: string, file: string, field: string) => {
        if (name === '') return file;
        const found = manager.switch.bridges.get(name);
        if (found) return found;
        throw new RequestError('no_such_bridge', `no bridge named ${name}`, { status: 404, field });
      };
      const first = flows(bridge, a, 'bridge');
      const second = flows(otherBridge, b, 'otherBridge');
      return { lines: diffFlows(first, second, wireVersion(protocol || 'OpenFlow10')) };
    },
  },
  {
    method: 'GET',
    url: '/v1/bridges/:name/tables',
    summary: 'Statistics of the flow tables',
    tag,
    reply: 'TableList',
    handler: ({ manager }, { params }) => ({ tables: manager.bridge(params.name!).tables() }),
  },
  {
    method: 'GET',
    url: '/v1/bridges/:name/groups',
    summary: 'Groups with statistics',
    tag,
    query: PAGE_QUERY,
    reply: 'GroupList',
    handler: (context, request) =>
      paged(context, request, 'groups', () => context.manager.bridge(request.params.name!).groups()),
  },
  {
    method: 'POST',
    url: '/v1/bridges/:name/groups',
    summary: 'Add, modify and delete groups: all or none',
    tag,
    body: 'GroupMods',
    text: 'A group file as ovs-ofctl add-groups takes it.',
    bodyLimit: LARGE_BODY,
    reply: 'Applied',
    handler: async ({ manager }, { params, body }) => {
      const { mods, lines } = groupMods(body);
      await withLines(lines, () => manager.modifyGroups(params.name!, mods));
      return { applied: mods.length };
    },
  },
  {
    method: 'POST',
    url: '/v1/trace',
    summary: 'What would happen to a packet, and why',
    tag,
    body: 'TraceRequest',
    reply: 'TraceReply',
    handler: ({ manager }, { body }) => {
      const { bridge = '', flow } = body as { bridge?: string; flow: string };
      const only = manager.switch.bridges.size === 1 ? [...manager.switch.bridges.values()][0] : undefined;
      const target = bridge === '' ? only : manager.switch.bridges.get(bridge);
      if (!target) {
        throw new RequestError('no_such_bridge', bridge ? `${bridge}: unknown bridge` : 'bridge name is missing', {
          field: 'bridge',
          status: 404,
        });
      }
      return target.trace(flow);
    },
  },
];
