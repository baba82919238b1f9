/**
 * Translation: one packet's key through the OpenFlow tables of a bridge, giving a datapath program, the bits of the packet
 * that decided on it (the megaflow), and who is to be credited with the packets of that megaflow.
 *
 * One Translator serves the whole switch; its fields hold the result of the last run until the next one. It does not
 * change the bridge: what it would learn is listed, and the caller applies it.
 *
 * Limits, as in Open vSwitch (ofproto/ofproto-dpif-xlate.c): 64 resubmits deep (only those to the same or an earlier table
 * count), 4096 in all. A packet that exceeds them is dropped as a whole, reason `translation_error`.
 */
import { type DropReason, dropReason } from '#contract/catalogue.ts';
import { ETH_IPV4, ETH_IPV6, KEY_WORDS, W_IN_PORT, W_TP, W_TUNNEL, W_TYPE } from '#contract/flow-key.ts';
import { runActionSet } from './action-set.ts';
import type { Action } from './actions.ts';
import { EditState } from './edit-state.ts';
import type { LiveSource } from './group.ts';
import { OF_KEY_WORDS, type Subfield, W_ACTSET_OUTPUT } from './key.ts';
import type { MacTable } from './mac-learning.ts';
import type { InstalledFlow } from './megaflow.ts';
import { OFPP_IN_PORT, OFPP_UNSET } from './ofp-port.ts';
import type { OfPort } from './port.ts';
import { tableBit } from './reach.ts';
import type { Rule } from './rule.ts';
import type { Credit, Table } from './table.ts';
import { runActions } from './translate-actions.ts';
import { receiveTunnel, type TunnelView } from './translate-tunnel.ts';

export const MAX_DEPTH = 64;
export const MAX_RESUBMITS = 4096;

/** What translation needs of a bridge. */
export interface Pipeline extends LiveSource {
  readonly name: string;
  readonly macs: MacTable;
  readonly forwardBpdu: boolean;
  /** Undefined for a table that never had a rule. */
  table(id: number): Table | undefined;
  tableOrNew(id: number): Table;
  portOf(ofport: number): OfPort | undefined;
  /** All ports by rising number. */
  readonly portList: readonly OfPort[];
  /** Megaflows by the MAC entries that they depend on. */
  readonly macUsers: Map<string, Set<InstalledFlow>>;
}

/** A MAC address that a translation learned (`port`) or looked for (undefined). */
export interface MacUse {
  readonly bridge: Pipeline;
  readonly key: string;
  readonly vlan: number;
  readonly mac: number;
  readonly port: OfPort | undefined;
}

/** Told what happens while a packet is traced (ofproto/trace). */
export interface TraceSink {
  /** The packet goes on in another bridge, until `leave`. */
  bridge(name: string): void;
  table(id: number, rule: Rule | undefined): void;
  bucket(id: number): void;
  actionSet(): void;
  leave(): void;
  action(action: Action): void;
  /** A move wrote this. */
  moved(to: Subfield): void;
  note(text: string): void;
  warn(text: string): void;
}

export class Translator {
  readonly state = new EditState();
  bridge!: Pipeline;
  /** The bridge that the packet came in at. */
  first!: Pipeline;
  credits: Credit[] = [];
  macs: MacUse[] = [];
  /** Bit min(id, 31) of every table looked up. */
  tableBits = 0;
  usedGroups = false;
  /** Lookups saw a key word in another state than the packet's: these words say nothing about a rule's reach. */
  editedWords = 0;
  /** Bridges besides the first that the packet came through. */
  crossed: Pipeline[] = [];
  /** The result holds for this packet only: something is being found out meanwhile. */
  slow = false;
  /** The packet was wrapped, or would have been had the way been known. */
  encapsulates = false;
  /** Undefined while the switch has no tunnels. */
  tunnels: TunnelView | undefined;
  trace: TraceSink | undefined;

  /** Table in which actions run now. */
  table = 0;
  depth = 0;
  resubmits = 0;
  /** The caller will learn what `macs` says (trace notes say so). */
  learns = true;
  /** Set by the `exit` action: nothing more is run. */
  exited = false;
  /** A limit was exceeded; the packet is dropped. */
  failed = false;
  actionsRun = 0;
  actionSet: Action[] = [];
  reason = 0;

  /** Notes why a packet may be lost; the first reason counts when nothing is output in the end. */
  lose(reason: DropReason, text: string): void {
    if (this.reason === 0) this.reason = dropReason(reason);
    this.trace?.warn(text);
  }

  /** The same, where a trace tells it as a matter of course. */
  decline(reason: DropReason, text: string): void {
    if (this.reason === 0) this.reason = dropReason(reason);
    this.trace?.note(text);
  }

  fail(text: string): void {
    this.failed = true;
    this.trace?.warn(text);
  }

