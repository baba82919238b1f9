/**
 * Attachments of containers to a bridge: a veth pair whose inner end gets the runtime's interface name, or a vhost-user port
 * with a folder of its own for the socket. What belongs to an attachment is found again by its port's external_ids, and by
 * names made of (network, container, interface), so that nothing else need be stored.
 */
import { createHash } from 'node:crypto';
import { chownSync, existsSync, mkdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { IpLinks } from '#contract/links.ts';
import { defaultRundir } from '#contract/rundir.ts';
import { ApiError, Client, DEFAULT_TIMEOUT, Fatal, json, segment } from '../client.ts';
import { type Attachment, CniError, type CniInterface, type CniResult, CODE, type Config } from './protocol.ts';

/** A port as the API tells it, as far as it is read here. */
interface PortMessage {
  readonly spec: {
    readonly name: string;
    readonly options: Readonly<Record<string, string>>;
    readonly externalIds: Readonly<Record<string, string>>;
  };
  readonly bridge: string;
  readonly error: string;
  readonly mac: string;
}

export interface Made {
  /** The last is the container's. */
  readonly interfaces: CniInterface[];
}

export class Attachments {
  readonly #config: Config;
  readonly #client: Client;
  readonly #rundir: string;
  readonly #links = new IpLinks();

  constructor(config: Config) {
    this.#config = config;
    this.#rundir = defaultRundir(config.rundir);
    this.#client = new Client(this.#rundir, DEFAULT_TIMEOUT);
  }

  /** Name of the port and of the pair's host end; 15 characters. */
  portName({ containerID, ifname }: Attachment): string {
    const key = `${this.#config.name}\0${containerID}\0${ifname}`;
    return `rwn-${createHash('sha256').update(key).digest('hex').slice(0, 11)}`;
  }

  /** Folder that holds the attachment's socket, and nothing else. */
  #folder(attachment: Attachment): string {
    return join(this.#config.socketDir || join(this.#rundir, 'cni'), this.portName(attachment));
  }

  async #ask<T>(method: string, path: string, body?: object): Promise<T> {
    try {
      return await this.#client.call<T>(method, path, body && json(body));
    } catch (error) {
      if (error instanceof Fatal) throw new CniError(CODE.later, error.message);
      if (!(error instanceof ApiError)) throw error;
      const code = error.code === 'no_such_bridge' ? CODE.config : CODE.failed;
      throw new CniError(code, error.message, error.hint);
    }
  }

  /** All ports of this network. */
  async #ports(): Promise<PortMessage[]> {
    const { bridges } = await this.#ask<{ bridges: { ports: PortMessage[] }[] }>('GET', '/v1/config');
    return bridges
      .flatMap(({ ports }) => ports)
      .filter(({ spec }) => spec.externalIds?.['cni-network'] === this.#config.name);
  }

  /** @throws CniError for an attachment that there is already, which is left as it is. */
  async refuseAgain(attachment: Attachment): Promise<void> {
    const name = this.portName(attachment);
    if (!(await this.#ports()).some(({ spec }) => spec.name === name)) return;
    const { containerID, ifname } = attachment;
    throw new CniError(
      CODE.failed,
      `${ifname} of container ${containerID} is attached to ${this.#config.name} already`,
    );
  }

  /** @throws CniError; nothing is left then. */
  async add(attachment: Attachment, netns: string, result: CniResult): Promise<Made> {
    const name = this.portName(attachment);
    try {
      return this.#config.portType === 'veth'
        ? await this.#addVeth(name, attachment, netns, result)
        : await this.#addSocket(name, attachment, netns);
    } catch (error) {
      await this.#clear(attachment).catch(() => undefined);
      throw error;
    }
  }

  async #addVeth(name: string, attachment: Attachment, netns: string, result: CniResult): Promise<Made> {
    const { mtu, mac, isGateway } = this.#config;
    const { ifname } = attachment;
    if (!existsSync(netns)) throw new CniError(CODE.container, `CNI_NETNS ${netns} does not exist`);
    const inside = new IpLinks(netns);
    if (await inside.show(ifname)) throw new CniError(CODE.failed, `CNI_IFNAME ${ifname} exists in ${netns}`);
    const peer = name.replace('rwn-', 'rwp-');
    await this.#links.addVeth({ host: name, peer, mac, mtu, alias: `ringway cni ${this.#config.name}` });
    await this.#links.move(peer, netns, ifname);
    const addresses = (result.ips ?? []).map(({ address }) => address);
    await inside.configure(ifname, { addresses, mtu, routes: await addable(inside, routes(result)) });
    await this.#addPort(name, 'system', {}, attachment, netns);
    if (isGateway) await this.#addGateway(result);
    const host = await this.#links.show(name);
    const state = await inside.show(ifname);
    return {
      interfaces: [
        { name, mac: host?.mac ?? '', mtu },
        { name: ifname, mac: state?.mac ?? '', mtu, sandbox: netns },
      ],
    };
  }

  /** An internal port with the gateway's addresses, shared by all attachments of the network. */
  async #addGateway({ ips }: CniResult): Promise<void> {
    const wanted = (ips ?? []).flatMap(({ address, gateway }) =>
      gateway === undefined ? [] : [`${gateway}/${address.split('/')[1]}`],
    );
    const { bridge, vlan, mtu } = this.#config;
    const name = this.#gatewayName();
    const there = (await this.#ports()).find(({ spec }) => spec.name === name)?.spec.options['address'] ?? '';
    const addresses = [...new Set([...there.split(',').filter(Boolean), ...wanted])];
    if (addresses.join() === there) return;
    await this.#ask('PUT', `/v1/bridges/${segment(bridge)}/ports/${name}`, {
      name,
      type: 'internal',
      options: { address: addresses.join(',') },
      ...(vlan > 0 ? { tag: vlan } : {}),
      mtuRequest: mtu,
      externalIds: { 'cni-network': this.#config.name },
    });
  }

  #gatewayName(): string {
    return `rwg-${createHash('sha256').update(this.#config.name).digest('hex').slice(0, 11)}`;
  }

  async #addSocket(name: string, attachment: Attachment, netns: string): Promise<Made> {
    const { mtu, mac, mode, socketMode, socketOwner } = this.#config;
    const folder = this.#folder(attachment);
    const path = join(folder, `${attachment.ifname}.sock`);
    mkdirSync(folder, { recursive: true, mode: 0o750 });
    const [uid, gid] = socketOwner === '' ? ['', ''] : socketOwner.split(':');
    const now = statSync(folder);
    if (uid || gid) chownSync(folder, uid ? Number(uid) : now.uid, gid ? Number(gid) : now.gid);
    const options = {
      path,
      mode,
      ...(mode === 'server' && socketMode ? { 'socket-mode': socketMode } : {}),
      ...(mode === 'server' && socketOwner ? { 'socket-owner': socketOwner } : {}),
    };
    await this.#addPort(name, 'vhost-user', options, attachment, netns);
    const own = mac === '' ? {} : { mac };
    return { interfaces: [{ name: attachment.ifname, ...own, mtu, sandbox: netns, socketPath: path }] };
  }

  async #addPort(
    name: string,
    type: string,
    options: Readonly<Record<string, string>>,
    { containerID, ifname }: Attachment,
    netns: string,
  ): Promise<void> {
    const { bridge, vlan, mtu, isolate } = this.#config;
    await this.#ask('POST', `/v1/bridges/${segment(bridge)}/ports`, {
      name,
      type,
      options,
      ...(vlan > 0 ? { tag: vlan } : {}),
      mtuRequest: mtu,
      otherConfig: isolate ? { protected: 'true' } : {},
      externalIds: {
        'cni-network': this.#config.name,
        'cni-container': containerID,
        'cni-ifname': ifname,
        'cni-netns': netns,
      },
    });
  }

  /** Takes away what there is of an attachment; nothing being there is well. @throws CniError 11 while nobody answers. */
  async delete(attachment: Attachment): Promise<void> {
    await this.#clear(attachment);
  }

  async #clear(attachment: Attachment): Promise<void> {
    const name = this.portName(attachment);
    if (this.#config.portType === 'veth') await this.#links.remove(name);
    const ports = await this.#ports();
    const found = ports.find(({ spec }) => spec.name === name);
    if (found) await this.#deletePort(found);
    const gateway = ports.find(({ spec }) => spec.name === this.#gatewayName());
    // The last one takes the gateway along.
    if (gateway && ports.every((port) => port === found || port === gateway)) await this.#deletePort(gateway);
    rmSync(this.#folder(attachment), { recursive: true, force: true });
  }

  async #deletePort({ bridge, spec }: PortMessage): Promise<void> {
    try {
      await this.#client.call('DELETE', `/v1/bridges/${segment(bridge)}/ports/${segment(spec.name)}`);
    } catch (error) {
      // Deleted by another just now.
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
    }
  }

  /** @throws CniError 101 that says what is not as it was made. */
  async check(attachment: Attachment, netns: string, before: CniResult): Promise<void> {
    const name = this.portName(attachment);
    const port = (await this.#ports()).find(({ spec }) => spec.name === name);
    const broken = (what: string): CniError => new CniError(CODE.broken, `${attachment.ifname}: ${what}`);
    if (!port) throw broken(`port ${name} is not on the switch`);
    const own = (before.interfaces ?? []).findIndex((each) => each.name === attachment.ifname && each.sandbox);
    if (own < 0) throw broken('prevResult does not have this interface');
    if (this.#config.portType === 'vhost-user') {
      const path = before.interfaces![own]!.socketPath ?? '';
      if (port.error && this.#config.mode === 'server') throw broken(`port ${name}: ${port.error}`);
      if (this.#config.mode === 'server' && !existsSync(path)) throw broken(`its socket ${path} is gone`);
      return;
    }
    if (port.error) throw broken(`port ${name}: ${port.error}`);
    if (!existsSync(netns)) throw new CniError(CODE.container, `CNI_NETNS ${netns} does not exist`);
    const inside = new IpLinks(netns);
    const state = await inside.show(attachment.ifname);
    if (!state) throw broken(`is not in ${netns}`);
    if (!state.up) throw broken('is down');
    const mac = before.interfaces![own]!.mac;
    if (mac && mac !== state.mac) throw broken(`has the address ${state.mac}, not ${mac}`);
    for (const { address, interface: at } of before.ips ?? []) {
      if ((at === undefined || at === own) && !state.addresses.some((each) => same(each, address)))
        throw broken(`does not have ${address}`);
    }
    for (const { dst } of before.routes ?? []) {
      const family = dst.includes(':') ? '-6' : '-4';
      const found = await inside.ip([family, 'route', 'show', 'exact', dst, 'table', 'all']);
      if (found.trim() === '') throw broken(`the route to ${dst} is gone`);
    }
  }

  /** Deletes all attachments of the network but these. */
  async collect(valid: readonly Attachment[]): Promise<void> {
    const kept = new Set(valid.map((attachment) => this.portName(attachment)));
    for (const { spec } of await this.#ports()) {
      const { 'cni-container': containerID = '', 'cni-ifname': ifname = '' } = spec.externalIds;
      if (containerID !== '' && !kept.has(spec.name)) await this.#clear({ containerID, ifname });
    }
    // Pairs whose port was never made.
    for (const name of await this.#links.list(`ringway cni ${this.#config.name}`))
      if (!kept.has(name)) await this.#links.remove(name);
  }

  /** @throws CniError 50 or 51 when an ADD could not be served. */
  async status(): Promise<void> {
    let health: { status: string };
    try {
      health = await this.#client.get('/healthz');
    } catch (error) {
      throw new CniError(CODE.unavailable, (error as Error).message);
    }
    if (health.status !== 'ok') throw new CniError(CODE.limited, 'the data plane is not running');
    try {
      await this.#client.get(`/v1/bridges/${segment(this.#config.bridge)}`);
    } catch (error) {
      const fix = `rw-vsctl add-br ${this.#config.bridge}`;
      throw new CniError(CODE.unavailable, (error as Error).message, fix);
    }
  }
}

/** An address in the one form of RFC 5952. */
const canonical = (cidr: string): string => {
  const [address, prefix] = cidr.split('/');
  return address!.includes(':') ? `${new URL(`http://[${address}]`).hostname.slice(1, -1)}/${prefix}` : cidr;
};
const same = (a: string, b: string): boolean => canonical(a) === canonical(b);

/** Routes but those to everywhere that another network has already (specification section 5, routes). */
async function addable<T extends { readonly to: string; readonly more: readonly string[] }>(
  links: IpLinks,
  wanted: readonly T[],
): Promise<T[]> {
  const kept: T[] = [];
  for (const route of wanted) {
    const family = route.to.includes(':') ? '-6' : '-4';
    const everywhere = /^(0\.0\.0\.0|::)\/0$/.test(route.to) && route.more.length === 0;
    if (!everywhere || (await links.ip([family, 'route', 'show', 'default'])).trim() === '') kept.push(route);
  }
  return kept;
}

/** A result's routes as ip(8) takes them; one without a next hop goes by the gateway of its family. */
function routes({ ips, routes }: CniResult): { to: string; via: string; more: string[] }[] {
  return (routes ?? []).map(({ dst, gw, mtu, advmss, priority, table, scope }) => {
    const v6 = dst.includes(':');
    const gateway = (ips ?? []).find((each) => each.gateway && each.gateway.includes(':') === v6)?.gateway ?? '';
    const word = (name: string, value: number | undefined): string[] =>
      value === undefined ? [] : [name, String(value)];
    const more = [
      ...word('mtu', mtu),
      ...word('advmss', advmss),
      ...word('metric', priority),
      ...word('table', table),
      ...word('scope', scope),
    ];
    // A route of link scope (253) or host scope (254) has no next hop.
    return { to: dst, via: gw ?? (scope !== undefined && scope >= 253 ? '' : gateway), more };
  });
}
