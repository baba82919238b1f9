/**
 * rw-vsctl: the configuration, with the words and outputs of ovs-vsctl(8). The commands of one run, divided by `--`, are one
 * transaction: all are in force when it returns, or none.
 */
import process from 'node:process';
import { ApiError, type Client, Fatal } from './client.ts';
import { COMMON_OPTIONS, clientFor, type OptionTable, Output, parseOptions } from './options.ts';
import { checkCount, run, versionLine } from './run.ts';
import { version } from './version.ts';
import { bridgeCommands } from './vsctl/bridges.ts';
import { findRecord, findTable } from './vsctl/columns.ts';
import type { Command } from './vsctl/context.ts';
import { databaseCommands, meets } from './vsctl/database.ts';
import { type Draft, operations, readDraft, remember, sendOperations } from './vsctl/draft.ts';
import { type PrintOptions, printOptions } from './vsctl/print.ts';

const COMMANDS: Readonly<Record<string, Command>> = { ...bridgeCommands, ...databaseCommands };

const GLOBAL_OPTIONS: OptionTable = {
  ...COMMON_OPTIONS,
  format: { argument: 'required', short: 'f' },
  data: { argument: 'required', short: 'd' },
  bare: { argument: 'no' },
  'no-headings': { argument: 'no' },
  oneline: { argument: 'no' },
  'no-wait': { argument: 'no' },
  'dry-run': { argument: 'no' },
  'no-syslog': { argument: 'no' },
  db: { argument: 'required' },
  retry: { argument: 'no' },
};
const COMMAND_OPTIONS: OptionTable = {
  'may-exist': { argument: 'no' },
  'if-exists': { argument: 'no' },
  'with-iface': { argument: 'no' },
  columns: { argument: 'required' },
};

const HELP = `rw-vsctl: configuration of the Ringway switch
usage: rw-vsctl [OPTIONS] COMMAND [ARG...] [-- COMMAND [ARG...]]...

  show, add-br, del-br, list-br, br-exists, add-port, del-port, list-ports, list-ifaces, port-to-br, iface-to-br
  set-fail-mode, get-fail-mode, del-fail-mode, br-set-external-id, br-get-external-id
  list, find, get, set, add, remove, clear TABLE RECORD ...   (Open_vSwitch, Bridge, Port, Interface)
  wait-until TABLE RECORD COLUMN=VALUE...

  --may-exist, --if-exists   before a command: be content with what is there, or not
  -f, --format=list|table|csv|json, --columns=..., --bare, --no-headings, --json
  --no-wait, --dry-run, --oneline
  --rundir=DIR               where the switch runs
  -t, --timeout=SECONDS      give up then (30; 0 waits for ever)
`;

/** Times that a run starts again because somebody else changed the configuration meanwhile. */
const ATTEMPTS = 10;
/** ms between looks of wait-until. */
const WAIT_STEP = 100;
/** Exit code when the switch cannot set up what is configured, as of ovs-vsctl 3.6. */
const CANNOT_SET_UP = 65;

interface Step {
  readonly name: string;
  readonly command: Command | undefined;
  readonly options: ReadonlyMap<string, string>;
  readonly args: readonly string[];
}

/** Cuts the arguments at `--`; each part is options, a command, its arguments. */
function parseSteps(words: readonly string[]): Step[] {
  const steps: Step[] = [];
  let part: string[] = [];
  for (const word of [...words, '--']) {
    if (word !== '--') {
      part.push(word);
      continue;
    }
    if (part.length > 0) steps.push(parseStep(part));
    part = [];
  }
  return steps;
}

function parseStep(part: readonly string[]): Step {
  const { values: options, rest } = parseOptions(part, COMMAND_OPTIONS, false);
  const [name, ...args] = rest;
  if (name === undefined) throw new Fatal('missing command name (use --help for help)');
  if (name === 'wait-until') {
    checkCount(name, args.length, 2, 1000);
    return { name, command: undefined, options, args };
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name]! : undefined;
  if (!command) throw new Fatal(`unknown command '${name}'; use --help for help`);
  for (const option of options.keys()) {
    if (!command.options?.includes(option)) throw new Fatal(`'${name}' command has no '--${option}' option`);
  }
  checkCount(name, args.length, command.least, command.most);
  return { name, command, options, args };
}