  /**
   * Runs a packet. Results: `state.program`, `state.wc`, `credits`, `macs` and the dependency fields.
   * @param key OF_KEY_WORDS words with the OpenFlow port as in_port.
   */
  run(bridge: Pipeline, key: Uint32Array): void {
    const { state } = this;
    this.bridge = bridge;
    this.first = bridge;
    this.credits = [];
    this.macs = [];
    this.tableBits = 0;
    this.usedGroups = false;
    this.editedWords = 0;
    this.crossed = [];
    this.slow = false;
    this.encapsulates = false;
    this.table = 0;
    this.depth = 0;
    this.resubmits = 0;
    this.actionsRun = 0;
    this.exited = false;
    this.failed = false;
    this.actionSet = [];
    this.reason = 0;
    state.reset(key);
    state.flow[W_ACTSET_OUTPUT] = OFPP_UNSET;
    const port = bridge.portOf(key[W_IN_PORT]!);
    try {
      this.#receive(port, () => this.lookup(0, -1, true));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.fail('over the depth of the stack');
    }
    if (this.failed) state.dropAll(dropReason('translation_error'));
    else if (state.outputs === 0) state.dropAll(this.reason);
    this.#finishMask(key[W_IN_PORT]!);
  }

  /**
   * Looks a packet up in a table and runs the actions found.
   * @param inPort in_port for this lookup only; -1 = as it is.
   * @param tail nothing else runs after this.
   */
  lookup(id: number, inPort: number, tail: boolean): void {
    const { state, bridge, trace } = this;
    const table = bridge.tableOrNew(id);
    this.tableBits |= tableBit(id);
    this.credits.push(table.lookups);
    const own = state.flow[W_IN_PORT]!;
    const other = inPort >= 0 && inPort !== OFPP_IN_PORT && inPort !== own;
    if (other) state.flow[W_IN_PORT] = inPort;
    this.editedWords |= state.edited | (other ? 1 : 0);
    const rule = table.rules.lookup(state.flow, state.lookBuffer());
    state.sawLooked();
    if (other) state.flow[W_IN_PORT] = own;
    trace?.table(id, rule);
    if (rule === undefined) {
      if (this.reason === 0) this.reason = dropReason('no_match');
    } else {
      this.credits.push(table.matches, rule);
      const before = this.table;
      this.table = id;
      runActions(this, rule.actions, tail);
      this.table = before;
    }
    trace?.leave();
  }

  /** The tables of a bridge on a packet that came in at `port`, then its action set. */
  #receive(port: OfPort | undefined, tables: () => void): void {
    if (port !== undefined && !port.receives) return this.lose('port_blocked', 'port does not receive');
    if (port?.tunnel !== undefined && !receiveTunnel(this, port)) return;
    tables();
    if (this.failed || this.actionSet.length === 0) return;
    this.trace?.actionSet();
    runActionSet(this);
    this.trace?.leave();
  }

  /**
   * The packet comes in at a port of another bridge. Registers, metadata and what is known of a tunnel stay behind; what
   * happens to the packet there does not happen to it here.
   */
  cross(bridge: Pipeline, port: OfPort): void {
    const { state, bridge: from, table, actionSet } = this;
    const saved = state.save();
    if (bridge !== this.first && !this.crossed.includes(bridge)) this.crossed.push(bridge);
    state.write(W_IN_PORT, port.ofport, 0xffffffff);
    for (let w = W_TUNNEL; w < OF_KEY_WORDS; w++) state.write(w, 0, 0xffffffff);
    state.flow[W_ACTSET_OUTPUT] = OFPP_UNSET;
    this.bridge = bridge;
    this.actionSet = [];
    this.trace?.bridge(bridge.name);
    this.#receive(port, () => this.resubmit(0, -1, false));
    this.trace?.leave();
    this.bridge = from;
    this.table = table;
    this.actionSet = actionSet;
    // A bridge that ends early does not end what the other does.
    this.exited = false;
    state.restore(saved);
  }

  /** Counts one more resubmit or group. @returns false at a limit. */
  enter(): boolean {
    if (this.depth >= MAX_DEPTH) this.fail(`over max translation depth ${MAX_DEPTH}`);
    else if (++this.resubmits > MAX_RESUBMITS) this.fail(`over ${MAX_RESUBMITS} resubmit actions`);
    return !this.failed;
  }

  /** A lookup from an action: resubmit or goto_table. */
  resubmit(id: number, inPort: number, tail: boolean): void {
    if (!this.enter()) return;
    const deepens = id <= this.table;
    if (deepens) this.depth++;
    this.lookup(id, inPort, tail);
    if (deepens) this.depth--;
  }

  /**
   * What makes a mask readable and is always matched: the port, and the protocol wherever something behind it is matched.
   */
  #finishMask(inPort: number): void {
    const { wc, flow } = this.state;
    wc[W_IN_PORT] = 0xffffffff;
    // Only packets out of tunnels have these words, and the port says which those are.
    if (this.first.portOf(inPort)?.tunnel === undefined) wc.fill(0, W_TUNNEL, KEY_WORDS);
    let network = wc[W_TYPE]! & 0xffff;
    for (let w = W_TYPE + 1; w < W_TUNNEL; w++) network |= wc[w]!;
    if (network !== 0) wc[W_TYPE]! |= 0xffff0000;
    const type = flow[W_TYPE]! >>> 16;
    if (wc[W_TP] !== 0 && (type === ETH_IPV4 || type === ETH_IPV6)) wc[W_TYPE]! |= 0xff00;
  }
}
