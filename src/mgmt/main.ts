/** rw-vswitchd: the control process. Reaches or starts the data plane, applies the stored configuration, serves the API. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { pino } from 'pino';
import { IpLinks } from '#contract/links.ts';
import { lockFile } from '#contract/os.ts';
import { apiSocketPath, defaultRundir } from '#contract/rundir.ts';
import { DatapathClient } from '#ofproto/datapath-client.ts';
import { reachDatapath } from '#ofproto/datapath-process.ts';
import { Switch } from '#ofproto/switch.ts';
import { defaultConfiguration } from './defaults.ts';
import { DockerDriver } from './docker/driver.ts';
import { DockerPlugin, pluginSocket } from './docker/plugin.ts';
import { Manager } from './manager.ts';
import { ApiServer } from './server.ts';

const HELP = `rw-vswitchd: the Ringway switch (control plane; it starts the data plane)

  --default        with nothing configured yet: bridge br0 with a NORMAL flow and two vhost-user ports
  --rundir DIR     sockets and pid files      (default $RINGWAY_RUNDIR, /run/ringway for root, $XDG_RUNTIME_DIR/ringway)
  --config DIR     stored configuration       (default: the rundir)
  --api HOST:PORT  HTTP API beside the socket (default 127.0.0.1:8480; "" for none)
  --token-file F   bearer token of the HTTP address; needed for any address but loopback
  --docker         be Docker's network driver "ringway" (as other_config:docker=true)
  --no-local-devices  bridges get no device of their own on this host (they get one where the process may make it)
  --verbose        log what happens to the terminal, not only warnings`;

const version = (): string => {
  const file = path.join(import.meta.dirname, '../../package.json');
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
};

interface Settings {
  readonly rundir: string;
  readonly config: string;
  readonly api: string;
  /** The address was asked for by name: no start without it. */
  readonly apiGiven: boolean;
  readonly token: string;
  readonly useDefault: boolean;
  readonly docker: boolean;
  readonly localDevices: boolean;
  readonly verbose: boolean;
}

/** @returns undefined after printing the help. @throws Error that names the bad option. */
function readArguments(): Settings | undefined {
  const { values } = parseArgs({
    options: {
      default: { type: 'boolean', default: false },
      rundir: { type: 'string' },
      config: { type: 'string' },
      api: { type: 'string' },
      'token-file': { type: 'string' },
      docker: { type: 'boolean', default: false },
      'no-local-devices': { type: 'boolean', default: false },
      verbose: { type: 'boolean', short: 'v', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return undefined;
  }
  const rundir = defaultRundir(values.rundir);
  const tokenFile = values['token-file'];
  return {
    rundir,
    config: path.resolve(values.config ?? rundir),
    api: values.api ?? '127.0.0.1:8480',
    apiGiven: values.api !== undefined,
    token: tokenFile ? readFileSync(tokenFile, 'utf8').trim() : '',
    useDefault: values.default,
    docker: values.docker,
    localDevices: !values['no-local-devices'],
    verbose: values.verbose,
  };
}

/** What a person wants to know after the start. */
function announce(settings: Settings, server: ApiServer, manager: Manager, pid: number, docker: string): void {
  const ports = [...manager.model.bridges].flatMap(([bridge, { ports }]) =>
    [...ports.values()].map((port) => {
      const socket = port.options['path'] ?? port.options['vhost-server-path'] ?? path.join(settings.rundir, port.name);
      return `  port    ${bridge}/${port.name}  ${port.type}  ${socket}`;
    }),
  );
  console.log(
    [
      `Ringway is up: control plane ${process.pid}, data plane ${pid}`,
      ...ports,
      ...(docker ? [`  Docker  ${docker}`] : []),
      `  API     ${server.address ? `http://${server.address}  ` : ''}unix:${apiSocketPath(settings.rundir)}`,
      `  try     rw-vsctl --rundir ${settings.rundir} show`,
    ].join('\n'),
  );
}

async function main(): Promise<void> {
  const settings = readArguments();
  if (!settings) return;
  const { rundir } = settings;
  mkdirSync(rundir, { recursive: true });
  mkdirSync(settings.config, { recursive: true });
  const log = pino({ name: 'rw-vswitchd', level: settings.verbose ? 'info' : 'warn' });
  const pidFile = path.join(rundir, 'rw-vswitchd.pid');
  if (lockFile(`${pidFile}.lock`) < 0) throw new Error(`another control plane runs in ${rundir} (see ${pidFile})`);

  let adopted = false;
  const datapath: DatapathClient = new DatapathClient({
    reach: async () => {
      const reached = await reachDatapath(rundir);
      adopted ||= reached.adopted;
      return reached.fd;
    },
    options: () => manager.options,
    log: (level, text) => log[level](text),
  });
  const theSwitch = new Switch(datapath, {
    localDevices: settings.localDevices,
    onError: (error) => log.error({ error }, 'the slow path failed'),
  });
  const manager = new Manager({ switch: theSwitch, datapath, config: settings.config, log });

  const docker = new DockerPlugin(new DockerDriver({ manager, links: new IpLinks(), log }), log);
  const followOptions = async (otherConfig: Readonly<Record<string, string>>): Promise<void> => {
    const fresh = await docker.listen(pluginSocket(otherConfig, settings.docker));
    // What it changes comes after the change that is being made.
    if (fresh) void docker.recover();
  };

  let stopping = false;
  const exit = async (keepDatapath: boolean): Promise<void> => {
    if (stopping) return;
    stopping = true;
    await docker.close();
    await server.close();
    await manager.stop();
    if (keepDatapath) datapath.detach();
    else await datapath.exit();
    rmSync(pidFile, { force: true });
    process.exit(0);
  };
  const serverAt = (address: string): ApiServer =>
    new ApiServer({
      manager,
      rundir,
      address,
      token: settings.token,
      version: version(),
      log,
      exit: (keepDatapath) => void exit(keepDatapath),
    });
  let server = serverAt(settings.api);
  process.on('SIGTERM', () => void exit(false));
  process.on('SIGINT', () => void exit(false));
  process.on('SIGHUP', () => undefined);

  await datapath.start();
  try {
    await manager.start(settings.useDefault ? defaultConfiguration(rundir) : []);
    try {
      await server.listen();
    } catch (error) {
      // Another switch, or anything else, may have the usual port: the socket serves as well.
      if (settings.apiGiven || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
      console.error(
        `rw-vswitchd: ${settings.api} is taken; the API is at its socket only (--api HOST:PORT for another)`,
      );
      await server.close();
      server = serverAt('');
      await server.listen();
    }
    await followOptions(manager.model.switch.otherConfig).catch((error: Error) => {
      if (settings.docker) throw error;
      log.error({ error }, 'the Docker driver stays off');
    });
    manager.onOptions = followOptions;
  } catch (error) {
    // What this start began ends with it; a data plane that was there before forwards on.
    await docker.close();
    await server.close();
    if (adopted) datapath.detach();
    else await datapath.exit();
    throw error;
  }
  writeFileSync(pidFile, `${process.pid}\n`);
  announce(settings, server, manager, datapath.pid, docker.socketPath);
}

main().catch((error) => {
  console.error(`rw-vswitchd: ${(error as Error).message}`);
  process.exit(1);
});
