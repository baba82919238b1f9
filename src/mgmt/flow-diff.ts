/** Compares sets of flows, for ovs-ofctl's diff-flows and replace-flows. Flows are equal when they do the same. */
import { canonicalActions } from '#ofproto/actions-exact.ts';
import { formatActions } from '#ofproto/actions-format.ts';
import { formatActions13 } from '#ofproto/actions-format13.ts';
import { type BridgeApi, type FlowMod, type FlowView, RequestError } from '#ofproto/api.ts';
import { DEFAULT_PRIORITY, parseFlowMod } from '#ofproto/flow-parse.ts';
import { newMatch } from '#ofproto/match.ts';
import { formatMatch } from '#ofproto/match-format.ts';
import { noPortNames, type PortNames } from '#ofproto/ofp-port.ts';
import { parseFlowFile } from './flow-text.ts';

/** A flow as far as it is compared. */
interface Flow
  extends Pick<FlowView, 'table' | 'priority' | 'cookie' | 'idleTimeout' | 'hardTimeout' | 'importance' | 'match'> {
  /** Text that lists of actions which do the same have in common. */
  readonly actions: string;
  /** A text that makes this flow. */
  readonly text: string;
}

const identity = (flow: Pick<Flow, 'table' | 'priority' | 'match'>): string =>
  `${flow.table} ${flow.priority} ${flow.match}`;
/** What two flows of one identity may differ in; flags are no difference, as in ovs-ofctl. */
const version = (flow: Flow): string =>
  `${flow.cookie} ${flow.idleTimeout} ${flow.hardTimeout} ${flow.importance} ${flow.actions}`;

function portNames(bridge: BridgeApi | undefined): PortNames {
  if (!bridge) return noPortNames;
  const ports = bridge.ports();
  const numbers = new Map(ports.map((port) => [port.name, port.ofport] as const));
  const names = new Map(ports.map((port) => [port.ofport, port.name] as const));
  return { numberOf: (name) => numbers.get(name), nameOf: (port) => names.get(port) };
}

/** Match of the flow being read. */
const scratch = newMatch();

function parseFlows(texts: readonly string[], names: PortNames): Map<string, Flow> {
  const flows = new Map<string, Flow>();
  for (const [at, text] of texts.entries()) {
    try {
      const mod = parseFlowMod('add', text, names, scratch);
      const flow: Flow = {
        table: mod.table,
        priority: mod.priority,
        cookie: `0x${(mod.newCookie ?? 0n).toString(16)}`,
        idleTimeout: mod.idleTimeout,
        hardTimeout: mod.hardTimeout,
        importance: mod.importance,
        match: formatMatch(mod.match),
        actions: canonicalActions(mod.actions),
        text,
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

/** Match and actions as a flow_mod has them. */
const bodyText = (flow: Pick<FlowView, 'table' | 'match' | 'actions'>): string =>
  `table=${flow.table},${flow.match} actions=${flow.actions}`;

function flowsOf(bridge: BridgeApi): Map<string, Flow> {
  const flows = new Map<string, Flow>();
  // Most flows share their actions with many others.
  const canonical = new Map<string, string>();
  for (const view of bridge.walkFlows('', { actions: 'exact' })) {
    const text = bodyText(view);
    let actions = canonical.get(view.actions);
    if (actions === undefined) {
      actions = canonicalActions(parseFlowMod('add', text).actions);
      canonical.set(view.actions, actions);
    }
    flows.set(identity(view), { ...view, actions, text });
  }
  return flows;
}

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
    if (!old || version(old) !== version(flow)) mods.push({ command: 'add', flow: flow.text });
  }
  return mods;
}

/** @param wire OpenFlow version in whose terms the actions are told. */
function diffLine(sign: string, flow: Flow, names: PortNames, wire: number): string {
  const { match, actions } = parseFlowMod('add', flow.text, names);
  const key = [flow.priority === DEFAULT_PRIORITY ? '' : `priority=${flow.priority}`, flow.match];
  const words = [
    flow.table ? `table=${flow.table}` : '',
    key.filter((part) => part).join(','),
    flow.cookie === '0x0' ? '' : `cookie=${flow.cookie}`,
    flow.idleTimeout ? `idle_timeout=${flow.idleTimeout}` : '',
    flow.hardTimeout ? `hard_timeout=${flow.hardTimeout}` : '',
    flow.importance ? `importance=${flow.importance}` : '',
    `actions=${wire === 1 ? formatActions(actions) : formatActions13(actions, match)}`,
  ];
  return sign + words.filter((word) => word !== '').join(' ');
}

/**
 * Lines of ovs-ofctl diff-flows, by table, then falling priority. `a` and `b` are bridges or flow files.
 * @param wire OpenFlow version (1 to 6) in whose terms actions are told. @throws RequestError; field `a line N` or `b line N`.
 */
export function diffFlows(a: BridgeApi | string, b: BridgeApi | string, wire = 1): string[] {
  const bridge = typeof a === 'string' ? (typeof b === 'string' ? undefined : b) : a;
  const names = portNames(bridge);
  const first = typeof a === 'string' ? parseFile(a, names, 'a') : flowsOf(a);
  const second = typeof b === 'string' ? parseFile(b, names, 'b') : flowsOf(b);
  const different: Flow[] = [];
  for (const [key, flow] of [...first, ...second]) {
    const [left, right] = [first.get(key), second.get(key)];
    if (flow === right && left) continue;
    if (!left || !right || version(left) !== version(right)) different.push(flow);
  }
  different.sort((x, y) => x.table - y.table || y.priority - x.priority || (x.match < y.match ? -1 : 1));
  const lines: string[] = [];
  for (const flow of different) {
    const key = identity(flow);
    const [left, right] = [first.get(key), second.get(key)];
    if (left) lines.push(diffLine('-', left, names, wire));
    if (right) lines.push(diffLine('+', right, names, wire));
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
