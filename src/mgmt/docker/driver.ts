/**
 * Docker's network driver: a network is a bridge with the gateway's addresses on a device of the kernel, a container's
 * interface one end of a veth pair whose other end is a `system` port.
 *
 * Docker repeats requests after it, or the switch, was away; each may come again, and deleting what is not there is done.
 * One request at a time: they are rare, and most take a handful of system calls.
 */
import type { Links } from '#contract/links.ts';
import { type FlowMod, RequestError } from '#ofproto/api.ts';
import type { Manager, ManagerLog } from '../manager.ts';
import type { BridgeRecord, ConfigChange, PortRecord } from '../model.ts';
import { type Body, identity, type JoinReply, LABEL, object, optionalText, type Pool, pools } from './messages.ts';
import { networkOptions } from './options.ts';
import {
  allEndpoints,
  allNetworks,
  bridgeName,
  containerEnd,
  type EndpointRecord,
  endpointIds,
  findNetwork,
  gatewayName,
  gateways,
  hostEnd,
  MADE_BY_US,
  type NetworkRecord,
  networksOf,
  withNetwork,
  withoutNetwork,
} from './records.ts';

export interface DriverParts {
  readonly manager: Manager;
  readonly links: Links;
  readonly log: ManagerLog;
}

const NO_PORT: Omit<PortRecord, 'name' | 'type'> = {
  options: {},
  ofport: 0,
  ofportRequest: 0,
  tag: -1,
  trunks: [],
  vlanMode: undefined,
  mtuRequest: 0,
  config: [],
  otherConfig: {},
  externalIds: {},
};

const address = (cidr: string): string => cidr.split('/')[0]!;

export class DockerDriver {
  readonly #manager: Manager;
  readonly #links: Links;
  readonly #log: ManagerLog;
  #turn: Promise<unknown> = Promise.resolve();

  constructor({ manager, links, log }: DriverParts) {
    this.#manager = manager;
    this.#links = links;
    this.#log = log;
  }

