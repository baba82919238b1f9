/** Docker's plugin over the real tables and a data plane without packets, called by HTTP as dockerd does. */
import { join } from 'node:path';
import { DockerDriver } from '#mgmt/docker/driver.ts';
import { DockerPlugin } from '#mgmt/docker/plugin.ts';
import { type Answer, call, type Harness, quiet, startHarness } from '../harness.ts';
import { FakeLinks } from './fake-links.ts';

export interface Rig extends Harness {
  readonly links: FakeLinks;
  readonly driver: DockerDriver;
  readonly plugin: DockerPlugin;
  readonly socket: string;
  /** POSTs a request: the answer's JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it
  ask(method: string, body?: object): Promise<any>;
  raw(method: string, path: string, body?: object | string): Promise<Answer>;
}

/** 64 hex digits, as Docker's ids. */
export const id = (n: number): string => `${n.toString(16).padStart(4, '0')}${'ab34'.repeat(15)}`;

export async function startRig(): Promise<Rig> {
  const harness = await startHarness({ ofproto: true, localDevices: true });
  const links = new FakeLinks();
  const driver = new DockerDriver({ manager: harness.manager, links, log: quiet });
  const plugin = new DockerPlugin(driver, quiet);
  const socket = join(harness.rundir, 'plugins', 'ringway.sock');
  await plugin.listen(socket);
  const raw = (method: string, path: string, body?: object | string): Promise<Answer> =>
    call({ socketPath: socket }, method, path, body);
  return {
    ...harness,
    links,
    driver,
    plugin,
    socket,
    raw,
    ask: async (method, body = {}) => {
      const answer = await raw('POST', method.includes('.') ? `/${method}` : `/NetworkDriver.${method}`, body);
      return answer.json;
    },
    stop: async () => {
      await plugin.close();
      await harness.stop();
    },
  };
}

export interface NetworkWish {
  options?: Record<string, string>;
  internal?: boolean;
  v4?: object;
  v6?: object;
}

/** CreateNetwork as dockerd 20.10 sends it. */
export const createNetwork = (n: number, { options = {}, internal = false, v4, v6 }: NetworkWish = {}): object => ({
  NetworkID: id(n),
  Options: {
    'com.docker.network.enable_ipv6': v6 !== undefined,
    ...(internal ? { 'com.docker.network.internal': true } : {}),
    'com.docker.network.generic': options,
  },
  IPv4Data: [v4 ?? { AddressSpace: 'LocalDefault', Pool: '172.30.0.0/24', Gateway: '172.30.0.1/24' }],
  IPv6Data: v6 ? [v6] : [],
});

export const createEndpoint = (network: number, endpoint: number, more: object = {}): object => ({
  NetworkID: id(network),
  EndpointID: id(endpoint),
  Interface: { Address: '172.30.0.2/24', AddressIPv6: '', MacAddress: '', ...more },
  Options: { 'com.docker.network.portmap': [], 'com.docker.network.endpoint.exposedports': [] },
});
