/** What every rw-vsctl command works with. */
import type { Output } from '../options.ts';
import type { Draft } from './draft.ts';
import type { PrintOptions } from './print.ts';

export interface CommandContext {
  readonly draft: Draft;
  readonly args: readonly string[];
  /** Options in front of the command: may-exist, if-exists, columns, … */
  readonly options: ReadonlyMap<string, string>;
  readonly out: Output;
  readonly print: PrintOptions;
  readonly json: boolean;
}

export interface Command {
  readonly least: number;
  readonly most: number;
  /** Options that it takes. */
  readonly options?: readonly string[];
  /** Changes the draft, prints. @returns an exit code, or undefined for 0. */
  // biome-ignore lint/suspicious/noConfusingVoidType: most commands have nothing to say but what they print
  readonly run: (context: CommandContext) => number | void;
}
