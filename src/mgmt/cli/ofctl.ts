/** rw-ofctl: flows, groups, tables and ports of a bridge, with the words and outputs of ovs-ofctl(8). */
import { Fatal } from './client.ts';
import type { Command } from './ofctl/context.ts';
import { flowCommands } from './ofctl/flows.ts';
import { groupCommands } from './ofctl/groups.ts';
import { parseVersion } from './ofctl/protocol.ts';
import { switchCommands } from './ofctl/switch.ts';
import { COMMON_OPTIONS, clientFor, Output, parseOptions } from './options.ts';
import { checkCount, run, versionLine } from './run.ts';
import { version } from './version.ts';

const COMMANDS: Readonly<Record<string, Command>> = { ...switchCommands, ...flowCommands, ...groupCommands };

const OPTIONS = {
  ...COMMON_OPTIONS,
  protocols: { argument: 'required', short: 'O' },
  strict: { argument: 'no' },
  bundle: { argument: 'no' },
  'may-create': { argument: 'no' },
  names: { argument: 'no' },
  'no-names': { argument: 'no' },
  stats: { argument: 'no' },
  'no-stats': { argument: 'no' },
  sort: { argument: 'optional' },
  rsort: { argument: 'optional' },
  'flow-format': { argument: 'required', short: 'F' },
  readd: { argument: 'no' },
  more: { argument: 'no', short: 'm' },
} as const;

const HELP = `rw-ofctl: OpenFlow state of Ringway's bridges
usage: rw-ofctl [OPTIONS] COMMAND BRIDGE [ARG...]

  show, dump-desc, dump-tables, dump-ports, dump-ports-desc, mod-port
  dump-flows, dump-aggregate, add-flow, add-flows, mod-flows, del-flows, replace-flows, diff-flows
  add-group, add-groups, mod-group, del-groups, insert-buckets, remove-buckets, dump-groups, dump-group-stats

  -O, --protocols=VERSIONS   OpenFlow10 to OpenFlow15: the version whose output is printed
  --strict                   mod-flows, del-flows: match wildcards and priority exactly
  --names, --no-stats        dump-flows: port names, no statistics
  --sort[=FIELD], --rsort[=FIELD]
  --may-create               mod-group: add the group if it does not exist
  --json                     print the API's messages
  --rundir=DIR               where the switch runs
  -t, --timeout=SECONDS      give up then (30; 0 waits for ever)
`;

async function ofctl(argv: string[]): Promise<number> {
  const { values, rest } = parseOptions(argv, OPTIONS, true);
  const out = new Output();
  if (values.has('help')) {
    out.raw(HELP);
    out.flush();
    return 0;
  }
  if (values.has('version')) {
    out.line(versionLine('rw-ofctl', version()));
    out.line('OpenFlow versions 0x1:0x6');
    out.flush();
    return 0;
  }
  const of = parseVersion(values.get('protocols'));
  const [name, ...args] = rest;
  if (name === undefined) throw new Fatal('missing command name; use --help for help');
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name]! : undefined;
  if (!command) throw new Fatal(`unknown command '${name}'; use --help for help`);
  checkCount(name, args.length, command.least, command.most);
  const client = clientFor(values);
  const code = await command.run({ client, out, version: of, options: values, args, json: values.has('json') });
  out.flush();
  return code ?? 0;
}

await run('rw-ofctl', ofctl);
