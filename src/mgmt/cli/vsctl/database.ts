/** Commands on any table: list, find, get, set, add, remove, clear, wait-until. */
import { Fatal } from '../client.ts';
import { type AnyColumn, findColumn, findRecord, findTable, type Table } from './columns.ts';
import type { Command, CommandContext } from './context.ts';
import type { Draft } from './draft.ts';
import { printRecords } from './print.ts';
import { type Atom, formatAtom, formatValue, jsonValue, parseAtom, parseMap, parseSet, type Value } from './values.ts';

interface Target {
  readonly column: AnyColumn;
  readonly key: string | undefined;
  readonly operator: string;
  readonly value: string | undefined;
}

/** Splits `column[:key][=value]`. */
function parseTarget(table: Table, text: string, operators: readonly string[]): Target {
  const found = /^([A-Za-z_][\w-]*)(?::("(?:[^"\\]|\\.)*"|[^=!<>{},"\s]+))?(.*)$/s.exec(text);
  if (!found) throw new Fatal(`${text}: missing column name`);
  const column = findColumn(table, found[1]!);
  const rest = found[3]!;
  const operator = operators.find((candidate) => rest.startsWith(candidate)) ?? '';
  if (rest !== '' && operator === '') throw new Fatal(`${text}: trailing garbage "${rest}" in argument`);
  const key = found[2] === undefined ? undefined : String(parseAtom(found[2], 'string'));
  return { column, key, operator, value: operator === '' ? undefined : rest.slice(operator.length) };
}

function parseValue(column: AnyColumn, text: string): Value {
  if (column.shape === 'map') return parseMap(text);
  if (column.shape === 'set') return parseSet(text, column.type);
  if (column.shape === 'optional') {
    const set =
      column.type === 'integer' ? parseSet(text, 'integer') : text === '[]' ? [] : [parseAtom(text, column.type)];
    if (set.length > 1) throw new Fatal(`${text}: 2 or more values specified but the maximum number is 1`);
    return set;
  }
  return parseAtom(text, column.type);
}

function writable(table: Table, column: AnyColumn): NonNullable<AnyColumn['set']> {
  if (!column.set) throw new Fatal(`cannot modify read-only column ${column.name} in table ${table.name}`);
  return column.set;
}

/** `set` and the settings behind add-port: `column=value` or `column:key=value`. */
export function setColumn(draft: Draft, table: Table, record: object, text: string): void {
  const { column, key, value } = parseTarget(table, text, ['=']);
  if (!value) throw new Fatal(`${text}: argument does not end in "=" followed by a value.`);
  const local = (record as { local?: boolean }).local === true;
  const set = writable(table, column);
  if (local) throw new Fatal(`the columns of a bridge's own port cannot be changed`);
  if (key === undefined) {
    set(record, parseValue(column, value));
    return;
  }
  if (column.shape !== 'map') throw new Fatal(`cannot specify key to set for non-map column ${column.name}`);
  const map = new Map(column.get(record, draft) as ReadonlyMap<string, string>);
  map.set(key, String(parseAtom(value, 'string')));
  set(record, map);
}

/** Runs `work` on the record that the first two arguments name, unless --if-exists lets it be missing. */
function onRecord(
  { draft, args, options }: CommandContext,
  work: (table: Table, record: object, rest: readonly string[]) => void,
): void {
  const table = findTable(args[0]!);
  const record = findRecord(draft, table, args[1]!, options.has('if-exists'));
  if (record) work(table, record, args.slice(2));
}

function get(
  { draft, out, options, json }: CommandContext,
  table: Table,
  record: object,
  targets: readonly string[],
): void {
  for (const text of targets) {
    const { column, key } = parseTarget(table, text, []);
    const value = column.get(record, draft);
    if (key === undefined) {
      out.line(json ? JSON.stringify(jsonValue(value, column.type)) : formatValue(value, column.type));
      continue;
    }
    if (!(value instanceof Map)) throw new Fatal(`cannot specify key to get for non-map column ${column.name}`);
    const found = value.get(key);
    if (found === undefined && !options.has('if-exists')) {
      throw new Fatal(`no key "${key}" in ${table.name} record "${table.key(record) ?? '.'}" column ${column.name}`);
    }
    const number = column.type === 'integer';
    out.line(found === undefined ? '' : json ? JSON.stringify(found) : number ? found : formatAtom(found));
  }
}

function columnsOf(table: Table, names: string | undefined): readonly AnyColumn[] {
  return names ? names.split(',').map((name) => findColumn(table, name.trim())) : table.columns;
}

function add({ draft }: CommandContext, table: Table, record: object, [name = '', ...texts]: readonly string[]): void {
  const column = findColumn(table, name);
  const set = writable(table, column);
  const now = column.get(record, draft);
  for (const text of texts) {
    if (now instanceof Map)
      set(record, new Map([...parseMap(text), ...(column.get(record, draft) as ReadonlyMap<string, string>)]));
    else {
      const old = column.get(record, draft);
      const list = [...(Array.isArray(old) ? old : [old as Atom]), ...parseSet(text, column.type)];
      const unique = [...new Set(list)];
      if (column.shape !== 'set' && unique.length > 1) {
        throw new Fatal(
          `"add" operation would put ${unique.length} values in column ${column.name} of table ${table.name} but the maximum number is 1`,
        );
      }
      set(record, unique);
    }
  }
}

