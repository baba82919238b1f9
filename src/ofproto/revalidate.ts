/**
 * Keeps megaflows true to the tables, and counts their packets where they belong.
 *
 * A change of tables, groups, ports or MAC entries marks the megaflows that it may concern; each of those is translated
 * again from its own key. It stays when the result is the same, gets other actions when only these differ, and is deleted
 * when the new translation looks at bits that its mask leaves open: the next packet then makes an upcall. `settle` resolves
 * when nothing is marked and every worker has taken all changes, which is when the next packet obeys.
 *
 * Translating is done a few hundred megaflows at a time, so that upcalls are answered in between.
 *
 * Statistics are cumulative in the datapath; only what came since the last look is credited, to those whom the megaflow
 * credited at the time. A deleted megaflow is looked at once more when the workers have let go of it.
 */
import { KEY_WORDS, W_IN_PORT } from '#contract/flow-key.ts';
import type { Bridge } from './bridge.ts';
import type { Datapath, InstalledMegaflow, MegaflowStats } from './datapath.ts';
import { InstalledFlow, MegaflowTable, sameWords } from './megaflow.ts';
import { reachedBy, tableBit } from './reach.ts';
import type { Rule } from './rule.ts';
import { WORDS } from './subtable.ts';
import type { MacUse, Translator } from './translate.ts';

