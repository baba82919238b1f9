/** Texts of flows on their way between OpenFlow state, the store and flow files. */
import type { FlowCommand, FlowMod, FlowView, GroupMod, GroupView } from '#ofproto/api.ts';
import { RequestError } from '#ofproto/api.ts';

/** A flow_mod text that makes this flow again. */
export function flowText(flow: FlowView): string {
  const parts = [`table=${flow.table}`, `priority=${flow.priority}`];
  if (flow.cookie !== '0x0') parts.push(`cookie=${flow.cookie}`);
  if (flow.idleTimeout) parts.push(`idle_timeout=${flow.idleTimeout}`);
  if (flow.hardTimeout) parts.push(`hard_timeout=${flow.hardTimeout}`);
  if (flow.importance) parts.push(`importance=${flow.importance}`);
  parts.push(...flow.flags);
  if (flow.match) parts.push(flow.match);
  return `${parts.join(',')} actions=${flow.actions}`;
}

/** Text of a flow_mod that was applied, with all that was said beside it. */
export const storedFlow = ({ flow, resetCounts }: FlowMod): string =>
  resetCounts && !flow.includes('reset_counts') ? `reset_counts,${flow}` : flow;

export const groupAdd = (group: GroupView): GroupMod => ({ command: 'add', group: group.text });

const COMMANDS: readonly string[] = ['add', 'modify', 'modify_strict', 'delete', 'delete_strict'];

export interface FileMods<T> {
  readonly mods: T[];
  /** Line of the file, from 1, for every mod. */
  readonly lines: number[];
}

/**
 * A flow file as ovs-ofctl(8) add-flows reads it: one flow a line, `#` starts a comment, a line may begin with add,
 * modify, modify_strict, delete or delete_strict.
 */
export function parseFlowFile(text: string): FileMods<FlowMod> {
  return parseLines(text, (line) => {
    const word = /^([a-z_]+)(\s+|$)/.exec(line);
    const command = word && COMMANDS.includes(word[1]!) ? (word[1] as FlowCommand) : undefined;
    return { command: command ?? 'add', flow: command ? line.slice(word![0].length) : line };
  });
}

/** A group file: one group a line, with the group commands of ovs-ofctl(8) as optional first words. */
export function parseGroupFile(text: string): FileMods<GroupMod> {
  return parseLines(text, (line) => {
    const word = /^(add|modify|add_or_mod|delete|insert_bucket|remove_bucket)(\s+|$)/.exec(line);
    const names = { add_or_mod: 'add_or_modify', insert_bucket: 'insert_buckets', remove_bucket: 'remove_buckets' };
    const command = word ? (names[word[1] as keyof typeof names] ?? word[1]!) : 'add';
    return { command: command as GroupMod['command'], group: word ? line.slice(word[0].length) : line };
  });
}

function parseLines<T>(text: string, parse: (line: string) => T): FileMods<T> {
  const mods: T[] = [];
  const lines: number[] = [];
  let number = 0;
  for (const whole of text.split('\n')) {
    number++;
    const comment = whole.indexOf('#');
    const line = (comment < 0 ? whole : whole.slice(0, comment)).trim();
    if (line === '') continue;
    mods.push(parse(line));
    lines.push(number);
  }
  return { mods, lines };
}

/** An error about `mods[i]` or `flows[i]`, told by the line of the file instead: field `line N`. */
export function byLine(error: unknown, lines: readonly number[]): unknown {
  if (!(error instanceof RequestError)) return error;
  const at = /^(?:mods|flows|groups)\[(\d+)\]/.exec(error.field);
  const line = at ? lines[Number(at[1])] : undefined;
  if (line === undefined) return error;
  return new RequestError(error.code, error.message, { field: `line ${line}`, hint: error.hint, status: error.status });
}

const RESERVED = new Set(
  (
    'output drop normal flood all local in_port controller none any table strip_vlan pop_vlan dec_ttl dec_mpls_ttl ' +
    'ct_clear clear_actions pop_queue exit conjunction'
  ).split(' '),
);

const patterns = new WeakMap<ReadonlyMap<string, number>, RegExp>();

/** Matches a text in which one of these names stands: most flows name no port, and are left alone early. */
function anyOf(ports: ReadonlyMap<string, number>): RegExp {
  let pattern = patterns.get(ports);
  if (!pattern) {
    pattern = new RegExp([...ports.keys()].map((name) => RegExp.escape(name)).join('|'));
    patterns.set(ports, pattern);
  }
  return pattern;
}

/**
 * The same text with OpenFlow port numbers for port names, where a text may name a port: names may be gone when the text
 * is read again.
 */
export function numberPorts(text: string, ports: ReadonlyMap<string, number>): string {
  if (ports.size === 0 || !anyOf(ports).test(text)) return text;
  const number = (name: string): string | undefined => {
    const bare = name.startsWith('"') ? name.slice(1, -1) : name;
    return ports.get(bare)?.toString();
  };
  const named =
    /\b(in_port|out_port|output|enqueue|resubmit|watch_port)(\s*[=:(]\s*(?:port=)?)("[^"]*"|[A-Za-z_][^\s,:()=]*)/g;
  const at = text.search(/\bactions?\s*=/);
  const swapped = text.replace(named, (all, key, between, name) => {
    const found = RESERVED.has(name.toLowerCase()) ? undefined : number(name);
    return found === undefined ? all : `${key}${between}${found}`;
  });
  if (at < 0) return swapped;
  const start = swapped.search(/\bactions?\s*=/);
  // A port alone in the action list means output; within parentheses a word may be anything else.
  const list = swapped
    .slice(start)
    .replace(/([=,]\s*)("[^"]*"|[A-Za-z_][^\s,:()=]*)(?=\s*(?:,|$))/g, (all, before, name) => {
      const found = RESERVED.has(name.toLowerCase()) ? undefined : number(name);
      return found === undefined ? all : `${before}${found}`;
    });
  return swapped.slice(0, start) + list;
}

/** `hard_timeout` of a text in seconds; 0 without one. */
export const hardTimeout = (text: string): number =>
  Number(/(?:^|[\s,])hard_timeout\s*[=:]\s*(\d+)/.exec(text)?.[1] ?? 0);
