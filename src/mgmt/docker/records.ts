/**
 * What the driver knows of Docker's networks and endpoints, kept in the switch's configuration: a network among its bridge's
 * external_ids, an endpoint among its port's. So it is stored with the change that it describes, in one transaction, and is
 * there again after any crash.
 */
import type { BridgeRecord, Columns, Model, PortRecord } from '../model.ts';
import type { Pool } from './messages.ts';
import type { NetworkOptions } from './options.ts';

export interface NetworkRecord {
  readonly id: string;
  readonly bridge: string;
  /** Device of the kernel with the gateway's addresses: the bridge's own, or that of an internal port. */
  readonly device: string;
  readonly pools: readonly Pool[];
  /** No way out of the network. */
  readonly internal: boolean;
  readonly options: NetworkOptions;
}

export interface EndpointRecord {
  readonly id: string;
  readonly network: string;
  readonly bridge: string;
  readonly port: PortRecord;
  /** Device that goes into the container. */
  readonly peer: string;
  readonly mac: string;
  readonly address: string;
  readonly address6: string;
}

const NETWORK = 'docker-network:';
/** On a bridge that the driver made, and takes away with its last network. */
export const MADE_BY_US = 'docker-made';
export const NETWORK_OF = 'docker-network';
export const ENDPOINT = 'docker-endpoint';

/** Device names have 15 characters at most: a role of 4, and the beginning of an id. */
const named = (role: string, id: string): string => role + id.slice(0, 11);
export const bridgeName = (network: string): string => `rw-${network.slice(0, 12)}`;
export const gatewayName = (network: string): string => named('rwg-', network);
export const hostEnd = (endpoint: string): string => named('rwh-', endpoint);
export const containerEnd = (endpoint: string): string => named('rwc-', endpoint);

const without = (columns: Columns, key: string): Columns =>
  Object.fromEntries(Object.entries(columns).filter(([name]) => name !== key));

/** Addresses of a network's gateway as an internal port takes them. */
export const gateways = (pools: readonly Pool[]): string =>
  pools
    .map(({ gateway }) => gateway)
    .filter((gateway) => gateway !== '')
    .join(',');

/** The bridge with a network noted on it. A bridge of the driver's own has a device where it is the gateway, else none. */
export function withNetwork(bridge: BridgeRecord, { id, bridge: name, ...rest }: NetworkRecord): BridgeRecord {
  const externalIds = { ...bridge.externalIds, [NETWORK + id]: JSON.stringify(rest) };
  const address = gateways(rest.pools);
  const own: Columns = {
    'local-device': 'true',
    'local-mtu': String(rest.options.mtu),
    ...(address === '' ? {} : { 'local-address': address }),
  };
  const made = bridge.externalIds[MADE_BY_US] === 'true';
  const local = rest.device === name ? own : made ? { 'local-device': 'false', ...bridge.otherConfig } : {};
  return { ...bridge, externalIds, otherConfig: { ...bridge.otherConfig, ...local } };
}

export function withoutNetwork(bridge: BridgeRecord, { id, device }: NetworkRecord): BridgeRecord {
  const externalIds = without(bridge.externalIds, NETWORK + id);
  if (device !== bridge.name) return { ...bridge, externalIds };
  const otherConfig = without(without(bridge.otherConfig, 'local-address'), 'local-mtu');
  return { ...bridge, externalIds, otherConfig: { ...otherConfig, 'local-device': 'false' } };
}

/** Networks on a bridge. What is not as this driver writes it is left out. */
export function networksOf(bridge: BridgeRecord): NetworkRecord[] {
  return Object.entries(bridge.externalIds).flatMap(([key, value]) => {
    if (!key.startsWith(NETWORK)) return [];
    try {
      const rest = JSON.parse(value) as Omit<NetworkRecord, 'id' | 'bridge'>;
      return [{ ...rest, id: key.slice(NETWORK.length), bridge: bridge.name }];
    } catch {
      return [];
    }
  });
}

export const allNetworks = (model: Model): NetworkRecord[] =>
  [...model.bridges.values()].flatMap(({ bridge }) => networksOf(bridge));

export const findNetwork = (model: Model, id: string): NetworkRecord | undefined =>
  allNetworks(model).find((network) => network.id === id);

export const endpointIds = (endpoint: Omit<EndpointRecord, 'port' | 'bridge'>): Columns => ({
  [ENDPOINT]: endpoint.id,
  [NETWORK_OF]: endpoint.network,
  'docker-peer': endpoint.peer,
  'docker-mac': endpoint.mac,
  'docker-address': endpoint.address,
  'docker-address6': endpoint.address6,
});

export function allEndpoints(model: Model): EndpointRecord[] {
  return [...model.bridges].flatMap(([bridge, { ports }]) =>
    [...ports.values()].flatMap((port) => {
      const ids = port.externalIds;
      if (ids[ENDPOINT] === undefined) return [];
      return [
        {
          id: ids[ENDPOINT],
          network: ids[NETWORK_OF] ?? '',
          bridge,
          port,
          peer: ids['docker-peer'] ?? '',
          mac: ids['docker-mac'] ?? '',
          address: ids['docker-address'] ?? '',
          address6: ids['docker-address6'] ?? '',
        },
      ];
    }),
  );
}
