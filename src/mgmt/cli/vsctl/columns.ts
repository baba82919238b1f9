/** Tables and columns of ovs-vswitchd.conf.db(5) that this switch has: where a value comes from and where it goes. */
import { createHash } from 'node:crypto';
import { Fatal } from '../client.ts';
import { allPorts, type Columns, type Draft, type DraftBridge, type DraftPort } from './draft.ts';
import type { Atom, AtomType, Value } from './values.ts';

/** scalar: exactly one; optional: [] or one; set; map. */
export type Shape = 'scalar' | 'optional' | 'set' | 'map';

export interface Column<R> {
  readonly name: string;
  readonly shape: Shape;
  readonly type: AtomType;
  readonly get: (record: R, draft: Draft) => Value;
  /** Absent: read-only. @throws Fatal for what the database would refuse. */
  readonly set?: (record: R, value: Value) => void;
}

// biome-ignore lint/suspicious/noExplicitAny: tables of all kinds of records are kept in one list
export type AnyColumn = Column<any>;

// biome-ignore lint/suspicious/noExplicitAny: as above
export interface Table<R = any> {
  readonly name: string;
  readonly columns: readonly Column<R>[];
  readonly records: (draft: Draft) => R[];
  /** The name by which a record is found; undefined where `.` finds the only one. */
  readonly key: (record: R) => string | undefined;
}

