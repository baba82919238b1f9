/**
 * The sockets of the API: `<rundir>/api.sock` (the file's rights say who may use it) and a TCP address.
 *
 * On TCP a bearer token is asked for when one is set, and must be set for any address but loopback. A browser on this
 * machine can reach loopback too; requests that a foreign page makes it send are refused by their Host and Origin.
 */
import { timingSafeEqual } from 'node:crypto';
import { chmod, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, isIP } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { apiSocketPath } from '#contract/rundir.ts';
import { type ApiLog, buildApi } from './api.ts';
import { Coverage } from './coverage.ts';
import type { Manager } from './manager.ts';
import { Metrics } from './metrics.ts';
import { Pager } from './paging.ts';

/** Longest path of a unix socket (struct sockaddr_un less the final 0). */
const MAX_SOCKET_PATH = 107;
/** ms to receive a whole request, and to wait on an idle connection. */
const REQUEST_TIMEOUT = 60_000;
const KEEP_ALIVE = 30_000;

export interface ApiServerOptions {
  readonly manager: Manager;
  readonly rundir: string;
  /** host:port, [v6]:port, or empty for none. Port 0 takes a free one. */
  readonly address: string;
  /** Bearer token of the TCP address; empty = none. */
  readonly token: string;
  /** Rights of the unix socket; 0o600 when not said. */
  readonly socketMode?: number;
  readonly version: string;
  readonly log: ApiLog;
  /** Asked for by POST /v1/exit; the reply has been sent by then. */
  readonly exit: (keepDatapath: boolean) => void;
}

interface TcpAddress {
  readonly host: string;
  readonly port: number;
}

function parseAddress(text: string): TcpAddress {
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([^:]+)):(\d{1,5})$/.exec(text);
  const port = Number(found?.[3]);
  if (!found || port > 65_535)
    throw new Error(`"${text}" is not an address: give host:port, for example 127.0.0.1:8480`);
  return { host: found[1] ?? found[2]!, port };
}

const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));

export class ApiServer {
  readonly #options: ApiServerOptions;
  readonly #address: TcpAddress | undefined;
  readonly #coverage: Coverage;
  #app: FastifyInstance | undefined;
  #servers: Server[] = [];
  /** Where the TCP side listens, `host:port`; empty when it does not. */
  address = '';

  /** @throws Error when the address is malformed, or not loopback while there is no token. */
  constructor(options: ApiServerOptions) {
    this.#options = options;
    this.#address = options.address === '' ? undefined : parseAddress(options.address);
    if (this.#address && !isLoopback(this.#address.host) && options.token === '') {
      throw new Error(`the API address ${options.address} is not loopback: set a bearer token, or use 127.0.0.1`);
    }
    this.#coverage = new Coverage(options.manager.datapath);
  }

  get socketPath(): string {
    return apiSocketPath(this.#options.rundir);
  }

  /** @throws Error when another switch answers at the socket, or an address is taken. */
  async listen(): Promise<void> {
    const { manager, version, log, exit } = this.#options;
    const later = (keepDatapath: boolean): void => {
      setTimeout(() => exit(keepDatapath), 20);
    };
    const context = { manager, pager: new Pager(), coverage: this.#coverage, version, exit: later };
    this.#app = await buildApi(context, new Metrics(manager), log);
    this.#coverage.start();
    await this.#listenUnix(this.#app);
    if (this.#address) await this.#listenTcp(this.#app, this.#address);
  }

  /** Ends all connections and removes the socket. */
  async close(): Promise<void> {
    this.#coverage.stop();
    for (const server of this.#servers) {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    }
    this.#servers = [];
    await this.#app?.close();
  }

  async #listenUnix(app: FastifyInstance): Promise<void> {
    const path = this.socketPath;
    if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
      throw new Error(`${path} is too long for a unix socket (${MAX_SOCKET_PATH} bytes): choose a shorter --rundir`);
    }
    if (await answers(path)) throw new Error(`another rw-vswitchd answers at ${path}`);
    await rm(path, { force: true });
    // Nobody but the owner may connect before the rights are set.
    const before = process.umask(0o177);
    try {
      await this.#start((request, response) => app.routing(request, response), { path });
    } finally {
      process.umask(before);
    }
    await chmod(path, this.#options.socketMode ?? 0o600);
  }

  async #listenTcp(app: FastifyInstance, { host, port }: TcpAddress): Promise<void> {
    const server = await this.#start(
      (request, response) => {
        const refusal = this.#refusal(request);
        if (refusal) refuse(response, ...refusal);
        else app.routing(request, response);
      },
      { host, port },
    );
    const bound = server.address() as AddressInfo;
    this.address = `${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`;
  }

  #start(
    handler: (request: IncomingMessage, response: ServerResponse) => void,
    where: { path: string } | TcpAddress,
  ): Promise<Server> {
    const server = createServer({ requestTimeout: REQUEST_TIMEOUT, keepAliveTimeout: KEEP_ALIVE }, handler);
    return new Promise((done, failed) => {
      server.once('error', failed);
      server.listen(where, () => {
        server.off('error', failed);
        this.#servers.push(server);
        done(server);
      });
    });
  }

  /** Why a TCP request is not let through: status, code, message, hint. */
  #refusal(request: IncomingMessage): [number, string, string, string] | undefined {
    const { token } = this.#options;
    if (token !== '') {
      const given = /^Bearer +(.+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '';
      if (!sameText(given, token))
        return [401, 'unauthorized', 'bearer token is missing or wrong', 'send Authorization: Bearer …'];
      return undefined;
    }
    const host = request.headers.host ?? '';
    const name = host.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
    const origin = request.headers.origin;
    const foreign = origin !== undefined && origin !== `http://${host}`;
    if (!isLoopback(name) || foreign)
      return [403, 'forbidden', 'this request comes from a foreign page', 'use 127.0.0.1 or localhost'];
    return undefined;
  }
}

function sameText(a: string, b: string): boolean {
  const left = Buffer.from(a);
  const right = Buffer.from(b);
  return left.length === right.length && timingSafeEqual(left, right);
}

function refuse(response: ServerResponse, status: number, code: string, message: string, hint: string): void {
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', connection: 'close' });
  response.end(JSON.stringify({ error: { code, field: '', message, hint } }));
}

function answers(path: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect(path);
    const end = (result: boolean): void => {
      socket.destroy();
      done(result);
    };
    socket.once('connect', () => end(true));
    socket.once('error', () => end(false));
  });
}
