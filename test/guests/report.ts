/** What a run of the guests' matrix tells: a line for each row as it ends, a table and JSON at the end. */
import type { Outcome } from './exchange.ts';

export interface Result {
  /** Name of a row or a scenario. */
  name: string;
  ok: boolean;
  seconds: number;
  outcome?: Outcome;
  /** What a scenario told. */
  told?: readonly string[];
  /** What went wrong, and the last words of everyone. */
  error?: string;
}

const mega = (rate: number): string => (rate / 1e6).toFixed(0);
const both = <T>({ a, b }: Record<'a' | 'b', T>, show: (value: T) => string = String): string =>
  `${show(a)} / ${show(b)}`;

const HEADS = [
  'a to b / b to a',
  'ping ms',
  'MTU-long',
  'TCP Mbit/s',
  'UDP lost',
  'segmented',
  'checksums',
  'ring full',
  's',
  '',
];

function cells({ name, ok, seconds, outcome }: Result): string[] {
  const end = [seconds.toFixed(1), ok ? 'ok' : 'FAILED'];
  if (!outcome) return [name, '-', '-', '-', '-', '-', '-', '-', ...end];
  const { ping, pingLong, tcp, udp, segmented, checksums, full } = outcome;
  return [
    name,
    ping.toFixed(1),
    pingLong.toFixed(1),
    both(tcp, ({ rate }) => mega(rate)),
    both(udp, ({ sent, lost }) => `${lost} of ${sent}`),
    both({ a: segmented.b, b: segmented.a }),
    both({ a: checksums.b, b: checksums.a }),
    both({ a: full.b, b: full.a }),
    ...end,
  ];
}

/** One line, for people who wait. */
export function lineOf(result: Result, done: number, total: number): string {
  const { name, ok, seconds, outcome, told } = result;
  const facts =
    told ??
    (outcome ? [`ping ${outcome.ping.toFixed(1)} ms, TCP ${both(outcome.tcp, ({ rate }) => mega(rate))} Mbit/s`] : []);
  return `[${done}/${total}] ${name}: ${ok ? facts.join('; ') : 'FAILED'} (${seconds.toFixed(1)} s)`;
}

/** Columns padded to their widest cell, the first to the left; below it what scenarios told. */
export function tableOf(results: readonly Result[]): string[] {
  const rows = results.filter(({ told, outcome, ok }) => !told && (outcome || !ok));
  const lines: string[] = [];
  if (rows.length > 0) {
    const table = [HEADS, ...rows.map(cells)];
    const widths = HEADS.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
    for (const row of table)
      lines.push(
        row
          .map((cell, i) => (i === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[i]!)))
          .join('  ')
          .trimEnd(),
      );
  }
  for (const { name, told } of results) if (told) lines.push(`${name}: ${told.join('; ')}`);
  return lines;
}

/** What failed, why, and how to see it again. */
export const failuresOf = (results: readonly Result[]): string[] =>
  results
    .filter(({ ok }) => !ok)
    .map(({ name, error }) => `${name} FAILED; again: npm run guests -- --rows ${name}\n${error}\n`);