/** A made-up identity that stays the same: nothing here is found by it. */
function uuidOf(draft: Draft, kind: string, name: string): string {
  const hex = createHash('sha256').update(`${draft.uuid} ${kind} ${name}`).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

const mapOf = (columns: Readonly<Columns>): Value => new Map(Object.entries(columns));
const isMap = (value: Value): value is ReadonlyMap<string, string> => value instanceof Map;
const members = (value: Value): readonly Atom[] => (Array.isArray(value) ? value : [value as Atom]);
const optional = (value: Atom | undefined | ''): Value => (value === undefined || value === '' ? [] : value);

function replace(target: Columns, value: Value): void {
  for (const key of Object.keys(target)) delete target[key];
  if (isMap(value)) Object.assign(target, Object.fromEntries(value));
}

function oneOf(value: Value, words: readonly string[]): string {
  const text = String(members(value)[0] ?? '');
  if (text !== '' && !words.includes(text)) {
    throw new Fatal(`constraint violation: ${text} is not one of the allowed values ([${words.join(', ')}])`);
  }
  return text;
}

function inRange(value: Atom | undefined, low: number, high: number): number | undefined {
  if (value === undefined) return undefined;
  if (Number(value) < low || Number(value) > high) {
    throw new Fatal(`constraint violation: ${value} is not in the valid range ${low} to ${high} (inclusive)`);
  }
  return Number(value);
}

const OPEN_VSWITCH: Table<Draft> = {
  name: 'Open_vSwitch',
  records: (draft) => [draft],
  key: () => undefined,
  columns: [
    { name: '_uuid', shape: 'scalar', type: 'uuid', get: (draft) => draft.uuid },
    {
      name: 'bridges',
      shape: 'set',
      type: 'uuid',
      get: (draft) => [...draft.bridges.keys()].map((name) => uuidOf(draft, 'bridge', name)),
    },
    { name: 'cur_cfg', shape: 'scalar', type: 'integer', get: (draft) => draft.generation },
    { name: 'datapath_types', shape: 'set', type: 'string', get: () => ['netdev'] },
    {
      name: 'external_ids',
      shape: 'map',
      type: 'string',
      get: (draft) => mapOf(draft.switch.externalIds),
      set: (draft, value) => replace(draft.switch.externalIds, value),
    },
    { name: 'next_cfg', shape: 'scalar', type: 'integer', get: (draft) => draft.generation },
    {
      name: 'other_config',
      shape: 'map',
      type: 'string',
      get: (draft) => mapOf(draft.switch.otherConfig),
      set: (draft, value) => replace(draft.switch.otherConfig, value),
    },
    { name: 'ovs_version', shape: 'optional', type: 'string', get: (draft) => draft.version },
  ],
};

const BRIDGE: Table<DraftBridge> = {
  name: 'Bridge',
  records: (draft) => [...draft.bridges.values()],
  key: (bridge) => bridge.spec.name,
  columns: [
    { name: '_uuid', shape: 'scalar', type: 'uuid', get: ({ spec }, draft) => uuidOf(draft, 'bridge', spec.name) },
    { name: 'datapath_id', shape: 'optional', type: 'string', get: (bridge) => optional(bridge.datapathId) },
    {
      name: 'datapath_type',
      shape: 'scalar',
      type: 'string',
      get: ({ spec }) => spec.datapathType,
      set: ({ spec }, value) => {
        spec.datapathType = String(value);
      },
    },
    { name: 'datapath_version', shape: 'scalar', type: 'string', get: () => '<built-in>' },
    {
      name: 'external_ids',
      shape: 'map',
      type: 'string',
      get: ({ spec }) => mapOf(spec.externalIds),
      set: ({ spec }, value) => replace(spec.externalIds, value),
    },
    {
      name: 'fail_mode',
      shape: 'optional',
      type: 'string',
      get: ({ spec }) => optional(spec.failMode),
      set: ({ spec }, value) => {
        spec.failMode = oneOf(value, ['secure', 'standalone']);
      },
    },
    { name: 'name', shape: 'scalar', type: 'string', get: ({ spec }) => spec.name },
    {
      name: 'other_config',
      shape: 'map',
      type: 'string',
      get: ({ spec }) => mapOf(spec.otherConfig),
      set: ({ spec }, value) => replace(spec.otherConfig, value),
    },
    {
      name: 'ports',
      shape: 'set',
      type: 'uuid',
      get: ({ ports }, draft) => [...ports.keys()].map((name) => uuidOf(draft, 'port', name)),
    },
  ],
};

/** Columns that Port and Interface share here: a port has one interface. */
const SHARED: readonly Column<DraftPort>[] = [
  {
    name: 'external_ids',
    shape: 'map',
    type: 'string',
    get: ({ spec }) => mapOf(spec.externalIds),
    set: ({ spec }, value) => replace(spec.externalIds, value),
  },
  { name: 'name', shape: 'scalar', type: 'string', get: ({ spec }) => spec.name },
  {
    name: 'other_config',
    shape: 'map',
    type: 'string',
    get: ({ spec }) => mapOf(spec.otherConfig),
    set: ({ spec }, value) => replace(spec.otherConfig, value),
  },
];

const VLAN_MODES = ['access', 'dot1q-tunnel', 'native-tagged', 'native-untagged', 'trunk'];

const PORT: Table<DraftPort> = {
  name: 'Port',
  records: allPorts,
  key: ({ spec }) => spec.name,
  columns: [
    { name: '_uuid', shape: 'scalar', type: 'uuid', get: ({ spec }, draft) => uuidOf(draft, 'port', spec.name) },
    ...SHARED.slice(0, 1),
    {
      name: 'interfaces',
      shape: 'set',
      type: 'uuid',
      get: ({ spec }, draft) => [uuidOf(draft, 'interface', spec.name)],
    },
    ...SHARED.slice(1),
    {
      name: 'tag',
      shape: 'optional',
      type: 'integer',
      get: ({ spec }) => optional(spec.tag),
      set: ({ spec }, value) => {
        const tag = inRange(members(value)[0], 0, 4095);
        if (tag === undefined) delete spec.tag;
        else spec.tag = tag;
      },
    },
    {
      name: 'trunks',
      shape: 'set',
      type: 'integer',
      get: ({ spec }) => spec.trunks,
      set: ({ spec }, value) => {
        spec.trunks = [...new Set(members(value).map((vlan) => inRange(vlan, 0, 4095)!))].sort((a, b) => a - b);
      },
    },
    {
      name: 'vlan_mode',
      shape: 'optional',
      type: 'string',
      get: ({ spec }) => optional(spec.vlanMode),
      set: ({ spec }, value) => {
        spec.vlanMode = oneOf(value, VLAN_MODES);
      },
    },
  ],
};

const linkState = (port: DraftPort): Value => (port.state ? (port.state.linkUp ? 'up' : 'down') : []);

function interfaceStatus({ spec, state }: DraftPort): Value {
  // A bridge's own port without a device has no state, but says why it has none.
  if (!state?.state) return mapOf(state?.status ?? {});
  const mode: Columns = spec.options.mode ? { mode: spec.options.mode } : {};
  const error: Columns = state.error ? { error: state.error } : {};
  return mapOf({
    ...{ ...mode, status: state.linkUp ? 'connected' : 'disconnected', state: state.state },
    ...{ ...error, ...state.status },
  });
}

function interfaceStatistics({ state }: DraftPort): Value {
  if (!state) return new Map();
  const { counters, drops } = state.statistics;
  const side = (prefix: string): number =>
    Object.entries(drops).reduce((total, [reason, lost]) => total + (reason.startsWith(prefix) ? lost : 0), 0);
  const all: Record<string, number> = { ...counters, ...drops };
  if (Object.keys(counters).length > 0) Object.assign(all, { rx_dropped: side('rx_'), tx_dropped: side('tx_') });
  return new Map(Object.entries(all).map(([name, count]) => [name, String(count)]));
}

const INTERFACE: Table<DraftPort> = {
  name: 'Interface',
  records: allPorts,
  key: ({ spec }) => spec.name,
  columns: [
    { name: '_uuid', shape: 'scalar', type: 'uuid', get: ({ spec }, draft) => uuidOf(draft, 'interface', spec.name) },
    {
      name: 'admin_state',
      shape: 'optional',
      type: 'string',
      get: ({ spec, state }) => (state ? (spec.config.includes('down') ? 'down' : 'up') : []),
    },
    { name: 'error', shape: 'optional', type: 'string', get: ({ state }) => optional(state?.error) },
    ...SHARED.slice(0, 1),
    { name: 'link_state', shape: 'optional', type: 'string', get: linkState },
    { name: 'mac_in_use', shape: 'optional', type: 'string', get: ({ state }) => optional(state?.mac) },
    { name: 'mtu', shape: 'optional', type: 'integer', get: ({ state }) => optional(state?.mtu) },
    {
      name: 'mtu_request',
      shape: 'optional',
      type: 'integer',
      get: ({ spec }) => optional(spec.mtuRequest || undefined),
      set: ({ spec }, value) => {
        spec.mtuRequest = inRange(members(value)[0], 68, 65_535) ?? 0;
      },
    },
    ...SHARED.slice(1, 2),
    { name: 'ofport', shape: 'optional', type: 'integer', get: ({ state }) => optional(state?.ofport) },
    {
      name: 'ofport_request',
      shape: 'optional',
      type: 'integer',
      get: ({ spec }) => optional(spec.ofportRequest || undefined),
      set: ({ spec }, value) => {
        spec.ofportRequest = inRange(members(value)[0], 1, 65_279) ?? 0;
      },
    },
    {
      name: 'options',
      shape: 'map',
      type: 'string',
      get: ({ spec }) => mapOf(spec.options),
      set: ({ spec }, value) => replace(spec.options, value),
    },
    ...SHARED.slice(2),
    { name: 'statistics', shape: 'map', type: 'integer', get: interfaceStatistics },
    { name: 'status', shape: 'map', type: 'string', get: interfaceStatus },
    {
      name: 'type',
      shape: 'scalar',
      type: 'string',
      get: ({ spec }) => spec.type,
      set: ({ spec }, value) => {
        spec.type = String(value);
      },
    },
  ],
};

const TABLES: readonly Table[] = [BRIDGE, INTERFACE, OPEN_VSWITCH, PORT];

const folded = (name: string): string => name.toLowerCase().replace(/-/g, '_');

/** A table by its name or a beginning of it, in any case. @throws Fatal */
export function findTable(name: string): Table {
  const exact = TABLES.find((table) => folded(table.name) === folded(name));
  if (exact) return exact;
  const found = TABLES.filter((table) => folded(table.name).startsWith(folded(name)));
  if (found.length > 1) throw new Fatal(`multiple table names match "${name}"`);
  if (found.length === 0) throw new Fatal(`unknown table "${name}"`);
  return found[0]!;
}

/** A column by its name or a beginning of it. @throws Fatal */
export function findColumn(table: Table, name: string): AnyColumn {
  const exact = table.columns.find((column) => column.name === folded(name));
  if (exact) return exact;
  const found = table.columns.filter((column) => column.name.startsWith(folded(name)));
  if (found.length > 1) {
    throw new Fatal(
      `${table.name} contains more than one column whose name matches "${name}": ${found.map((c) => c.name).join(', ')}`,
    );
  }
  if (found.length === 0) throw new Fatal(`${table.name} does not contain a column whose name matches "${name}"`);
  return found[0]!;
}

/** The record of a name, or the only one for `.`. @throws Fatal unless `mayLack`. */
export function findRecord(draft: Draft, table: Table, name: string): object;
export function findRecord(draft: Draft, table: Table, name: string, mayLack: boolean): object | undefined;
export function findRecord(draft: Draft, table: Table, name: string, mayLack = false): object | undefined {
  const records = table.records(draft);
  const uuid = table.columns.find((column) => column.name === '_uuid')!;
  const found = records.find((record) =>
    table.key(record) === undefined
      ? name === '.' || uuid.get(record, draft) === name
      : table.key(record) === name || uuid.get(record, draft) === name,
  );
  if (!found && !mayLack) throw new Fatal(`no row "${name}" in table ${table.name}`);
  return found;
}
