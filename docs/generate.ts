/** `node docs/generate.ts` writes the pages that are made from tables in the source; a test keeps them equal. */
import { writeFileSync } from 'node:fs';
import { type CatalogueEntry, DROP_REASONS, PORT_COUNTERS, WORKER_COUNTERS } from '../src/contract/catalogue.ts';

function section(title: string, about: string, entries: readonly CatalogueEntry[]): string {
  const cells = [['name', 'meaning'], ...entries.map(({ name, help }) => [`\`${name}\``, help])];
  const widths = [0, 1].map((column) => Math.max(...cells.map((row) => row[column]!.length)));
  const line = (row: string[]) => `| ${row.map((cell, column) => cell.padEnd(widths[column]!)).join(' | ')} |`;
  const [head, ...rows] = cells.map(line);
  const rule = line(widths.map((width) => '-'.repeat(width)));
  return [`## ${title}`, '', about, '', head, rule, ...rows, ''].join('\n');
}

/** docs/counters.md. */
export function counterPage(): string {
  return [
    '# Counters and drop reasons',
    '',
    'Made by `node docs/generate.ts` from `src/contract/catalogue.ts`; change it there.',
    '',
    section('Counters of a port', 'Counted by each worker, shown as their sum.', PORT_COUNTERS),
    section('Drop reasons of a port', 'Every lost packet adds one to exactly one of these.', DROP_REASONS),
    section('Counters of a worker', 'Per PMD; cycles are of the time-stamp counter.', WORKER_COUNTERS),
  ].join('\n');
}

if (import.meta.main) writeFileSync(new URL('counters.md', import.meta.url), counterPage());