function remove(
  { draft }: CommandContext,
  table: Table,
  record: object,
  [name = '', ...texts]: readonly string[],
): void {
  const column = findColumn(table, name);
  const set = writable(table, column);
  for (const text of texts) {
    const now = column.get(record, draft);
    if (now instanceof Map) {
      const map = new Map(now as ReadonlyMap<string, string>);
      const pairs = /^[^="]*$|^"[^"]*"$/.test(text) ? undefined : parseMap(text);
      if (pairs) {
        for (const [key, value] of pairs) if (map.get(key) === value) map.delete(key);
      } else {
        for (const key of parseSet(text, 'string')) map.delete(String(key));
      }
      set(record, map);
    } else {
      const gone = parseSet(text, column.type);
      const left = (Array.isArray(now) ? now : [now as Atom]).filter((atom) => !gone.includes(atom));
      if (column.shape === 'scalar') {
        throw new Fatal(
          `"remove" operation would put 0 values in column ${column.name} of table ${table.name} but the minimum number is 1`,
        );
      }
      set(record, left);
    }
  }
}

function clear(table: Table, record: object, names: readonly string[]): void {
  for (const name of names) {
    const column = findColumn(table, name);
    const set = writable(table, column);
    if (column.shape === 'scalar') {
      throw new Fatal(
        `"clear" operation cannot be applied to column ${column.name} of table ${table.name}, which is not allowed to be empty`,
      );
    }
    set(record, column.shape === 'map' ? new Map() : []);
  }
}

const RELATIONS = ['!=', '<=', '>=', '=', '<', '>'];

/** True when a record meets `column[:key]RELATIONvalue`; a bare column must not be empty. */
export function meets(draft: Draft, table: Table, record: object, text: string): boolean {
  const { column, key, operator, value } = parseTarget(table, text, RELATIONS);
  const all = column.get(record, draft);
  const now: Value | undefined = key === undefined ? all : (all as ReadonlyMap<string, string>).get(key);
  if (now === undefined) return false;
  if (operator === '') return !(Array.isArray(now) && now.length === 0);
  const wanted = key === undefined ? parseValue(column, value!) : parseAtom(value!, 'string');
  const compare = (): number =>
    Number(Array.isArray(now) ? now[0] : now) - Number(Array.isArray(wanted) ? wanted[0] : wanted);
  // A map is met by a record that has all of the pairs.
  const same =
    now instanceof Map
      ? [...(wanted as ReadonlyMap<string, string>)].every(([name, text_]) => now.get(name) === text_)
      : formatValue(Array.isArray(now) ? now : [now as Atom]) ===
        formatValue(Array.isArray(wanted) ? wanted : [wanted as Atom]);
  if (operator === '=') return same;
  if (operator === '!=') return !same;
  const order = compare();
  return operator === '<' ? order < 0 : operator === '>' ? order > 0 : operator === '<=' ? order <= 0 : order >= 0;
}

const MANY = 1000;

export const databaseCommands: Readonly<Record<string, Command>> = {
  list: {
    least: 1,
    most: MANY,
    options: ['if-exists', 'columns'],
    run: ({ draft, args, options, out, print }) => {
      const table = findTable(args[0]!);
      const names = args.slice(1);
      const records =
        names.length === 0
          ? table.records(draft)
          : names
              .map((name) => findRecord(draft, table, name, options.has('if-exists')))
              .filter((record) => record !== undefined);
      printRecords(out, draft, columnsOf(table, options.get('columns')), records, print);
    },
  },
  find: {
    least: 1,
    most: MANY,
    options: ['columns'],
    run: ({ draft, args, options, out, print }) => {
      const table = findTable(args[0]!);
      const records = table
        .records(draft)
        .filter((record) => args.slice(1).every((text) => meets(draft, table, record, text)));
      printRecords(out, draft, columnsOf(table, options.get('columns')), records, print);
    },
  },
  get: {
    least: 2,
    most: MANY,
    options: ['if-exists'],
    run: (context) => onRecord(context, (table, record, rest) => get(context, table, record, rest)),
  },
  set: {
    least: 3,
    most: MANY,
    options: ['if-exists'],
    run: (context) =>
      onRecord(context, (table, record, rest) => {
        for (const text of rest) setColumn(context.draft, table, record, text);
      }),
  },
  add: {
    least: 4,
    most: MANY,
    options: ['if-exists'],
    run: (context) => onRecord(context, (table, record, rest) => add(context, table, record, rest)),
  },
  remove: {
    least: 4,
    most: MANY,
    options: ['if-exists'],
    run: (context) => onRecord(context, (table, record, rest) => remove(context, table, record, rest)),
  },
  clear: {
    least: 3,
    most: MANY,
    options: ['if-exists'],
    run: (context) => onRecord(context, (table, record, rest) => clear(table, record, rest)),
  },
};
