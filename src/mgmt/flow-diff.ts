/** Compares sets of flows, for ovs-ofctl's diff-flows and replace-flows. */
import { formatActions } from '#ofproto/actions-format.ts';
import { type BridgeApi, type FlowMod, type FlowView, RequestError } from '#ofproto/api.ts';
import { DEFAULT_PRIORITY, parseFlowMod } from '#ofproto/flow-parse.ts';
import { formatMatch } from '#ofproto/match-format.ts';
import { noPortNames, type PortNames } from '#ofproto/ofp-port.ts';
import { flowText, parseFlowFile } from './flow-text.ts';

type Flow = Pick<
  FlowView,
  'table' | 'priority' | 'cookie' | 'idleTimeout' | 'hardTimeout' | 'importance' | 'flags' | 'match' | 'actions'
>;

const identity = (flow: Flow): string => `${flow.table} ${flow.priority} ${flow.match}`;
/** What two flows of one identity may differ in. */
const version = (flow: Flow): string =>
  `${flow.cookie} ${flow.idleTimeout} ${flow.hardTimeout} ${flow.importance} ${flow.actions}`;

function portNames(bridge: BridgeApi | undefined): PortNames {
  if (!bridge) return noPortNames;
  const ports = bridge.ports();
  const numbers = new Map(ports.map((port) => [port.name, port.ofport] as const));
  const names = new Map(ports.map((port) => [port.ofport, port.name] as const));
  return { numberOf: (name) => numbers.get(name), nameOf: (port) => names.get(port) };
}

function parseFlows(texts: readonly string[], names: PortNames): Map<string, Flow> {
  const flows = new Map<string, Flow>();
  for (const [at, text] of texts.entries()) {
    try {
      const mod = parseFlowMod('add', text, names);
      const flow: Flow = {
        table: mod.table,
        priority: mod.priority,
        cookie: `0x${(mod.newCookie ?? 0n).toString(16)}`,
        idleTimeout: mod.idleTimeout,
        hardTimeout: mod.hardTimeout,
        importance: mod.importance,
        flags: mod.flags,
        match: formatMatch(mod.match),
        actions: formatActions(mod.actions),
      };
      flows.set(identity(flow), flow);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      const { code, field, hint, status } = error;
      throw new RequestError(code, error.message, { field: `flows[${at}]${field ? `.${field}` : ''}`, hint, status });
    }
  }
  return flows;
}

const flowsOf = (bridge: BridgeApi): Map<string, Flow> =>
  new Map(bridge.dumpFlows('').map((flow) => [identity(flow), flow] as const));

/** The flow mods that make `texts` the only flows of a bridge. @throws RequestError; field `flows[i]`. */
export function replaceMods(bridge: BridgeApi, texts: readonly string[]): FlowMod[] {
  const wanted = parseFlows(texts, portNames(bridge));
  const there = flowsOf(bridge);
  const mods: FlowMod[] = [];
  for (const [key, flow] of there) {
    if (wanted.has(key)) continue;
    const match = flow.match ? `,${flow.match}` : '';
    mods.push({ command: 'delete_strict', flow: `table=${flow.table},priority=${flow.priority}${match}` });
  }
  for (const [key, flow] of wanted) {
    const old = there.get(key);
    if (!old || version(old) !== version(flow))
      mods.push({ command: 'add', flow: flowText({ ...emptyStatistics, ...flow }) });
  }
  return mods;
}

const emptyStatistics = { duration: 0, packets: 0, bytes: 0, idleAge: 0, hardAge: 0 } as const;

function diffLine(sign: string, flow: Flow): string {
  const match = [flow.priority === DEFAULT_PRIORITY ? '' : `priority=${flow.priority}`, flow.match].filter(
    (part) => part,
  );
  const words = [
    flow.table ? `table=${flow.table}` : '',
    match.join(','),
    flow.cookie === '0x0' ? '' : `cookie=${flow.cookie}`,
    flow.idleTimeout ? `idle_timeout=${flow.idleTimeout}` : '',
    flow.hardTimeout ? `hard_timeout=${flow.hardTimeout}` : '',
    flow.importance ? `importance=${flow.importance}` : '',
    ...flow.flags,
    `actions=${flow.actions}`,
  ];
  return sign + words.filter((word) => word !== '').join(' ');
}

/**
 * Lines of ovs-ofctl diff-flows, by table, then falling priority. `a` and `b` are flow files; with a bridge its flows
 * stand for `a`. @throws RequestError; field `line N` and `a` or `b`.
 */
export function diffFlows(bridge: BridgeApi | undefined, a: string, b: string): string[] {
  const names = portNames(bridge);
  const first = bridge ? flowsOf(bridge) : parseFile(a, names, 'a');
  const second = parseFile(b, names, 'b');
  const all = new Map([...first, ...second]);
  const order = [...all.entries()].sort(
    ([, x], [, y]) => x.table - y.table || y.priority - x.priority || (x.match < y.match ? -1 : 1),
  );
  const lines: string[] = [];
  for (const [key] of order) {
    const left = first.get(key);
    const right = second.get(key);
    if (left && right && version(left) === version(right)) continue;
    if (left) lines.push(diffLine('-', left));
    if (right) lines.push(diffLine('+', right));
  }
  return lines;
}

function parseFile(text: string, names: PortNames, which: string): Map<string, Flow> {
  const { mods, lines } = parseFlowFile(text);
  try {
    return parseFlows(
      mods.map((mod) => mod.flow),
      names,
    );
  } catch (error) {
    const at = error instanceof RequestError ? /^flows\[(\d+)\]/.exec(error.field) : undefined;
    if (!at || !(error instanceof RequestError)) throw error;
    const { code, hint, status } = error;
    throw new RequestError(code, error.message, { field: `${which} line ${lines[Number(at[1])]}`, hint, status });
  }
}
