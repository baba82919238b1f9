/** rw-docker: ports for poll-mode applications in containers, and the `docker run` line that hands one over. */
import { spawn } from 'node:child_process';
import process from 'node:process';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { defaultRundir } from '#contract/rundir.ts';
import { Client, DEFAULT_TIMEOUT, Fatal } from './client.ts';
import {
  createPort,
  dockerWords,
  listPorts,
  PORT_TYPES,
  type PortType,
  type PortWish,
  removePort,
  shellLine,
} from './docker/port.ts';
import { run } from './run.ts';
import { version } from './version.ts';

const number = (text: string): number => {
  if (!/^\d{1,10}$/.test(text)) throw new InvalidArgumentError('It is not a number.');
  return Number(text);
};

function pair(text: string, before: Record<string, string>): Record<string, string> {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('It takes key=value.');
  return { ...before, [text.slice(0, equals)]: text.slice(equals + 1) };
}

interface PortFlags {
  readonly name: string;
  readonly bridge: string;
  readonly type: string;
  readonly uid?: number;
  readonly gid?: number;
  readonly mode: string;
  readonly vlan: number;
  readonly mtu: number;
  readonly isolate: boolean;
  readonly containerListens: boolean;
  readonly option: Record<string, string>;
  readonly keep?: boolean;
  readonly docker: string;
}

const wishOf = (flags: PortFlags): PortWish => ({
  ...flags,
  type: flags.type as PortType,
  uid: flags.uid,
  gid: flags.gid,
  options: flags.option,
});

/** Runs docker to its end, with our terminal. @returns its exit code. */
function runDocker(program: string, words: readonly string[]): Promise<number> {
  return new Promise((done, failed) => {
    const child = spawn(program, words, { stdio: 'inherit' });
    // Docker gets the terminal's signals itself, and ends by them.
    const wait = (): void => undefined;
    process.on('SIGINT', wait).on('SIGTERM', wait);
    child.once('error', (error) => failed(new Fatal(`${program}: ${error.message}`)));
    child.once('exit', (code, signal) => done(code ?? 128 + (signal === 'SIGINT' ? 2 : 15)));
  });
}

const isDetached = (words: readonly string[]): boolean =>
  words.some((word) => word === '--detach' || word === '--detach=true' || /^-[a-zA-Z]*d[a-zA-Z]*$/.test(word));

function program(client: () => { client: Client; rundir: string }, exit: (code: number) => void): Command {
  const root = new Command('rw-docker')
    .description('Ports for poll-mode applications in containers')
    .version(`rw-docker (Ringway) ${version()}`, '-V, --version')
    .option('--rundir <dir>', 'sockets and pid files of the switch')
    .enablePositionalOptions()
    .exitOverride();

  const withPort = (command: Command): Command =>
    command
      .requiredOption('--name <port>', 'name of the port')
      .option('--bridge <bridge>', 'its bridge', 'br0')
      .option('--type <type>', PORT_TYPES.join(', '), 'vhost-user')
      .option('--uid <uid>', 'owner of folder and socket, and user of the container', number)
      .option('--gid <gid>', 'their group', number)
      .option('--mode <bits>', 'permissions of the socket', '0660')
      .option('--vlan <vid>', 'VLAN of the port', number, 0)
      .option('--mtu <bytes>', 'MTU of the port', number, 0)
      .option('--isolate', 'no frames to and from other isolated ports', false)
      .option('--container-listens', 'the container makes the socket, the switch connects', false)
      .option('--option <key=value>', 'a further option of the port; may be repeated', pair, {})
      .option('--docker <program>', 'the docker command', 'docker')
      .argument('<image...>', 'arguments of docker run: options, image, command')
      .passThroughOptions();

  withPort(root.command('print'))
    .description('make a port and print the docker run line that uses it')
    .action(async (rest: string[], flags: PortFlags) => {
      const at = client();
      await createPort(at.client, at.rundir, wishOf(flags));
      process.stdout.write(`${shellLine([flags.docker, ...dockerWords(at.rundir, wishOf(flags), rest)])}\n`);
    });

  withPort(root.command('run'))
    .description('make a port and run a container with it; the port goes when a container in the foreground ends')
    .option('--keep', 'leave the port when the container has ended', false)
    .action(async (rest: string[], flags: PortFlags) => {
      const at = client();
      await createPort(at.client, at.rundir, wishOf(flags));
      let code = 1;
      let started = false;
      try {
        code = await runDocker(flags.docker, dockerWords(at.rundir, wishOf(flags), rest));
        started = code === 0;
      } finally {
        // A container in the background that was started goes on.
        if (!flags.keep && !(started && isDetached(rest))) await removePort(at.client, at.rundir, flags.name);
      }
      exit(code);
    });

  root
    .command('rm')
    .description('remove ports and their folders')
    .argument('<port...>')
    .action(async (names: string[]) => {
      const at = client();
      for (const name of names) {
        if (!(await removePort(at.client, at.rundir, name)))
          throw new Fatal(`there is no port ${name} made by rw-docker`);
      }
    });

  root
    .command('list')
    .description('ports made here')
    .action(async () => {
      for (const { bridge, name, type, folder, linkUp } of await listPorts(client().client))
        process.stdout.write(`${bridge}/${name}  ${type}  ${linkUp ? 'up' : 'down'}  ${folder}\n`);
    });
  return root;
}

await run('rw-docker', async (argv) => {
  let code = 0;
  const root = program(
    () => {
      const rundir = defaultRundir(root.opts<{ rundir?: string }>().rundir);
      return { client: new Client(rundir, DEFAULT_TIMEOUT), rundir };
    },
    (exit) => {
      code = exit;
    },
  );
  try {
    await root.parseAsync(argv, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode;
  }
  return code;
});
