/**
 * A bridge: OpenFlow tables, groups, ports and the MAC table, as management sees them (api.ts) and as translation does.
 */

import { groupsOf } from './actions.ts';
import {
  type BridgeApi,
  type BridgeSpec,
  type DumpOptions,
  type FdbEntry,
  type FlowAggregate,
  type FlowMod,
  type FlowView,
  type GroupMod,
  type GroupView,
  type PortView,
  RequestError,
  type TableView,
  type TraceResult,
} from './api.ts';
import { FlowModBatch, type FlowTables, selectRules } from './flow-mod.ts';
import { type FlowFlag, type FlowModSpec, flowFlags, parseFlowFilter, parseFlowMod } from './flow-parse.ts';
import type { Group } from './group.ts';
import { formatGroup } from './group-format.ts';
import { GroupModBatch, type GroupTables } from './group-mod.ts';
import { parseGroupMod } from './group-parse.ts';
import { MAC_AGING_SECONDS, MAC_TABLE_SIZE, MacTable, macText } from './mac-learning.ts';
import { newMatch } from './match.ts';
import type { InstalledFlow } from './megaflow.ts';
import type { PortNames } from './ofp-port.ts';
import type { OfPort } from './port.ts';
import type { Revalidator } from './revalidate.ts';
import type { Rule } from './rule.ts';
import { TABLES, Table } from './table.ts';
import { traceFlow } from './trace.ts';
import type { Pipeline, Translator } from './translate.ts';
import { flowView } from './views.ts';

/** flow_mods or group_mods in one request. */
export const MAX_MODS = 1_000_000;

const RESET_COUNTS: readonly FlowFlag[] = ['reset_counts'];
/** Match of the flow_mod being applied; nobody keeps it. */
const scratch = newMatch();

/** What a bridge shares with the others of its switch. */
export interface BridgeContext {
  readonly revalidator: Revalidator;
  readonly translator: Translator;
  now(): number;
}

export class Bridge implements BridgeApi, Pipeline, FlowTables, GroupTables {
  spec: BridgeSpec;
  readonly datapathId: string;
  readonly macs: MacTable;
  readonly tableMap = new Map<number, Table>();
  readonly groupMap = new Map<number, Group>();
  readonly timed = new Set<Rule>();
  flowCount = 0;
  forwardBpdu = false;
  /** Why the bridge has no device of its own; empty when it has one, or was not asked for one. */
  localError = '';
  /** Megaflows by the MAC entries that they depend on, and the entries that changed since the last `followMacs`. */
  readonly macUsers = new Map<string, Set<InstalledFlow>>();
  readonly changedMacs = new Set<string>();
  readonly #context: BridgeContext;
  readonly #ports = new Map<number, OfPort>();
  readonly #portsByName = new Map<string, OfPort>();
  portList: readonly OfPort[] = [];
  readonly portNames: PortNames;

  constructor(spec: BridgeSpec, datapathId: string, context: BridgeContext) {
    this.spec = spec;
    this.datapathId = datapathId;
    this.#context = context;
    this.portNames = {
      numberOf: (name) => this.#portsByName.get(name)?.ofport,
      nameOf: (port) => this.#ports.get(port)?.name,
    };
    this.macs = new MacTable({
      size: MAC_TABLE_SIZE,
      agingSeconds: MAC_AGING_SECONDS,
      now: () => context.now(),
      changed: (key) => {
        this.changedMacs.add(key);
        context.revalidator.macBridges.add(this);
      },
    });
    this.configure(spec);
    if (spec.failMode === 'standalone') this.#addNormal();
  }

  get name(): string {
    return this.spec.name;
  }

  /** Takes settings that checkBridgeSpec found sound. */
  configure(spec: BridgeSpec): void {
    this.spec = spec;
    const { otherConfig } = spec;
    this.forwardBpdu = otherConfig['forward-bpdu'] === 'true';
    const aging = Number(otherConfig['mac-aging-time'] ?? MAC_AGING_SECONDS);
    this.macs.configure(Number(otherConfig['mac-table-size'] ?? MAC_TABLE_SIZE), aging);
  }

