/** Options as getopt_long(3) reads them, with its error messages; what follows an option's name is told by a table. */
import process from 'node:process';
import { defaultRundir } from '#contract/rundir.ts';
import { Client, DEFAULT_TIMEOUT, Fatal } from './client.ts';

/** no: a flag; required: `--x=V`, `--x V`, `-x V`; optional: `--x` or `--x=V`. */
export type Argument = 'no' | 'required' | 'optional';

export interface OptionSpec {
  readonly argument: Argument;
  readonly short?: string;
}

export type OptionTable = Readonly<Record<string, OptionSpec>>;

export interface Parsed {
  readonly values: ReadonlyMap<string, string>;
  readonly rest: string[];
}

/** Taken by every tool. */
export const COMMON_OPTIONS: OptionTable = {
  rundir: { argument: 'required' },
  timeout: { argument: 'required', short: 't' },
  json: { argument: 'no' },
  verbose: { argument: 'optional', short: 'v' },
  help: { argument: 'no', short: 'h' },
  version: { argument: 'no', short: 'V' },
};

/**
 * @param permute take options behind arguments too; else the first argument ends them. `--` always does.
 * @throws Fatal for an unknown option or a missing argument.
 */
export function parseOptions(args: readonly string[], table: OptionTable, permute: boolean): Parsed {
  const values = new Map<string, string>();
  const rest: string[] = [];
  for (let at = 0; at < args.length; at++) {
    const word = args[at]!;
    if (word === '--') {
      rest.push(...args.slice(permute ? at + 1 : at));
      break;
    }
    if (!word.startsWith('-') || word === '-') {
      if (!permute) {
        rest.push(...args.slice(at));
        break;
      }
      rest.push(word);
    } else {
      const { name, value, long } = splitOption(word, table);
      const spec = table[name]!;
      if (spec.argument === 'required' && value === undefined) {
        const next = args[++at];
        if (next === undefined)
          throw new Fatal(
            long ? `option '--${name}' requires an argument` : `option requires an argument -- '${spec.short}'`,
          );
        values.set(name, next);
      } else {
        if (spec.argument === 'no' && value !== undefined)
          throw new Fatal(`option '--${name}' doesn't allow an argument`);
        values.set(name, value ?? '');
      }
    }
  }
  return { values, rest };
}

function splitOption(word: string, table: OptionTable): { name: string; value: string | undefined; long: boolean } {
  if (word.startsWith('--')) {
    const equals = word.indexOf('=');
    const typed = word.slice(2, equals < 0 ? undefined : equals);
    const value = equals < 0 ? undefined : word.slice(equals + 1);
    const matches = Object.hasOwn(table, typed) ? [typed] : Object.keys(table).filter((name) => name.startsWith(typed));
    if (matches.length > 1)
      throw new Fatal(
        `option '--${typed}' is ambiguous; possibilities: ${matches.map((name) => `'--${name}'`).join(' ')}`,
      );
    if (matches.length === 0) throw new Fatal(`unrecognized option '--${typed}'`);
    return { name: matches[0]!, value, long: true };
  }
  const letter = word[1]!;
  const name = Object.keys(table).find((key) => table[key]!.short === letter);
  if (!name) throw new Fatal(`invalid option -- '${letter}'`);
  return { name, value: word.length > 2 ? word.slice(2) : undefined, long: false };
}

/** The API's client that the common options ask for. */
export function clientFor(values: ReadonlyMap<string, string>): Client {
  const timeout = values.has('timeout') ? Number(values.get('timeout')) : DEFAULT_TIMEOUT;
  if (!(timeout >= 0)) throw new Fatal(`value ${values.get('timeout')} on -t or --timeout is invalid`);
  return new Client(defaultRundir(values.get('rundir')), timeout);
}

/** Writes what a tool prints; `exit` ends in it once all is written. */
export class Output {
  #text = '';

  /** One line. */
  line(text: string): void {
    this.#text += `${text}\n`;
    // A dump of many flows need not be held twice.
    if (this.#text.length > 1 << 20) this.flush();
  }

  /** As it is. */
  raw(text: string): void {
    this.#text += text;
  }

  /** Text that came as UTF-8. */
  bytes(chunk: Uint8Array): void {
    this.flush();
    process.stdout.write(chunk);
  }

  /** What was written and not flushed yet. */
  take(): string {
    const text = this.#text;
    this.#text = '';
    return text;
  }

  flush(): void {
    if (this.#text !== '') process.stdout.write(this.#text);
    this.#text = '';
  }
}
