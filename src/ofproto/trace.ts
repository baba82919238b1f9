/**
 * ofproto/trace: one imagined packet through the tables, told step by step in the layout of `ovs-appctl ofproto/trace`.
 *
 * The megaflow that it prints is the one that would be installed. It matches only what the translation looked at, so it may
 * be wider than that of Open vSwitch, which always matches the Ethernet type and, for IP, whether it is a fragment.
 */
import {
  KEY_WORDS,
  VLAN_PRESENT,
  W_IN_PORT,
  W_NW_DST,
  W_NW_MISC,
  W_NW_SRC,
  W_TP,
  W_TUNNEL,
  W_TYPE,
  W_VLAN,
} from '#contract/flow-key.ts';
import { orderActionSet } from './action-set.ts';
import type { Action } from './actions.ts';
import { formatActions } from './actions-format.ts';
import { RequestError, type TraceResult } from './api.ts';
import { formatFieldValue } from './field-format.ts';
import { OF_KEY_WORDS, readField, type Subfield, W_ACTSET_OUTPUT } from './key.ts';
import type { Match } from './match.ts';
import { formatMatch } from './match-format.ts';
import { formatOdpActions } from './odp-format.ts';
import { OFPP_UNSET, type PortNames } from './ofp-port.ts';
import type { Rule } from './rule.ts';
import { formatSubfield } from './subfield-parse.ts';
import { parseTracePacket } from './trace-parse.ts';
import type { Pipeline, TraceSink, Translator } from './translate.ts';

interface Node {
  /** Underlined, after an empty line. */
  readonly isTitle: boolean;
  readonly text: string;
  /** Tables take their place among the actions; everything else stands one step further in. */
  readonly isTable: boolean;
  readonly nodes: Node[];
}

class Story implements TraceSink {
  readonly nodes: Node[] = [];
  readonly #translator: Translator;
  #open: Node[][] = [this.nodes];

  constructor(translator: Translator) {
    this.#translator = translator;
  }

