/** rw-appctl: looks into a running switch, with the commands and outputs of ovs-appctl(8). */
import process from 'node:process';
import type { AppCommand, AppContext } from './appctl/context.ts';
import { ServerError } from './appctl/context.ts';
import { datapathCommands } from './appctl/datapath.ts';
import { ofprotoCommands } from './appctl/ofproto.ts';
import { tunnelCommands } from './appctl/tunnels.ts';
import { ApiError, Fatal, segment } from './client.ts';
import { COMMON_OPTIONS, clientFor, Output, parseOptions } from './options.ts';
import { run, versionLine } from './run.ts';
import { version } from './version.ts';

const COMMANDS: Readonly<Record<string, AppCommand>> = {
  ...datapathCommands,
  ...ofprotoCommands,
  ...tunnelCommands,
  'list-commands': {
    least: 0,
    most: 0,
    usage: '',
    run: async ({ out, json }) => {
      const names = Object.keys(COMMANDS).sort();
      if (json) return out.line(JSON.stringify(Object.fromEntries(names.map((name) => [name, COMMANDS[name]!.usage]))));
      out.line('The available commands are:');
      for (const name of names) out.line(`  ${name.padEnd(23)} ${COMMANDS[name]!.usage}`);
    },
  },
};

const OPTIONS = {
  ...COMMON_OPTIONS,
  target: { argument: 'required' },
  format: { argument: 'required', short: 'f' },
} as const;

const HELP = `rw-appctl: looks into a running Ringway switch
usage: rw-appctl [--rundir=DIR] [--timeout=SECONDS] [--json] COMMAND [ARG...]
rw-appctl list-commands tells the commands.
`;

/** The whole name, or a name without its folder where only one command has that. */
function findCommand(name: string): AppCommand | undefined {
  if (Object.hasOwn(COMMANDS, name)) return COMMANDS[name];
  const found = Object.keys(COMMANDS).filter((full) => full.startsWith('dpif-netdev/') && full.endsWith(`/${name}`));
  return found.length === 1 ? COMMANDS[found[0]!] : undefined;
}

async function appctl(argv: string[]): Promise<number> {
  const { values, rest } = parseOptions(argv, OPTIONS, false);
  const out = new Output();
  if (values.has('help')) out.raw(HELP);
  else if (values.has('version')) out.line(versionLine('rw-appctl', version()));
  if (values.has('help') || values.has('version')) {
    out.flush();
    return 0;
  }
  const [name, ...args] = rest[0] === '--' ? rest.slice(1) : rest;
  if (name === undefined) throw new Fatal('at least one non-option argument is required (use --help for help)');
  const client = clientFor(values);
  const bridge = async (wanted: string): Promise<object> => {
    try {
      return await client.get(`/v1/bridges/${segment(wanted)}`);
    } catch (error) {
      throw error instanceof ApiError && error.status === 404 ? new ServerError('no such bridge') : error;
    }
  };
  const json = values.has('json') || values.get('format') === 'json';
  const context: AppContext = { client, out, args, json, bridge };
  try {
    const command = findCommand(name);
    if (!command)
      throw new ServerError(`"${name}" is not a valid command (use "list-commands" to see a list of valid commands)`);
    if (args.length < command.least)
      throw new ServerError(`"${name}" command requires at least ${command.least} arguments`);
    if (args.length > command.most) throw new ServerError(`"${name}" command takes at most ${command.most} arguments`);
    await command.run(context);
  } catch (error) {
    if (!(error instanceof ServerError) && !(error instanceof ApiError)) throw error;
    process.stderr.write(`${error.message}\nrw-appctl: ${client.socketPath}: server returned an error\n`);
    return 2;
  }
  out.flush();
  return 0;
}

await run('rw-appctl', appctl);