  #serial<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#turn.then(work);
    this.#turn = run.catch(() => undefined);
    return run;
  }

  get #model() {
    return this.#manager.model;
  }

  /** Marks the veth pairs of this switch among those of others. */
  get #alias(): string {
    return `ringway ${this.#model.switch.uuid}`;
  }

  // Networks

  createNetwork(body: Body): Promise<object> {
    return this.#serial(async () => {
      const id = identity(body, 'NetworkID');
      const labels = object(body, 'Options');
      const options = networkOptions(object(labels, LABEL.generic));
      const bridge = options.bridge || bridgeName(id);
      const internal = labels[LABEL.internal] === true;
      const network: NetworkRecord = {
        id,
        bridge,
        device: this.#gatewayDevice(bridge, id, options.vlan),
        pools: [...pools(body, 'IPv4Data'), ...pools(body, 'IPv6Data')].filter(({ pool }) => pool !== ''),
        internal,
        options,
      };
      if (!findNetwork(this.#model, id)) await this.#make(network);
      return {};
    });
  }

  /** The bridge's own device carries no VLAN, and is its owner's to configure where the driver did not make the bridge. */
  #gatewayDevice(bridge: string, id: string, vlan: number): string {
    const ours = this.#made(bridge) || !this.#model.bridges.has(bridge);
    return ours && vlan === 0 ? bridge : gatewayName(id);
  }

  #made(bridge: string): boolean {
    return this.#model.bridges.get(bridge)?.bridge.externalIds[MADE_BY_US] === 'true';
  }

  async #make(network: NetworkRecord): Promise<void> {
    const { bridge, id, device, options } = network;
    for (const other of allNetworks(this.#model)) {
      if (other.bridge !== bridge || other.options.vlan !== options.vlan) continue;
      const where = options.vlan === 0 ? `bridge ${bridge}` : `VLAN ${options.vlan} of bridge ${bridge}`;
      throw new RequestError('exists', `${where} is Docker's network ${other.id.slice(0, 12)} already`, {
        field: 'Options.ringway.bridge',
        hint: 'give each network of a bridge a VLAN of its own: -o ringway.vlan=N',
      });
    }
    const fresh: BridgeRecord = {
      name: bridge,
      datapathType: '',
      failMode: '',
      otherConfig: {},
      externalIds: { [MADE_BY_US]: 'true' },
    };
    const record = this.#model.bridges.get(bridge)?.bridge ?? fresh;
    const changes: ConfigChange[] = [{ kind: 'SetBridge', record: withNetwork(record, network) }];
    if (device !== bridge) changes.push({ kind: 'SetPort', bridge, record: gatewayPort(network) });
    await this.#manager.transact(changes);
    try {
      this.#checkDevice(network);
      if (options.isolate) await this.#manager.modifyFlows(bridge, this.#fence(network));
    } catch (error) {
      await this.#unmake(network);
      throw error;
    }
    this.#log.info({ network: id, bridge }, 'Docker network made');
  }

  /** @throws RequestError when the bridge could not be given a device of its own. */
  #checkDevice({ bridge, device }: NetworkRecord): void {
    const { localError } = this.#manager.bridge(bridge);
    if (device !== bridge || this.#manager.bridge(bridge).port(bridge)) return;
    throw new RequestError('no_device', `the gateway has no device: ${localError || 'bridges get none'}`, {
      hint: 'run the switch as root, without --no-local-devices',
    });
  }

  /**
   * Isolated containers could still reach each other through the host, which routes between them: only what the host itself
   * sends may come from the gateway.
   */
  #fence({ id, bridge, device, pools }: NetworkRecord): FlowMod[] {
    const port = device === bridge ? 'LOCAL' : this.#manager.bridge(bridge).port(device)?.ofport;
    const head = `cookie=0x${cookie(id)},in_port=${port}`;
    return pools
      .filter(({ gateway }) => gateway !== '')
      .flatMap(({ pool, gateway }) => {
        const [proto, src] = pool.includes(':') ? ['ipv6', 'ipv6_src'] : ['ip', 'nw_src'];
        return [
          `${head},priority=20001,${proto},${src}=${address(gateway)} actions=NORMAL`,
          `${head},priority=20000,${proto},${src}=${pool} actions=drop`,
        ];
      })
      .map((flow) => ({ command: 'add', flow }));
  }

  deleteNetwork(body: Body): Promise<object> {
    return this.#serial(async () => {
      const network = findNetwork(this.#model, identity(body, 'NetworkID'));
      if (network) await this.#unmake(network);
      return {};
    });
  }

  async #unmake(network: NetworkRecord): Promise<void> {
    const { id, bridge, device } = network;
    const at = this.#model.bridges.get(bridge)!;
    const endpoints = allEndpoints(this.#model).filter((endpoint) => endpoint.network === id);
    const gone = endpoints.map(({ port }) => port.name);
    if (device !== bridge) gone.push(device);
    const others = networksOf(at.bridge).length > 1 || [...at.ports.keys()].some((port) => !gone.includes(port));
    if (this.#made(bridge) && !others) {
      await this.#manager.transact([{ kind: 'DeleteBridge', name: bridge }]);
    } else {
      await this.#manager.modifyFlows(bridge, [{ command: 'delete', flow: `cookie=0x${cookie(id)}/-1` }]);
      await this.#manager.transact([
        { kind: 'SetBridge', record: withoutNetwork(at.bridge, network) },
        ...gone
          .filter((name) => at.ports.has(name))
          .map((name): ConfigChange => ({ kind: 'DeletePort', bridge, name })),
      ]);
    }
    for (const { port } of endpoints) await this.#links.remove(port.name);
    this.#log.info({ network: id, bridge }, 'Docker network deleted');
  }

  // Endpoints

  #network(body: Body): NetworkRecord {
    const id = identity(body, 'NetworkID');
    const network = findNetwork(this.#model, id);
    if (network) return network;
    throw new RequestError('no_such_network', `the switch has no network ${id.slice(0, 12)}`, {
      field: 'NetworkID',
      hint: 'its configuration was lost: docker network rm it, and create it again',
    });
  }

  #endpoint(body: Body): EndpointRecord | undefined {
    const id = identity(body, 'EndpointID');
    return allEndpoints(this.#model).find((endpoint) => endpoint.id === id);
  }

  #knownEndpoint(body: Body): EndpointRecord {
    const found = this.#endpoint(body);
    if (found) return found;
    const id = identity(body, 'EndpointID').slice(0, 12);
    throw new RequestError('no_such_endpoint', `the switch has no endpoint ${id}`, {
      field: 'EndpointID',
      hint: 'start the container again',
    });
  }

  createEndpoint(body: Body): Promise<object> {
    return this.#serial(async () => {
      const network = this.#network(body);
      const wanted = object(body, 'Interface');
      const given = optionalText(wanted, 'MacAddress');
      const before = this.#endpoint(body);
      const endpoint = before ?? {
        id: identity(body, 'EndpointID'),
        network: network.id,
        peer: containerEnd(identity(body, 'EndpointID')),
        mac: given || macFor(optionalText(wanted, 'Address'), identity(body, 'EndpointID')),
        address: optionalText(wanted, 'Address'),
        address6: optionalText(wanted, 'AddressIPv6'),
      };
      await this.#pair(network, endpoint);
      if (!before) {
        try {
          await this.#addPort(network, endpoint);
        } catch (error) {
          await this.#links.remove(hostEnd(endpoint.id));
          throw error;
        }
      }
      // Docker refuses a reply with an address that it gave itself.
      return { Interface: given ? {} : { MacAddress: endpoint.mac } };
    });
  }

  #pair(network: NetworkRecord, { id, peer, mac }: Pick<EndpointRecord, 'id' | 'peer' | 'mac'>): Promise<void> {
    return this.#links.addVeth({ host: hostEnd(id), peer, mac, mtu: network.options.mtu, alias: this.#alias });
  }

  async #addPort(network: NetworkRecord, endpoint: Omit<EndpointRecord, 'port' | 'bridge'>): Promise<void> {
    const { vlan, mtu, isolate } = network.options;
    const record: PortRecord = {
      ...NO_PORT,
      name: hostEnd(endpoint.id),
      type: 'system',
      tag: vlan > 0 ? vlan : -1,
      mtuRequest: mtu,
      otherConfig: isolate ? { protected: 'true' } : {},
      externalIds: endpointIds(endpoint),
    };
    await this.#manager.transact([{ kind: 'SetPort', bridge: network.bridge, record }]);
  }

  deleteEndpoint(body: Body): Promise<object> {
    return this.#serial(async () => {
      const found = this.#endpoint(body);
      if (found) await this.#manager.transact([{ kind: 'DeletePort', bridge: found.bridge, name: found.port.name }]);
      await this.#links.remove(hostEnd(identity(body, 'EndpointID')));
      return {};
    });
  }

  /** What the switch knows of an endpoint now. */
  async endpointOperInfo(body: Body): Promise<object> {
    const { bridge, port, mac, address, address6 } = this.#knownEndpoint(body);
    const view = this.#manager.bridge(bridge).port(port.name);
    const error = this.#manager.portError(bridge, port.name) || (view?.datapath?.lastError ?? '');
    const counters = view ? this.#manager.switch.portStatistics(bridge, port.name).counters : undefined;
    const pick = (name: 'rx_packets' | 'rx_bytes' | 'tx_packets' | 'tx_bytes'): string => String(counters?.[name] ?? 0);
    return {
      Value: {
        mac,
        address,
        address6,
        bridge,
        port: port.name,
        ofport: String(view?.ofport ?? -1),
        link: view?.datapath?.linkUp ? 'up' : 'down',
        error,
        rx_packets: pick('rx_packets'),
        rx_bytes: pick('rx_bytes'),
        tx_packets: pick('tx_packets'),
        tx_bytes: pick('tx_bytes'),
      },
    };
  }

  join(body: Body): Promise<JoinReply> {
    return this.#serial(async () => {
      const network = this.#network(body);
      const endpoint = this.#knownEndpoint(body);
      // Gone with the namespace of a container that was killed while Docker was away.
      await this.#pair(network, endpoint);
      const routed = (family: (pool: Pool) => boolean, key: string): string => {
        const pool = network.pools.find(family);
        return !pool || network.internal ? '' : (pool.aux[key] ?? address(pool.gateway));
      };
      return {
        InterfaceName: { SrcName: endpoint.peer, DstPrefix: network.options.prefix },
        Gateway: routed(({ pool }) => !pool.includes(':'), 'DefaultGatewayIPv4'),
        GatewayIPv6: routed(({ pool }) => pool.includes(':'), 'DefaultGatewayIPv6'),
        StaticRoutes: [],
        DisableGatewayService: true,
      };
    });
  }

  /** The pair stays until the endpoint goes: Docker brings its end back to this namespace. */
  async leave(body: Body): Promise<object> {
    identity(body, 'EndpointID');
    return {};
  }

  /** @throws RequestError for published ports: containers are reached at their addresses. */
  async programExternalConnectivity(body: Body): Promise<object> {
    const ports = object(body, 'Options')[LABEL.portMap];
    if (!Array.isArray(ports) || ports.length === 0) return {};
    throw new RequestError('not_supported', 'Ringway does not publish ports (-p)', {
      hint: 'reach the container at its address, or connect it to a bridge network too',
    });
  }

  // After a crash

  /**
   * Takes away what crashes left: ports of containers that are gone, and pairs without a port.
   */
  recover(): Promise<void> {
    return this.#serial(async () => {
      const endpoints = allEndpoints(this.#model);
      const networks = new Set(allNetworks(this.#model).map(({ id }) => id));
      for (const { bridge, port, network } of endpoints) {
        if (networks.has(network) && (await this.#links.exists(port.name))) continue;
        this.#log.info({ port: port.name }, 'container of a Docker endpoint is gone');
        await this.#manager.transact([{ kind: 'DeletePort', bridge, name: port.name }]);
      }
      if (networks.size > 0 || endpoints.length > 0) {
        const known = new Set(allEndpoints(this.#model).map(({ port }) => port.name));
        for (const name of await this.#links.list(this.#alias)) {
          if (name.startsWith('rwh-') && !known.has(name)) await this.#links.remove(name);
        }
      }
    });
  }
}

const gatewayPort = ({ id, device, pools, options }: NetworkRecord): PortRecord => ({
  ...NO_PORT,
  name: device,
  type: 'internal',
  // The data plane gives the device its addresses, also when it makes it anew after a crash.
  options: { address: gateways(pools), mac: macFor(gateways(pools), id) },
  tag: options.vlan > 0 ? options.vlan : -1,
  mtuRequest: options.mtu,
});

const cookie = (network: string): string => network.slice(0, 16).replace(/[^0-9a-f]/gi, '0');

/** Locally administered, the same for the same IPv4 address: neighbours' caches stay right when a container is replaced. */
function macFor(cidr: string, endpoint: string): string {
  const bytes = /^\d+\.\d+\.\d+\.\d+/.test(cidr)
    ? address(cidr).split('.').map(Number)
    : [...Buffer.from(endpoint.slice(0, 8), 'hex'), 1, 2, 3, 4].slice(0, 4);
  return ['02', '42', ...bytes.map((byte) => (byte & 0xff).toString(16).padStart(2, '0'))].join(':');
}