  #put(text: string, isTable = false, isTitle = false): Node {
    const node: Node = { isTitle, text, isTable, nodes: [] };
    this.#open.at(-1)!.push(node);
    return node;
  }

  #enter(text: string, isTable: boolean): void {
    this.#open.push(this.#put(text, isTable).nodes);
  }

  bridge(name: string): void {
    this.#open.push(this.#put(`bridge("${name}")`, true, true).nodes);
  }

  table(id: number, rule: Rule | undefined): void {
    const number = `${String(id).padStart(2)}. `;
    if (rule === undefined) {
      this.#enter(`${number}No match.`, true);
      this.#put('drop');
      return;
    }
    const match = formatMatch(rule.match() as Match);
    const cookie = rule.cookie === 0n ? '' : `, cookie 0x${rule.cookie.toString(16)}`;
    this.#enter(`${number}${match === '' ? '' : `${match}, `}priority ${rule.priority}${cookie}`, true);
    if (rule.actions.length === 0) this.#put('drop');
  }

  bucket(id: number): void {
    this.#enter(`bucket ${id}`, false);
  }

  /** Told within the first table of the bridge, as its last step. */
  actionSet(): void {
    const here = this.#open.at(-1)!;
    this.#open.push(here.find((node) => node.isTable)?.nodes ?? here);
    this.#enter('--. Executing action set:', true);
  }

  leave(): void {
    this.#open.pop();
  }

  action(action: Action): void {
    this.#put(action.kind === 'goto_table' ? `goto_table:${action.table}` : formatActions([action]));
    if (action.kind !== 'write_actions') return;
    const set = orderActionSet([...this.#translator.actionSet, ...action.actions]);
    this.note(`action set is: ${set.length === 0 ? 'empty' : formatActions(set)}`);
  }

  moved(to: Subfield): void {
    const value = readField(this.#translator.state.flow, to.field);
    this.note(
      `${formatSubfield({ field: to.field, offset: 0, bits: to.field.subfieldBits })} is now ${formatFieldValue(to.field, value)}`,
    );
  }

  note(text: string): void {
    this.#put(` -> ${text}`);
  }

  warn(text: string): void {
    this.#put(` >> ${text}`);
  }

  print(nodes: readonly Node[] = this.nodes, level = 0): string[] {
    return nodes.flatMap((node, i) => {
      const inward = i < nodes.length - 1 || !node.isTable ? 1 : 0;
      const indent = ' '.repeat((level + inward) * 4);
      const line = indent + node.text;
      const head = node.isTitle ? ['', line, indent + '-'.repeat(node.text.length)] : [line];
      return [...head, ...this.print(node.nodes, level + 2 * inward)];
    });
  }
}

/** The packet to trace, as an OpenFlow key. @throws RequestError */
function packetOf(text: string, bridge: Pipeline & { readonly portNames: PortNames }): Uint32Array {
  const dpPortOf = (name: string) => bridge.portList.find((port) => port.name === name)?.dpPort;
  const packet = parseTracePacket(text, bridge.portNames, dpPortOf);
  const inPort = packet.key[W_IN_PORT]!;
  if (inPort === 0)
    throw new RequestError('missing_field', 'in_port is needed to trace a packet', { field: 'in_port' });
  if (packet.kind === 'openflow') return packet.key;
  const ofport = bridge.portList.find(({ dpPort }) => dpPort === inPort)?.ofport;
  if (ofport === undefined) {
    throw new RequestError('no_such_port', `no datapath port ${inPort} on this bridge`, {
      field: 'in_port',
      status: 404,
    });
  }
  const key = new Uint32Array(OF_KEY_WORDS);
  key.set(packet.key);
  key[W_IN_PORT] = ofport;
  return key;
}

/** The whole packet as a match, in the fields that it has. */
function formatPacket(key: Uint32Array): string {
  const masks = new Uint32Array(OF_KEY_WORDS);
  for (let w = 0; w < OF_KEY_WORDS; w++) if (w >= W_TUNNEL ? key[w] !== 0 : w > 1) masks[w] = 0xffffffff;
  masks[W_IN_PORT] = 0xffff;
  masks[W_ACTSET_OUTPUT] = 0;
  masks[W_VLAN] = 0xffff;
  masks[W_TYPE] = 0xffffff03;
  if (key[W_TYPE]! >>> 16 === 0x0800) {
    masks[W_NW_SRC] = 0xffffffff;
    masks[W_NW_DST] = 0xffffffff;
  }
  masks[W_NW_MISC] = 0xffff0fff;
  const protocol = (key[W_TYPE]! >>> 8) & 0xff;
  masks[W_TP] = protocol === 1 || protocol === 58 ? 0x00ff00ff : 0xffffffff;
  const text = formatMatch({ values: key.slice(), masks });
  return (key[W_VLAN]! & VLAN_PRESENT) === 0 ? text : text.replace(/(dl_vlan_pcp=\d)/, '$1,vlan_tci1=0x0000');
}

/** @throws RequestError for a flow that does not parse or has no in_port. */
export function traceFlow(
  bridge: Pipeline & { readonly portNames: PortNames },
  translator: Translator,
  flow: string,
): TraceResult {
  const key = packetOf(flow, bridge);
  const story = new Story(translator);
  translator.trace = story;
  translator.learns = false;
  try {
    translator.run(bridge, key);
  } finally {
    translator.trace = undefined;
    translator.learns = true;
  }
  const { state } = translator;
  const title = `bridge("${bridge.name}")`;
  const masks = state.wc.slice();
  for (let w = KEY_WORDS; w < OF_KEY_WORDS; w++) masks[w] = 0;
  const values = key.map((word, w) => word & masks[w]!);
  const text = formatMatch({ values, masks });
  const megaflow = `recirc_id=0,eth${text === '' ? '' : `,${text}`}`;
  const datapathActions = formatOdpActions(state.program, {
    key: key.subarray(0, KEY_WORDS),
    mask: masks.subarray(0, KEY_WORDS),
  });
  const before = formatPacket(key);
  const unchanged = state.flow.every((word, w) => word === (w === W_ACTSET_OUTPUT ? OFPP_UNSET : key[w]));
  return {
    text: [
      `Flow: ${before}`,
      '',
      title,
      '-'.repeat(title.length),
      ...story.print(),
      '',
      `Final flow: ${unchanged ? 'unchanged' : formatPacket(state.flow)}`,
      `Megaflow: ${megaflow}`,
      `Datapath actions: ${datapathActions}`,
      '',
    ].join('\n'),
    megaflow,
    datapathActions,
  };
}