/** Global options stand before the first command, among that command's own. */
function splitGlobal(argv: readonly string[]): { values: Map<string, string>; words: string[] } {
  const all = { ...GLOBAL_OPTIONS, ...COMMAND_OPTIONS };
  const { values, rest } = parseOptions(argv, all, false);
  const own: string[] = [];
  const global = new Map<string, string>();
  for (const [name, value] of values) {
    if (Object.hasOwn(GLOBAL_OPTIONS, name)) global.set(name, value);
    else own.push(all[name]!.argument === 'no' ? `--${name}` : `--${name}=${value}`);
  }
  return { values: global, words: [...own, ...rest] };
}

interface Printing {
  readonly print: PrintOptions;
  readonly json: boolean;
  readonly oneline: boolean;
  readonly dryRun: boolean;
}

/** One look at the configuration, all commands, one transaction. @returns the exit code, and what is to be printed. */
async function attempt(client: Client, steps: readonly Step[], how: Printing): Promise<{ code: number; text: string }> {
  let draft = await readDraft(client);
  let before = remember(draft);
  let code = 0;
  let text = '';
  for (const step of steps) {
    if (!step.command) {
      if (operations(before, draft).length > 0)
        throw new Fatal('wait-until cannot follow a command that changes something');
      draft = await waitUntil(client, step);
      before = remember(draft);
      continue;
    }
    const out = new Output();
    const { args, options } = step;
    const result = step.command.run({ draft, args, options, out, print: how.print, json: how.json });
    code = Math.max(code, result ?? 0);
    text += how.oneline ? `${out.take().trimEnd().replace(/\\/g, '\\\\').replace(/\n/g, '\\n')}\n` : out.take();
  }
  const list = operations(before, draft);
  if (list.length > 0 && !how.dryRun) {
    try {
      await sendOperations(client, draft, list);
    } catch (error) {
      throw explain(error, list);
    }
  }
  return { code, text };
}

async function waitUntil(client: Client, step: Step): Promise<Draft> {
  const [tableName = '', name = '', ...conditions] = step.args;
  const table = findTable(tableName);
  for (;;) {
    const draft = await readDraft(client);
    const record = findRecord(draft, table, name, true);
    if (record && conditions.every((text) => meets(draft, table, record, text))) return draft;
    await new Promise((done) => setTimeout(done, WAIT_STEP));
  }
}

const REFUSED = new Set([
  'conflict',
  'exists',
  'unknown_option',
  'bad_value',
  'bad_name',
  'invalid_request',
  'not_stored',
  'no_such_bridge',
  'no_such_port',
]);

/** What the switch could not set up is told as ovs-vsctl tells it. */
function explain(error: unknown, list: readonly object[]): unknown {
  if (!(error instanceof ApiError) || REFUSED.has(error.code)) return error;
  const at = Number(/^operations\[(\d+)\]/.exec(error.field)?.[1] ?? -1);
  const operation = list[at] as { setPort?: { port: { name: string } }; setBridge?: { name: string } } | undefined;
  const name = operation?.setPort?.port.name ?? operation?.setBridge?.name;
  return name === undefined
    ? error
    : new Fatal(`Error detected while setting up '${name}': ${error.message}`, CANNOT_SET_UP);
}

async function vsctl(argv: string[]): Promise<number> {
  const { values, words } = splitGlobal(argv);
  if (values.has('help') || values.has('version')) {
    process.stdout.write(values.has('help') ? HELP : `${versionLine('rw-vsctl', version())}\nDB Schema 8.3.1\n`);
    return 0;
  }
  const steps = parseSteps(words);
  if (steps.length === 0) throw new Fatal('missing command name (use --help for help)');
  const client = clientFor(values);
  const print = printOptions(values);
  const json = values.has('json') || print.format === 'json';
  const how = { print, json, oneline: values.has('oneline'), dryRun: values.has('dry-run') };
  for (let tries = 1; ; tries++) {
    try {
      const { code, text } = await attempt(client, steps, how);
      process.stdout.write(text);
      return code;
    } catch (error) {
      if (!(error instanceof ApiError && error.code === 'conflict') || tries === ATTEMPTS) throw error;
    }
  }
}

await run('rw-vsctl', vsctl);