  #addNormal(): void {
    new FlowModBatch(this).apply(parseFlowMod('add', 'priority=0,actions=NORMAL', this.portNames));
  }

  // Pipeline

  now(): number {
    return this.#context.now();
  }

  syncStatistics(): void {
    this.#context.revalidator.creditAll();
  }

  table(id: number): Table | undefined {
    return this.tableMap.get(id);
  }

  tableOrNew(id: number): Table {
    let table = this.tableMap.get(id);
    if (table === undefined) this.tableMap.set(id, (table = new Table(id)));
    return table;
  }

  hasGroup(id: number): boolean {
    return this.groupMap.has(id);
  }

  portOf(ofport: number): OfPort | undefined {
    return this.#ports.get(ofport);
  }

  isLive(ofport: number): boolean {
    const port = this.#ports.get(ofport);
    return port?.datapath?.linkUp === true && port.forwards && (port.dpPort !== 0 || port.isPatch);
  }

  // Ports

  findPort(name: string): OfPort | undefined {
    return this.#portsByName.get(name);
  }

  attach(port: OfPort): void {
    this.#ports.set(port.ofport, port);
    this.#portsByName.set(port.name, port);
    this.#listPorts();
  }

  detach(port: OfPort): void {
    this.syncStatistics();
    this.#ports.delete(port.ofport);
    this.#portsByName.delete(port.name);
    this.macs.forget(port);
    this.#listPorts();
  }

  #listPorts(): void {
    this.portList = [...this.#ports.values()].sort((a, b) => a.ofport - b.ofport);
  }

  /** The wanted number when it is free, else the lowest free one. */
  freeOfport(wanted: number): number {
    if (wanted > 0 && !this.#ports.has(wanted)) return wanted;
    let number = 1;
    while (this.#ports.has(number)) number++;
    return number;
  }

  ports(): readonly PortView[] {
    return this.portList.map((port) => port.view());
  }

  port(name: string): PortView | undefined {
    return this.#portsByName.get(name)?.view();
  }

  // Flows

  async modifyFlows(mods: readonly FlowMod[]): Promise<void> {
    if (mods.length > MAX_MODS)
      throw new RequestError('too_many', `${mods.length} flow_mods, at most ${MAX_MODS} are allowed`);
    const batch = new FlowModBatch(this);
    mods.forEach((mod, i) => {
      at(
        `flows[${i}]`,
        () => batch.apply(this.#parse(mod)),
        () => batch.rollBack(),
      );
    });
    await this.rulesChanged(batch.changed);
  }

  #parse({ command, flow, resetCounts }: FlowMod): FlowModSpec {
    const spec = parseFlowMod(command, flow, this.portNames, scratch);
    if (!resetCounts || command !== 'add') return spec;
    const flags =
      spec.flags.length === 0
        ? RESET_COUNTS
        : flowFlags.filter((flag) => flag === 'reset_counts' || spec.flags.includes(flag));
    return { ...spec, flags };
  }

  /** Resolves when the next packet obeys these changes. */
  async rulesChanged(rules: ReadonlySet<Rule>): Promise<void> {
    const { revalidator } = this.#context;
    revalidator.rulesChanged(this, rules);
    await revalidator.settle();
  }

  dumpFlows(filter: string, options: DumpOptions = {}): readonly FlowView[] {
    return [...this.walkFlows(filter, options)];
  }

  walkFlows(filter: string, options: DumpOptions = {}): Iterable<FlowView> {
    const rules = this.#select(filter, options.strict ?? false);
    const now = this.now();
    const names = options.names ? this.portNames : undefined;
    const form = options.actions ?? 'nicira';
    return rules.values().map((rule) => flowView(rule, now, form, names));
  }

  aggregate(filter: string): FlowAggregate {
    const rules = this.#select(filter, false);
    let packets = 0;
    let bytes = 0;
    for (const rule of rules) {
      packets += rule.packets;
      bytes += rule.bytes;
    }
    return { packets, bytes, flows: rules.length };
  }

  #select(filter: string, strict: boolean): Rule[] {
    const spec = parseFlowFilter(filter, this.portNames, strict);
    this.syncStatistics();
    const rules = selectRules(this, spec, strict);
    return rules.sort((a, b) => a.table - b.table || b.priority - a.priority);
  }

  tables(): readonly TableView[] {
    this.syncStatistics();
    return Array.from({ length: TABLES }, (_, id) => {
      const table = this.tableMap.get(id);
      return {
        table: id,
        active: table?.rules.size ?? 0,
        lookup: table?.lookups.packets ?? 0,
        matched: table?.matches.packets ?? 0,
      };
    });
  }

  /** Rules whose time is over. */
  expiredRules(): Rule[] {
    const now = this.now();
    return [...this.timed].filter(
      (rule) =>
        (rule.hardTimeout > 0 && now - rule.modified >= rule.hardTimeout * 1000) ||
        (rule.idleTimeout > 0 && now - Math.max(rule.used, rule.modified) >= rule.idleTimeout * 1000),
    );
  }

  /** Takes expired rules out. */
  async expire(): Promise<void> {
    this.macs.expire();
    const rules = this.expiredRules();
    if (rules.length === 0) return;
    const batch = new FlowModBatch(this);
    for (const rule of rules) batch.remove(rule);
    await this.rulesChanged(batch.changed);
  }

  // Groups

  async modifyGroups(mods: readonly GroupMod[]): Promise<void> {
    if (mods.length > MAX_MODS)
      throw new RequestError('too_many', `${mods.length} group_mods, at most ${MAX_MODS} are allowed`);
    const batch = new GroupModBatch(this);
    mods.forEach(({ command, group }, i) => {
      at(
        `groups[${i}]`,
        () => batch.apply(parseGroupMod(command, group, this.portNames)),
        () => batch.rollBack(),
      );
    });
    const flows = new FlowModBatch(this);
    if (batch.deleted.size > 0) {
      // Flows that refer to a deleted group go with it (OpenFlow 1.3 §6.5).
      for (const table of this.tableMap.values()) {
        for (const rule of [...table.rules])
          if (groupsOf(rule.actions).some((id) => batch.deleted.has(id))) flows.remove(rule);
      }
    }
    this.#context.revalidator.groupsChanged(this);
    await this.rulesChanged(flows.changed);
  }

  groups(): readonly GroupView[] {
    this.syncStatistics();
    const now = this.now();
    const references = this.#groupReferences();
    return [...this.groupMap.values()]
      .sort((a, b) => a.groupId - b.groupId)
      .map((group) => ({
        groupId: group.groupId,
        type: group.type,
        text: formatGroup(group),
        duration: (now - group.created) / 1000,
        refCount: references.get(group.groupId) ?? 0,
        packets: group.packets,
        bytes: group.bytes,
        buckets: group.buckets.map(({ packets, bytes }) => ({ packets, bytes })),
      }));
  }

  /** How many flows and buckets refer to each group. */
  #groupReferences(): Map<number, number> {
    const counts = new Map<number, number>();
    const count = (actions: Rule['actions']): void => {
      for (const id of groupsOf(actions)) counts.set(id, (counts.get(id) ?? 0) + 1);
    };
    if (this.groupMap.size === 0) return counts;
    for (const table of this.tableMap.values()) for (const rule of table.rules) count(rule.actions);
    for (const group of this.groupMap.values()) for (const bucket of group.buckets) count(bucket.actions);
    return counts;
  }

  // MAC table

  fdb(): readonly FdbEntry[] {
    this.syncStatistics();
    const now = this.now();
    return this.macs.entries().map(({ port, vlan, mac, used, isStatic }) => ({
      port: port.ofport,
      portName: port.name,
      vlan,
      mac: macText(mac),
      age: isStatic ? -1 : Math.max(0, Math.floor((now - used) / 1000)),
    }));
  }

  /** Forgets what was learned, at a port or everywhere; frames counted until now do not bring it back. */
  forgetMacs(port?: OfPort): void {
    this.syncStatistics();
    this.macs.flush(port);
  }

  async flushFdb(): Promise<void> {
    this.forgetMacs();
    await this.#context.revalidator.settle();
  }

  trace(flow: string): TraceResult {
    return traceFlow(this, this.#context.translator, flow);
  }
}

/** Runs one step of a list; its error names the place. */
function at<T>(field: string, step: () => T, undo?: () => void): T {
  try {
    return step();
  } catch (error) {
    undo?.();
    if (!(error instanceof RequestError)) throw error;
    const { code, message, hint, status } = error;
    throw new RequestError(code, message, {
      field: error.field === '' ? field : `${field}.${error.field}`,
      hint,
      status,
    });
  }
}
