/**
 * The socket at which Docker finds the driver: `/run/docker/plugins/ringway.sock` makes `-d ringway` work (Docker's plugin
 * discovery: the file's name is the driver's). Switched on and off while the switch runs.
 */
import { chmod, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import { close as closeFd, unixConnect, unlinkIfSocket } from '#contract/os.ts';
import { RequestError } from '#ofproto/api.ts';
import type { ManagerLog } from '../manager.ts';
import type { DockerDriver } from './driver.ts';
import { type Body, PLUGIN_TYPE } from './messages.ts';

export const PLUGIN_SOCKET = '/run/docker/plugins/ringway.sock';

const BODY_LIMIT = 1 << 20;

type Handler = (body: Body) => object | Promise<object>;

const nothing: Handler = () => ({});

/** Every method of the protocol, by its path. */
function methods(driver: DockerDriver): Readonly<Record<string, Handler>> {
  return {
    '/Plugin.Activate': () => ({ Implements: ['NetworkDriver'] }),
    '/NetworkDriver.GetCapabilities': () => ({ Scope: 'local', ConnectivityScope: 'local' }),
    // For swarm's managers, who keep networks of global scope: there is nothing to allocate for a local one.
    '/NetworkDriver.AllocateNetwork': () => ({ Options: {} }),
    '/NetworkDriver.FreeNetwork': nothing,
    '/NetworkDriver.CreateNetwork': (body) => driver.createNetwork(body),
    '/NetworkDriver.DeleteNetwork': (body) => driver.deleteNetwork(body),
    '/NetworkDriver.CreateEndpoint': (body) => driver.createEndpoint(body),
    '/NetworkDriver.EndpointOperInfo': (body) => driver.endpointOperInfo(body),
    '/NetworkDriver.DeleteEndpoint': (body) => driver.deleteEndpoint(body),
    '/NetworkDriver.Join': (body) => driver.join(body),
    '/NetworkDriver.Leave': (body) => driver.leave(body),
    '/NetworkDriver.DiscoverNew': nothing,
    '/NetworkDriver.DiscoverDelete': nothing,
    '/NetworkDriver.ProgramExternalConnectivity': (body) => driver.programExternalConnectivity(body),
    '/NetworkDriver.RevokeExternalConnectivity': nothing,
  };
}

/** The plugin as a fastify application; nothing listens yet. */
export function buildPlugin(driver: DockerDriver, log: ManagerLog): FastifyInstance {
  const app = Fastify({ bodyLimit: BODY_LIMIT, forceCloseConnections: true });
  app.removeAllContentTypeParsers();
  // Docker names no type, or its own.
  app.addContentTypeParser('*', { parseAs: 'string' }, (_request, text, done) => done(null, text));
  app.setErrorHandler((error: Error & { statusCode?: number }, request, reply) => {
    const refused = error instanceof RequestError;
    if (!refused) log.error({ error, url: request.url }, 'Docker request failed');
    const hint = refused && error.hint ? `: ${error.hint}` : '';
    const status = refused ? 400 : (error.statusCode ?? 500);
    send(reply.code(status), { Err: error.message + hint });
  });
  app.setNotFoundHandler((request, reply) => {
    send(reply.code(404), { Err: `there is no ${request.method} ${request.url}` });
  });
  for (const [url, handler] of Object.entries(methods(driver))) {
    app.post(url, async (request, reply) => send(reply, await handler(parse(request.body))));
  }
  return app;
}

/** As bytes: fastify would add a character set to the type of a text. */
const send = (reply: FastifyReply, answer: object): FastifyReply =>
  reply.type(PLUGIN_TYPE).send(Buffer.from(JSON.stringify(answer)));

function parse(text: unknown): Body {
  if (typeof text !== 'string' || text.trim() === '') return {};
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (error) {
    throw new RequestError('invalid_request', `the request is not JSON: ${(error as Error).message}`);
  }
  if (body === null) return {};
  if (typeof body !== 'object' || Array.isArray(body))
    throw new RequestError('invalid_request', 'the request is not a JSON object');
  return body as Body;
}

export class DockerPlugin {
  readonly #driver: DockerDriver;
  readonly #log: ManagerLog;
  #app: FastifyInstance | undefined;
  /** Where the plugin listens; empty while it is off. */
  socketPath = '';

  constructor(driver: DockerDriver, log: ManagerLog) {
    this.#driver = driver;
    this.#log = log;
  }

  /**
   * Listens at `path`, or nowhere for an empty one. @returns whether it listens there only now.
   * @throws Error that names the path; the plugin is off then.
   */
  async listen(path: string): Promise<boolean> {
    if (path === this.socketPath) return false;
    await this.close();
    if (path === '') return false;
    await mkdir(dirname(path), { recursive: true });
    removeStale(path);
    const app = buildPlugin(this.#driver, this.#log);
    // Who may connect can have any device made: nobody but the owner, not even for a moment.
    const before = process.umask(0o177);
    try {
      await app.listen({ path });
      await chmod(path, 0o600);
    } catch (error) {
      await app.close();
      throw new RequestError('cannot_listen', `Docker's plugin socket ${path}: ${(error as Error).message}`, {
        field: 'otherConfig.docker',
        hint: 'run as root, or name another path in other_config:docker-socket',
      });
    } finally {
      process.umask(before);
    }
    this.#app = app;
    this.socketPath = path;
    return true;
  }

  /** Takes away what crashes left; to be called when the stored configuration is in force. */
  async recover(): Promise<void> {
    await this.#driver
      .recover()
      .catch((error: unknown) => this.#log.error({ error }, 'what a crash left of Docker endpoints stays'));
  }

  /** Ends the plugin and removes its socket; networks and endpoints stay. */
  async close(): Promise<void> {
    const app = this.#app;
    this.#app = undefined;
    this.socketPath = '';
    await app?.close();
  }
}

/** @throws RequestError when another switch answers there. */
function removeStale(path: string): void {
  let fd: number;
  try {
    fd = unixConnect(path);
  } catch {
    unlinkIfSocket(path);
    return;
  }
  closeFd(fd);
  throw new RequestError('exists', `another switch answers at Docker's plugin socket ${path}`, {
    field: 'otherConfig.docker',
    hint: 'stop it, or name another path in other_config:docker-socket',
  });
}

/** The socket that the configuration asks for; empty: none. @param always switched on by the command line. */
export const pluginSocket = (otherConfig: Readonly<Record<string, string>>, always: boolean): string =>
  (otherConfig['docker'] ?? String(always)) === 'true' ? (otherConfig['docker-socket'] ?? PLUGIN_SOCKET) : '';
