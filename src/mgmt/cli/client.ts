/** The command line's side of the API: JSON over the unix socket, and what a tool says when that does not work. */
import process from 'node:process';
import { apiSocketPath } from '#contract/rundir.ts';

// `import 'node:http'` reads every export, which loads fetch and WebSocket too: 80 ms of CPU against 10 (Node 26.10).
const { request } = process.getBuiltinModule('node:http');

/** Seconds that a command waits for its answers, unless --timeout says otherwise. */
export const DEFAULT_TIMEOUT = 30;

/** Ends the tool with a message and an exit code. */
export class Fatal extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode = 1) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** Its message is printed as it is, without the tool's name before it. */
export class Refusal extends Fatal {}

/** What the API answered with an error. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  readonly field: string;
  readonly hint: string;

  constructor(status: number, error: { code: string; field: string; message: string; hint: string }) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.field = error.field;
    this.hint = error.hint;
  }
}

export interface Body {
  readonly type: string;
  readonly bytes: string | Buffer;
}

export const json = (value: unknown): Body => ({ type: 'application/json', bytes: JSON.stringify(value) });
export const text = (bytes: string | Buffer): Body => ({ type: 'text/plain', bytes });

export class Client {
  readonly socketPath: string;
  readonly #deadline: number;

  /** @param timeout seconds; 0 waits for ever. */
  constructor(rundir: string, timeout: number) {
    this.socketPath = apiSocketPath(rundir);
    this.#deadline = timeout > 0 ? Date.now() + timeout * 1000 : Number.POSITIVE_INFINITY;
  }

  /** @returns the reply's message. @throws ApiError; Fatal when nobody answers. */
  // biome-ignore lint/suspicious/noExplicitAny: a message of proto/ringway.proto, which this side has no types of
  async call<T = any>(method: string, path: string, body?: Body): Promise<T> {
    const { status, bytes } = await this.#send(method, path, body);
    const reply = parse(bytes);
    if (isDone(status)) return reply as T;
    throw refusal(status, reply);
  }

  /** A GET whose text/plain reply goes to `take` as it comes. @throws ApiError; Fatal when nobody answers. */
  async stream(path: string, take: (chunk: Buffer) => void): Promise<void> {
    const { status, bytes } = await this.#send('GET', path, undefined, take);
    if (!isDone(status)) throw refusal(status, parse(bytes));
  }

  // biome-ignore lint/suspicious/noExplicitAny: as above
  get = <T = any>(path: string): Promise<T> => this.call<T>('GET', path);

  /** All entries of a list, page by page. @param name field that holds them. */
  // biome-ignore lint/suspicious/noExplicitAny: as above
  async list<T = any>(path: string, name: string): Promise<T[]> {
    const entries: T[] = [];
    for (let page = ''; ; ) {
      const query = `${path.includes('?') ? '&' : '?'}limit=10000${page ? `&page=${page}` : ''}`;
      const reply = await this.get(path + query);
      for (const entry of reply[name]) entries.push(entry);
      page = reply.nextPage;
      if (!page) return entries;
    }
  }

  /** @param take gets the body of a good reply, which is asked for as text/plain. */
  #send(
    method: string,
    path: string,
    body: Body | undefined,
    take?: (chunk: Buffer) => void,
  ): Promise<{ status: number; bytes: Buffer }> {
    const headers = {
      ...(body ? { 'content-type': body.type, 'content-length': Buffer.byteLength(body.bytes) } : {}),
      ...(take ? { accept: 'text/plain' } : {}),
    };
    return new Promise((done, failed) => {
      const outgoing = request({ socketPath: this.socketPath, method, path, headers, agent: false }, (response) => {
        const parts: Buffer[] = [];
        const streamed = take !== undefined && isDone(response.statusCode ?? 0);
        response.on('data', streamed ? take : (part: Buffer) => parts.push(part));
        response.on('error', () => failed(this.#lost()));
        response.on('end', () => {
          clearTimeout(timer);
          done({ status: response.statusCode ?? 0, bytes: Buffer.concat(parts) });
        });
      });
      const left = this.#deadline - Date.now();
      const timer = Number.isFinite(left)
        ? setTimeout(() => {
            failed(new Fatal(`no answer at ${this.socketPath} within the timeout`));
            outgoing.destroy();
          }, left)
        : undefined;
      outgoing.on('error', (error: NodeJS.ErrnoException) => {
        clearTimeout(timer);
        failed(this.#unreachable(error));
      });
      outgoing.end(body?.bytes);
    });
  }

  #unreachable(error: NodeJS.ErrnoException): Fatal {
    if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED' || error.code === 'ENOTDIR') {
      return new Fatal(`control plane is not running (no answer at ${this.socketPath})`);
    }
    if (error.code === 'EACCES') return new Fatal(`${this.socketPath}: permission denied`);
    return error.code === 'ECONNRESET' ? this.#lost() : new Fatal(`${this.socketPath}: ${error.message}`);
  }

  #lost(): Fatal {
    return new Fatal(`control plane ended the connection (${this.socketPath})`);
  }
}

const isDone = (status: number): boolean => status >= 200 && status < 300;

function refusal(status: number, reply: unknown): ApiError {
  const unexpected = { code: 'bad_reply', field: '', message: `unexpected reply ${status}`, hint: '' };
  return new ApiError(status, (reply as { error?: ApiError } | undefined)?.error ?? unexpected);
}

function parse(bytes: Buffer): unknown {
  if (bytes.length === 0) return {};
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}

export const segment = (name: string): string => encodeURIComponent(name);
