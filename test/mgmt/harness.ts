/** A manager and an API server over the fake switch, in a folder of their own. */
import { mkdtemp, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Manager } from '#mgmt/manager.ts';
import { ApiServer } from '#mgmt/server.ts';
import { Switch } from '#ofproto/switch.ts';
import { FakeDatapath, FakeSwitch } from './fake-switch.ts';

export const quiet = { info() {}, warn() {}, error() {} };

export const temporaryFolder = (): Promise<string> => mkdtemp(join(tmpdir(), 'rw-mgmt-'));

export interface Harness {
  readonly rundir: string;
  readonly fake: FakeSwitch;
  readonly datapath: FakeDatapath;
  readonly manager: Manager;
  readonly server: ApiServer;
  /** exit requests, as they came. */
  readonly exits: boolean[];
  stop(): Promise<void>;
}

export async function startHarness(
  options: { address?: string; token?: string; rundir?: string; ofproto?: boolean; localDevices?: boolean } = {},
): Promise<Harness> {
  const rundir = options.rundir ?? (await temporaryFolder());
  const datapath = new FakeDatapath();
  const fake = new FakeSwitch(datapath);
  // The real OpenFlow tables where outputs are compared, over a data plane without packets.
  const target = options.ofproto
    ? new Switch(datapath, { timer: false, localDevices: options.localDevices ?? false })
    : fake;
  const manager = new Manager({ switch: target, datapath, config: join(rundir, 'config'), log: quiet });
  await manager.start();
  const exits: boolean[] = [];
  const server = new ApiServer({
    manager,
    rundir,
    address: options.address ?? '',
    token: options.token ?? '',
    version: '0.0.0-test',
    log: { error: (details, message) => console.error(message, details) },
    exit: (keep) => exits.push(keep),
  });
  await server.listen();
  const stop = async (): Promise<void> => {
    await server.close();
    await manager.stop();
    await rm(rundir, { recursive: true, force: true });
  };
  return { rundir, fake, datapath, manager, server, exits, stop };
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly bytes: Buffer;
  /** Body as JSON; undefined when it is none. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it
  readonly json: any;
}

/** One request over the unix socket (or `base`, a TCP address). */
export function call(
  where: { socketPath: string } | { host: string; port: number },
  method: string,
  path: string,
  body?: object | string | Buffer,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const raw = typeof body === 'string' || Buffer.isBuffer(body);
  const sent = body === undefined ? undefined : raw ? (body as string | Buffer) : JSON.stringify(body);
  const type: Record<string, string> = body === undefined || raw ? {} : { 'content-type': 'application/json' };
  return new Promise((done, failed) => {
    const outgoing = request({ ...where, method, path, headers: { ...type, ...headers } }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => {
        const bytes = Buffer.concat(parts);
        const json = String(response.headers['content-type']).includes('json')
          ? JSON.parse(bytes.toString())
          : undefined;
        done({ status: response.statusCode!, headers: response.headers, bytes, json });
      });
    });
    outgoing.on('error', failed);
    outgoing.end(sent);
  });
}
