/**
 * flow_mods on the tables of a bridge (OpenFlow 1.3 §6.4, ovs-ofctl(8)): all of a list or none of it.
 *
 * A flow that is replaced or modified keeps its Rule, so that what is still on its way to its counters arrives there.
 */
import { type Action, groupsOf, outputsTo } from './actions.ts';
import { type FlowCommand, RequestError } from './api.ts';
import { ALL_TABLES, ANY_GROUP, type FlowFilter, type FlowModSpec } from './flow-parse.ts';
import type { Match } from './match.ts';
import { OFPP_NONE } from './ofp-port.ts';
import { Rule } from './rule.ts';
import type { Table } from './table.ts';

/** Flows of a bridge, in all its tables. */
export const MAX_FLOWS_OF_BRIDGE = 1_000_000;

/** What flow_mods need of a bridge. */
export interface FlowTables {
  readonly tableMap: ReadonlyMap<number, Table>;
  tableOrNew(id: number): Table;
  hasGroup(id: number): boolean;
  now(): number;
  /** Credits all that megaflows have counted so far. */
  syncStatistics(): void;
  /** Rules that have a timeout. */
  readonly timed: Set<Rule>;
  flowCount: number;
}

export class FlowModBatch {
  readonly #tables: FlowTables;
  readonly #undo: (() => void)[] = [];
  /** Rules that came, went or changed. */
  readonly changed = new Set<Rule>();
  #synced = false;

  constructor(tables: FlowTables) {
    this.#tables = tables;
  }

  /** Applies one; on an error the batch is as it was before this call, and `rollBack` undoes the rest. */
  apply(mod: FlowModSpec): void {
    checkGroups(this.#tables, mod.actions);
    const command: FlowCommand = mod.command;
    if (command === 'add') this.#add(mod);
    else if (command === 'modify' || command === 'modify_strict') {
      const found = selectRules(this.#tables, mod, command === 'modify_strict');
      for (const rule of found) this.#modify(rule, mod);
      if (found.length === 0 && mod.cookieMask === 0n) this.#add(mod);
    } else for (const rule of selectRules(this.#tables, mod, command === 'delete_strict')) this.remove(rule);
  }

  rollBack(): void {
    for (let i = this.#undo.length - 1; i >= 0; i--) this.#undo[i]!();
    this.#undo.length = 0;
    this.changed.clear();
  }

  #add(mod: FlowModSpec): void {
    const tables = this.#tables;
    const table = tables.tableOrNew(mod.table === ALL_TABLES ? 0 : mod.table);
    const old = table.rules.find(mod.match, mod.priority);
    if (mod.flags.includes('check_overlap') && table.rules.findOverlap(mod.match, mod.priority) !== undefined) {
      throw new RequestError('OFPFMFC_OVERLAP', 'a flow of the same priority overlaps', { status: 409 });
    }
    const now = tables.now();
    if (old !== undefined) {
      this.#change(old, mod.flags.includes('reset_counts'));
      Object.assign(old, {
        cookie: mod.newCookie ?? 0n,
        idleTimeout: mod.idleTimeout,
        hardTimeout: mod.hardTimeout,
        importance: mod.importance,
        flags: mod.flags,
        actions: mod.actions,
        created: now,
        modified: now,
        used: now,
      });
      this.#time(old);
      return;
    }
    if (tables.flowCount >= MAX_FLOWS_OF_BRIDGE) {
      throw new RequestError('OFPFMFC_TABLE_FULL', `a bridge holds ${MAX_FLOWS_OF_BRIDGE} flows at most`, {
        status: 409,
      });
    }
    const rule = new Rule(table.id, mod.priority, { ...mod, cookie: mod.newCookie ?? 0n }, now);
    table.rules.insert(rule, mod.match);
    rule.installed = true;
    tables.flowCount++;
    this.#time(rule);
    this.changed.add(rule);
    this.#undo.push(() => {
      table.rules.remove(rule);
      rule.installed = false;
      tables.flowCount--;
      tables.timed.delete(rule);
    });
  }

  #modify(rule: Rule, mod: FlowModSpec): void {
    this.#change(rule, mod.flags.includes('reset_counts'));
    rule.actions = mod.actions;
    rule.modified = this.#tables.now();
    if (mod.newCookie !== undefined) rule.cookie = mod.newCookie;
  }

  /** Before the first change of a rule's fields. */
  #change(rule: Rule, resetCounts: boolean): void {
    const { cookie, idleTimeout, hardTimeout, importance, flags, actions, created, modified, used } = rule;
    const saved = { cookie, idleTimeout, hardTimeout, importance, flags, actions, created, modified, used };
    if (resetCounts && !this.#synced) {
      this.#tables.syncStatistics();
      this.#synced = true;
    }
    const { packets, bytes } = rule;
    if (resetCounts) {
      rule.packets = 0;
      rule.bytes = 0;
    }
    this.changed.add(rule);
    this.#undo.push(() => {
      Object.assign(rule, saved);
      if (resetCounts) {
        rule.packets += packets;
        rule.bytes += bytes;
      }
      this.#time(rule);
    });
  }

  /** Takes a rule out of its table. */
  remove(rule: Rule): void {
    const tables = this.#tables;
    const { rules } = tables.tableMap.get(rule.table)!;
    rules.remove(rule);
    rule.installed = false;
    tables.flowCount--;
    tables.timed.delete(rule);
    this.changed.add(rule);
    this.#undo.push(() => {
      rules.restore(rule);
      rule.installed = true;
      tables.flowCount++;
      this.#time(rule);
    });
  }

  #time(rule: Rule): void {
    if (rule.idleTimeout > 0 || rule.hardTimeout > 0) this.#tables.timed.add(rule);
    else this.#tables.timed.delete(rule);
  }
}

function checkGroups(tables: FlowTables, actions: readonly Action[]): void {
  for (const action of actions) {
    if (action.kind !== 'group' && action.kind !== 'write_actions') continue;
    for (const id of groupsOf([action])) {
      if (!tables.hasGroup(id)) {
        throw new RequestError('OFPBAC_BAD_OUT_GROUP', `group ${id} does not exist`, {
          field: 'actions',
          hint: 'add the group first',
        });
      }
    }
  }
}

/** Rules that a filter selects; loosely, or with the same match and priority (`strict`). */
export function selectRules(tables: Pick<FlowTables, 'tableMap'>, filter: FlowFilter, strict: boolean): Rule[] {
  const found: Rule[] = [];
  const take = (rule: Rule): void => {
    if ((rule.cookie & filter.cookieMask) !== filter.cookie) return;
    if (filter.outPort !== OFPP_NONE && !outputsTo(rule.actions, 'output', filter.outPort)) return;
    if (filter.outGroup !== ANY_GROUP && !outputsTo(rule.actions, 'group', filter.outGroup)) return;
    found.push(rule);
  };
  const one = filter.table === ALL_TABLES ? undefined : tables.tableMap.get(filter.table);
  const inTables = filter.table === ALL_TABLES ? [...tables.tableMap.values()] : one === undefined ? [] : [one];
  for (const table of inTables) collect(table, filter.match, strict ? filter.priority : undefined, take);
  return found;
}

function collect(table: Table, match: Match, priority: number | undefined, take: (rule: Rule) => void): void {
  if (priority === undefined) return table.rules.forEachWithin(match, take);
  const rule = table.rules.find(match, priority);
  if (rule !== undefined) take(rule);
}
