/**
 * The part of the switch's API that the demo uses, over its unix socket: see /openapi.json for all of it.
 *
 * Replies are the JSON of proto/ringway.proto. Every call ends within `timeoutMs`; while no control plane runs it rejects
 * with the errno of connect().
 */
import { request } from 'node:http';

export interface PortSpec {
  name: string;
  type: string;
  options?: Record<string, string>;
}

export interface PortStatistics {
  counters?: Record<string, number>;
  drops?: Record<string, number>;
}

export interface DatapathPort {
  port: number;
  name: string;
  state: string;
  statistics?: PortStatistics;
}

export interface Pmd {
  worker: number;
  core: number;
  asleep?: boolean;
  counters?: Record<string, number>;
}

export interface DatapathFlow {
  match: string;
  actions: string;
  packets?: number;
}

/** An error reply of the switch. */
export class ApiError extends Error {
  override name = 'ApiError';
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

export class Api {
  readonly #socketPath: string;
  readonly #timeoutMs: number;

  /** @param socketPath `<rundir>/api.sock`. */
  constructor(socketPath: string, timeoutMs = 1000) {
    this.#socketPath = socketPath;
    this.#timeoutMs = timeoutMs;
  }

  async health(): Promise<{ status: string; datapathConnected?: boolean }> {
    return this.#call('GET', '/healthz');
  }

  async addBridge(name: string): Promise<void> {
    await this.#call('POST', '/v1/bridges', { name });
  }

  async addPort(bridge: string, spec: PortSpec): Promise<void> {
    await this.#call('POST', `/v1/bridges/${bridge}/ports`, spec);
  }

  async ports(): Promise<DatapathPort[]> {
    return (await this.#call<{ ports?: DatapathPort[] }>('GET', '/v1/datapath/ports')).ports ?? [];
  }

  async pmds(): Promise<Pmd[]> {
    return (await this.#call<{ pmds?: Pmd[] }>('GET', '/v1/datapath/pmd')).pmds ?? [];
  }

  /** At most `limit` megaflows, and how many there are. */
  async megaflows(limit: number): Promise<{ flows: DatapathFlow[]; total: number }> {
    const reply = await this.#call<{ flows?: DatapathFlow[]; total?: number }>(
      'GET',
      `/v1/datapath/flows?limit=${limit}`,
    );
    const flows = reply.flows ?? [];
    return { flows, total: reply.total ?? flows.length };
  }

  /** Adds or deletes (exactly that match and priority) a flow, in the syntax of ovs-ofctl. */
  async modifyFlow(bridge: string, command: 'add' | 'delete_strict', flow: string): Promise<void> {
    await this.#call('POST', `/v1/bridges/${bridge}/flows`, { mods: [{ command, flow }] });
  }

  #call<T>(method: string, path: string, body?: object): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers =
      text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    const sent = request({ socketPath: this.#socketPath, method, path, headers, timeout: this.#timeoutMs }, (reply) => {
      const parts: Buffer[] = [];
      reply.on('data', (part: Buffer) => parts.push(part));
      reply.on('error', reject);
      reply.on('end', () => {
        const status = reply.statusCode ?? 0;
        try {
          const answer = JSON.parse(Buffer.concat(parts).toString() || '{}');
          if (status < 400) resolve(answer as T);
          else reject(new ApiError(status, `${method} ${path}: ${answer.error?.message ?? answer.message ?? status}`));
        } catch {
          reject(new ApiError(status, `${method} ${path}: the reply is not JSON`));
        }
      });
    });
    sent.on('timeout', () => sent.destroy(new Error(`${method} ${path}: no reply within ${this.#timeoutMs} ms`)));
    sent.on('error', reject);
    sent.end(text);
    return promise;
  }
}