/** Megaflows translated in one turn of the event loop. */
const PER_TURN = 512;
/** Changed rules of one table that are compared with each megaflow; with more, every visitor of the table is concerned. */
const MAX_COMPARED = 64;
/** Dependants of a MAC entry that are translated at once; more than these are deleted instead. */
const MAX_AT_ONCE = 256;

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export class Revalidator {
  readonly megaflows = new MegaflowTable();
  readonly #datapath: Datapath;
  readonly #translator: Translator;
  readonly #now: () => number;
  readonly #dirty = new Set<InstalledFlow>();
  #changedRules = new Map<Bridge, Map<number, Rule[]>>();
  /** Deleted, but perhaps still counting in a worker. */
  #dying = new Map<number, InstalledFlow>();
  readonly #stats: MegaflowStats = { packets: 0, bytes: 0, used: 0, tcpFlags: 0 };
  readonly #key = new Uint32Array(WORDS);
  /** Barriers asked for, and the newest that passed. */
  #barriers = 0;
  #passed = 0;
  /** A megaflow waits for the next barrier to be counted. */
  #waiting = false;
  /** Bridges with MAC entries that changed. */
  readonly macBridges = new Set<Bridge>();
  /** Packets that megaflows took, over all time. */
  hits = 0;

  constructor(datapath: Datapath, translator: Translator, now: () => number) {
    this.#datapath = datapath;
    this.#translator = translator;
    this.#now = now;
  }

  /**
   * Installs what the translator found for a packet.
   * @param key the packet's datapath key.
   * @returns the megaflow, or undefined when the data plane has no room.
   */
  install(bridge: Bridge, ofport: number, key: Uint32Array): InstalledFlow | undefined {
    const { megaflows } = this;
    const { state } = this.#translator;
    const maskClass = megaflows.classOf(state.wc);
    const hash = maskClass.keyHash(key);
    const old = megaflows.find(maskClass, hash, key);
    if (old !== undefined) {
      if (!sameWords(old.flow.actions, state.program)) this.#setActions(old);
      return old;
    }
    const masked = new Uint32Array(KEY_WORDS);
    const { words, masks } = maskClass;
    for (let i = 0; i < words.length; i++) masked[words[i]!] = key[words[i]!]! & masks[i]!;
    const flow = { key: masked, mask: maskClass.mask, actions: megaflows.program(state.program) };
    const id = this.#datapath.putFlow(flow);
    if (id < 0) return undefined;
    this.#dying.delete(id);
    const made = new InstalledFlow(id, bridge, ofport, maskClass, hash, flow, this.#now());
    // The workers start the slot at 0 when they take the megaflow: until then it may show what an earlier one left.
    this.#datapath.flowStats(id, this.#stats);
    if (this.#stats.packets > 0) {
      made.countsFrom = this.#barriers + 1;
      this.#waiting = true;
    }
    megaflows.add(made);
    this.#depend(made);
    return made;
  }

  /**
   * Takes over a megaflow that the data plane held before this control plane came. Its packets so far count for nobody, but
   * the stations that sent them are known again.
   */
  adopt(bridge: Bridge, ofport: number, found: InstalledMegaflow): void {
    const { megaflows } = this;
    const maskClass = megaflows.classOf(found.mask);
    const hash = maskClass.keyHash(found.key);
    const flow = new InstalledFlow(found.id, bridge, ofport, maskClass, hash, found, this.#now());
    this.#datapath.flowStats(found.id, this.#stats);
    flow.packets = this.#stats.packets;
    flow.bytes = this.#stats.bytes;
    flow.used = this.#stats.used;
    flow.tcpFlags = this.#stats.tcpFlags;
    megaflows.add(flow);
    this.#dirty.add(flow);
    this.#translate(flow);
    for (const use of this.#translator.macs) if (use.port !== undefined) refresh(use, flow.used);
  }

  /** Translates the packet that a megaflow's key is. */
  #translate(flow: InstalledFlow): void {
    const key = this.#key;
    key.fill(0);
    key.set(flow.flow.key);
    key[W_IN_PORT] = flow.ofport;
    this.#translator.run(flow.bridge, key);
  }

  // Dependencies

  /** Takes credits and dependencies from the translator. */
  #depend(flow: InstalledFlow): void {
    const x = this.#translator;
    flow.credits = x.credits;
    flow.macs = x.macs;
    flow.tableBits = x.tableBits;
    flow.usedGroups = x.usedGroups;
    flow.maskClass.edited += (x.editedWords === 0 ? 0 : 1) - (flow.editedWords === 0 ? 0 : 1);
    flow.editedWords = x.editedWords;
    flow.crossed = x.crossed;
    flow.encapsulates = x.encapsulates;
    for (const { bridge, key } of x.macs) {
      const { macUsers } = bridge;
      const users = macUsers.get(key);
      if (users === undefined) macUsers.set(key, new Set([flow]));
      else users.add(flow);
    }
  }

  #undepend(flow: InstalledFlow): void {
    for (const { bridge, key } of flow.macs) {
      const { macUsers } = bridge;
      const users = macUsers.get(key);
      if (users?.delete(flow) && users.size === 0) macUsers.delete(key);
    }
    flow.macs = [];
  }

  #setActions(flow: InstalledFlow): void {
    flow.flow = { ...flow.flow, actions: this.megaflows.program(this.#translator.state.program) };
    this.#datapath.setFlow(flow.id, flow.flow);
  }

  // Changes

  rulesChanged(bridge: Bridge, rules: Iterable<Rule>): void {
    let tables = this.#changedRules.get(bridge);
    if (tables === undefined) this.#changedRules.set(bridge, (tables = new Map()));
    for (const rule of rules) {
      const list = tables.get(rule.table);
      if (list === undefined) tables.set(rule.table, [rule]);
      else list.push(rule);
    }
  }

  groupsChanged(bridge: Bridge): void {
    for (const flow of this.megaflows.byId.values()) if (flow.visits(bridge) && flow.usedGroups) this.#dirty.add(flow);
  }

  /** Ways through the networks under the tunnels are others now. */
  tunnelsChanged(): void {
    for (const flow of this.megaflows.byId.values()) if (flow.encapsulates) this.#dirty.add(flow);
  }

  bridgeChanged(bridge: Bridge): void {
    for (const flow of this.megaflows.byId.values()) if (flow.visits(bridge)) this.#dirty.add(flow);
  }

  /** Deletes the megaflows of a port, or of a bridge, that goes away. */
  deleteOf(bridge: Bridge, ofport?: number): void {
    for (const flow of [...this.megaflows.byId.values()]) {
      if (flow.bridge === bridge && (ofport === undefined || flow.ofport === ofport)) this.delete(flow);
    }
  }

  /** MAC entries changed: follows at once, since a packet just said so. */
  followMacs(): void {
    for (const bridge of this.macBridges) {
      this.macBridges.delete(bridge);
      this.#followMacsOf(bridge);
    }
  }

  #followMacsOf(bridge: Bridge): void {
    const keys = [...bridge.changedMacs];
    bridge.changedMacs.clear();
    let left = MAX_AT_ONCE;
    for (const key of keys) {
      for (const flow of [...(bridge.macUsers.get(key) ?? [])]) {
        if (!flow.installed) continue;
        if (flow.macs.some(mustTeach) || left-- <= 0) this.delete(flow);
        else this.#revalidate(flow);
      }
    }
  }

  #markConcerned(): void {
    const changed = this.#changedRules;
    if (changed.size === 0) return;
    this.#changedRules = new Map();
    for (const [bridge, tables] of changed) {
      for (const [table, rules] of tables) {
        const bit = tableBit(table);
        if (rules.length > MAX_COMPARED) {
          for (const flow of this.megaflows.byId.values())
            if (flow.visits(bridge) && (flow.tableBits & bit) !== 0) this.#dirty.add(flow);
        } else
          for (const rule of rules) for (const flow of reachedBy(this.megaflows, bridge, rule)) this.#dirty.add(flow);
      }
    }
  }

  /** Works off all changes. Resolves when the next packet obeys them. */
  async settle(): Promise<void> {
    this.#markConcerned();
    for (;;) {
      this.followMacs();
      this.#work(PER_TURN);
      if (this.#dirty.size === 0) break;
      await turn();
      this.#markConcerned();
    }
    await this.#bar();
  }

  #work(limit: number): void {
    for (const flow of this.#dirty) {
      if (limit-- <= 0) return;
      this.#dirty.delete(flow);
      if (flow.installed) this.#revalidate(flow);
    }
  }

  #revalidate(flow: InstalledFlow): void {
    const x = this.#translator;
    const { bridge } = flow;
    if (bridge.portOf(flow.ofport)?.dpPort !== flow.flow.key[W_IN_PORT]) return this.delete(flow);
    this.#translate(flow);
    const { wc, program } = x.state;
    const { mask } = flow.maskClass;
    for (let w = 0; w < KEY_WORDS; w++) {
      if ((wc[w]! & ~mask[w]!) !== 0) return this.delete(flow);
    }
    if (x.slow || x.macs.some(mustTeach)) return this.delete(flow);
    this.credit(flow);
    this.#undepend(flow);
    this.#depend(flow);
    if (!sameWords(flow.flow.actions, program)) this.#setActions(flow);
  }

  delete(flow: InstalledFlow): void {
    this.credit(flow);
    this.#undepend(flow);
    this.#dirty.delete(flow);
    this.megaflows.remove(flow);
    this.#datapath.deleteFlow(flow.id);
    this.#dying.set(flow.id, flow);
  }

  /** Forgets all megaflows without telling the data plane, which has lost them or is told otherwise. */
  forgetAll(): void {
    for (const flow of [...this.megaflows.byId.values()]) {
      this.#undepend(flow);
      this.megaflows.remove(flow);
    }
    this.#dirty.clear();
    this.#dying.clear();
  }

  async flush(): Promise<void> {
    this.creditAll();
    for (const flow of [...this.megaflows.byId.values()]) {
      this.#undepend(flow);
      this.megaflows.remove(flow);
      this.#dying.set(flow.id, flow);
    }
    this.#dirty.clear();
    this.#datapath.flushFlows();
    await this.#bar();
  }

  // Statistics

  /** Credits what a megaflow counted since the last look. */
  credit(flow: InstalledFlow): void {
    if (flow.countsFrom > this.#passed) return;
    const stats = this.#stats;
    this.#datapath.flowStats(flow.id, stats);
    const packets = stats.packets - flow.packets;
    if (packets <= 0) return;
    const bytes = stats.bytes - flow.bytes;
    flow.packets = stats.packets;
    flow.bytes = stats.bytes;
    flow.tcpFlags |= stats.tcpFlags;
    flow.used = Math.max(flow.used, stats.used);
    this.hits += packets;
    this.creditTo(flow, packets, bytes, flow.used);
  }

  /** Credits packets that went the way of a translation or a megaflow. */
  creditTo(from: Pick<InstalledFlow, 'credits' | 'macs'>, packets: number, bytes: number, used: number): void {
    const { credits, macs } = from;
    for (let i = 0; i < credits.length; i++) {
      const credit = credits[i]!;
      credit.packets += packets;
      credit.bytes += bytes;
      if (used > credit.used) credit.used = used;
    }
    for (let i = 0; i < macs.length; i++) if (macs[i]!.port !== undefined) refresh(macs[i]!, used);
  }

  /** Credits all megaflows; MAC entries that this brings back or moves are followed. */
  creditAll(): void {
    for (const flow of this.megaflows.byId.values()) this.credit(flow);
    this.followMacs();
  }

  /** Waits for the workers, then credits the deleted for the last time. */
  async #bar(): Promise<void> {
    const dying = this.#dying;
    this.#dying = new Map();
    if (!this.#datapath.connected) return;
    const barrier = ++this.#barriers;
    this.#waiting = false;
    await this.#datapath.barrier();
    this.#passed = Math.max(this.#passed, barrier);
    for (const [id, flow] of dying) if (!this.megaflows.byId.has(id) && !this.#dying.has(id)) this.credit(flow);
  }

  /** Deletes megaflows that were idle for `idleMs`. */
  expire(idleMs: number): void {
    const before = this.#now() - idleMs;
    for (const flow of [...this.megaflows.byId.values()]) {
      if (Math.max(flow.used, flow.created) < before) this.delete(flow);
    }
  }

  /** A turn of housekeeping: credits, expiry, deleted megaflows. */
  async tick(idleMs: number): Promise<void> {
    this.creditAll();
    this.expire(idleMs);
    this.followMacs();
    if (this.#dying.size > 0 || this.#waiting) await this.#bar();
  }
}

/**
 * Whether the next frame from this source has to make an upcall, since the MAC table does not have it there. When the table
 * is full it does not: stations that do not fit would make upcalls all the time.
 */
function mustTeach(use: MacUse): boolean {
  if (use.port === undefined) return false;
  const { macs } = use.bridge;
  const entry = macs.peek(use.key);
  return entry === undefined ? !macs.isFull : entry.port !== use.port && !entry.isStatic;
}

/** Keeps a station alive whose frames no longer make upcalls; a full table learns from upcalls only. */
function refresh({ bridge, ...use }: MacUse, used: number): void {
  const { macs } = bridge;
  if (bridge.portOf(use.port!.ofport) !== use.port) return;
  const entry = macs.peek(use.key);
  if (entry === undefined ? macs.isFull : entry.port !== use.port && used <= entry.used) return;
  macs.learn(use.key, use.vlan, use.mac, use.port!, used);
}
