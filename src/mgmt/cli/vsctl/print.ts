/** Records as ovs-vsctl list and find print them: --format=list|table|csv|html|json. */
import { Fatal } from '../client.ts';
import type { Output } from '../options.ts';
import type { AnyColumn } from './columns.ts';
import type { Draft } from './draft.ts';
import { type AtomType, bareValue, formatValue, jsonValue, type Value } from './values.ts';

export interface PrintOptions {
  /** Undefined: list. */
  readonly format: string | undefined;
  readonly data: string;
  readonly headings: boolean;
}

/** @throws Fatal for a format that there is not. */
export function printOptions(options: ReadonlyMap<string, string>): PrintOptions {
  const format = options.has('json') ? 'json' : options.has('bare') ? 'list' : options.get('format');
  if (format !== undefined && !['list', 'table', 'csv', 'json'].includes(format)) {
    throw new Fatal(`unknown output format "${format}"`);
  }
  const data = options.has('bare') ? 'bare' : (options.get('data') ?? 'string');
  if (!['string', 'bare', 'json'].includes(data)) throw new Fatal(`unknown data format "${data}"`);
  return { format, data, headings: !options.has('bare') && !options.has('no-headings') };
}

function cell(value: Value, type: AtomType, data: string): string {
  if (data === 'bare') return bareValue(value);
  return data === 'json' ? JSON.stringify(jsonValue(value, type)) : formatValue(value, type);
}

const csv = (text: string): string => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);

export function printRecords(
  out: Output,
  draft: Draft,
  columns: readonly AnyColumn[],
  records: readonly object[],
  options: PrintOptions,
): void {
  const values = records.map((record) => columns.map((column) => column.get(record, draft)));
  if (options.format === 'json') {
    const data = values.map((row) => row.map((value, at) => jsonValue(value, columns[at]!.type)));
    out.line(JSON.stringify({ data, headings: columns.map((column) => column.name) }));
    return;
  }
  const rows = values.map((row) => row.map((value, at) => cell(value, columns[at]!.type, options.data)));
  const names = columns.map((column) => column.name);
  if (options.format === 'csv') {
    for (const row of options.headings ? [names, ...rows] : rows) out.line(row.map(csv).join(','));
  } else if (options.format === 'table') {
    printTable(out, names, rows, options.headings);
  } else {
    for (const [index, row] of rows.entries()) {
      if (index > 0) out.line('');
      for (const [at, text] of row.entries()) out.line(options.headings ? `${names[at]!.padEnd(20)}: ${text}` : text);
    }
  }
}

function printTable(out: Output, names: readonly string[], rows: readonly string[][], headings: boolean): void {
  const widths = names.map((name, at) => Math.max(headings ? name.length : 0, ...rows.map((row) => row[at]!.length)));
  const line = (cells: readonly string[]): void =>
    out.line(cells.map((text, at) => (at === cells.length - 1 ? text : text.padEnd(widths[at]!))).join(' '));
  if (headings) {
    line(names);
    line(widths.map((width) => '-'.repeat(width)));
  }
  for (const row of rows) line(row);
}
