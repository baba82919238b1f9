/** What a system bench is to the runner, and the helpers that benches share. */

export interface BenchOptions {
  /** Turns each switch gets per measurement; results are medians over them. */
  rounds: number;
  /** Seconds of one measurement, and of traffic before it. */
  seconds: number;
  warmup: number;
  /** Rows or switches to be measured; all when empty. */
  rows: string[];
  switches: string[];
  /** Least number of cycles of the bench soak. */
  cycles?: number;
  /** Progress, one line each; not part of the results. */
  progress: (line: string) => void;
}

export interface BenchResult {
  /** What was measured, e.g. `64B in_port`, and of which switch. */
  row: string;
  subject: string;
  metric: string;
  value: number;
  unit: string;
}

export interface Bench {
  name: string;
  /** One line for `--help`. */
  about: string;
  /** Measures, prints its own table to standard output unless `quiet`, and gives the figures. */
  run(options: BenchOptions): Promise<BenchReport>;
}

export interface BenchReport {
  results: BenchResult[];
  /** Lines of a table for people. */
  table: string[];
}

export function median(values: number[]): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Columns padded to their widest cell: the first to the left, the others to the right. */
export function formatTable(rows: string[][]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!))).join('  '),
  );
}

/** A figure with about three significant digits, or `-` where there is none. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (Math.abs(value) >= 100 || Number.isInteger(value))
    return Math.round(value).toLocaleString('en').replaceAll(',', ' ');
  return value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}
