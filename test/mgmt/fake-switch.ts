/** A switch without packets: tables of flows and groups, ports that exist by name. What management asks for is done and noted. */
import { DROP_REASONS, PORT_COUNTERS, WORKER_COUNTERS } from '#contract/catalogue.ts';
import { formatActions } from '#ofproto/actions-format.ts';
import {
  type BridgeApi,
  type BridgeSpec,
  type FlowMod,
  type FlowView,
  type GroupMod,
  type GroupView,
  type PortSpec,
  type PortView,
  RequestError,
  type SwitchApi,
  type TunnelApi,
} from '#ofproto/api.ts';
import type { Datapath, DatapathPort, PortStatistics } from '#ofproto/datapath.ts';
import { parseFlowFilter, parseFlowMod } from '#ofproto/flow-parse.ts';
import { formatMatch } from '#ofproto/match-format.ts';
import type { PortNames } from '#ofproto/ofp-port.ts';

const LOCAL = 65534;

interface Entry extends FlowView {
  readonly key: string;
}

class FakeBridge implements BridgeApi {
  spec: BridgeSpec;
  readonly portViews = new Map<string, PortView>();
  flows = new Map<string, Entry>();
  groupViews = new Map<number, GroupView>();
  flushed = 0;

  constructor(spec: BridgeSpec) {
    this.spec = spec;
    if (spec.failMode === 'standalone') this.#apply({ command: 'add', flow: 'priority=0 actions=NORMAL' });
  }

  get datapathId(): string {
    return this.spec.datapathId || '00004ec8e1ac1c46';
  }

  get #names(): PortNames {
    const all = this.ports();
    return {
      numberOf: (name) => all.find((port) => port.name === name)?.ofport,
      nameOf: (number) => all.find((port) => port.ofport === number)?.name,
    };
  }

  ports(): readonly PortView[] {
    return [...this.portViews.values()];
  }

  port(name: string): PortView | undefined {
    return this.portViews.get(name);
  }

  #apply({ command, flow }: FlowMod): void {
    const mod = parseFlowMod(command, flow, this.#names);
    const match = formatMatch(mod.match);
    const key = `${mod.table} ${mod.priority} ${match}`;
    if (command === 'add') {
      if (mod.flags.includes('check_overlap') && !this.flows.has(key) && this.flows.size > 1) {
        throw new RequestError('OFPFMFC_OVERLAP', 'flow overlaps another', { status: 409 });
      }
      this.flows.set(key, {
        key,
        table: mod.table,
        priority: mod.priority,
        cookie: `0x${(mod.newCookie ?? 0n).toString(16)}`,
        duration: 0,
        idleTimeout: mod.idleTimeout,
        hardTimeout: mod.hardTimeout,
        importance: mod.importance,
        flags: mod.flags,
        packets: 0,
        bytes: 0,
        idleAge: 0,
        hardAge: 0,
        match,
        actions: formatActions(mod.actions),
      });
    } else if (command === 'delete') {
      for (const [at, entry] of this.flows) {
        if ((mod.table === 255 || mod.table === entry.table) && (match === '' || match === entry.match))
          this.flows.delete(at);
      }
    } else if (command === 'delete_strict') {
      for (const [at, entry] of this.flows) {
        if (
          (mod.table === 255 || mod.table === entry.table) &&
          mod.priority === entry.priority &&
          match === entry.match
        ) {
          this.flows.delete(at);
        }
      }
    } else {
      for (const [at, entry] of this.flows) {
        if (match === '' || match === entry.match)
          this.flows.set(at, { ...entry, actions: formatActions(mod.actions) });
      }
    }
  }

  async modifyFlows(mods: readonly FlowMod[]): Promise<void> {
    const before = new Map(this.flows);
    for (const [at, mod] of mods.entries()) {
      try {
        this.#apply(mod);
      } catch (error) {
        this.flows = before;
        if (!(error instanceof RequestError)) throw error;
        const { code, field, hint, status } = error;
        throw new RequestError(code, error.message, { field: `flows[${at}]${field ? `.${field}` : ''}`, hint, status });
      }
    }
  }

  dumpFlows(filter: string, options: { names?: boolean } = {}): readonly FlowView[] {
    const { table } = parseFlowFilter(filter, this.#names);
    return [...this.flows.values()]
      .filter((flow) => table === 255 || flow.table === table)
      .map(({ key: _, ...flow }) =>
        options.names
          ? {
              ...flow,
              match: flow.match.replace(/in_port=(\d+)/, (_all, n) => `in_port=${this.#names.nameOf(Number(n))}`),
            }
          : flow,
      );
  }

  walkFlows(filter: string, options: { names?: boolean } = {}) {
    return this.dumpFlows(filter, options);
  }

  aggregate(filter: string) {
    return { packets: 0, bytes: 0, flows: this.dumpFlows(filter).length };
  }

  tables() {
    return Array.from({ length: 254 }, (_, table) => ({
      table,
      active: [...this.flows.values()].filter((flow) => flow.table === table).length,
      lookup: 0,
      matched: 0,
    }));
  }

  async modifyGroups(mods: readonly GroupMod[]): Promise<void> {
    for (const [at, { command, group }] of mods.entries()) {
      const groupId = Number(/group_id=(\d+)/.exec(group)?.[1] ?? 0);
      if (command === 'add' && this.groupViews.has(groupId)) {
        throw new RequestError('OFPGMFC_GROUP_EXISTS', 'group exists', { field: `groups[${at}]`, status: 409 });
      }
      if (command === 'delete') {
        if (group === '') this.groupViews.clear();
        else this.groupViews.delete(groupId);
        continue;
      }
      const type = /type=(\w+)/.exec(group)?.[1] ?? 'all';
      const buckets = [{ packets: 0, bytes: 0 }];
      this.groupViews.set(groupId, {
        groupId,
        type,
        text: group,
        duration: 0,
        refCount: 0,
        packets: 0,
        bytes: 0,
        buckets,
      });
    }
  }

  groups(): readonly GroupView[] {
    return [...this.groupViews.values()];
  }

  fdb() {
    return [{ port: 1, portName: 'p1', vlan: 0, mac: '50:54:00:00:00:05', age: 3 }];
  }

  async flushFdb(): Promise<void> {
    this.flushed++;
  }

  trace(flow: string) {
    return { text: `Flow: ${flow}\n`, megaflow: 'recirc_id=0', datapathActions: 'drop' };
  }
}

const zeros = (list: readonly { readonly name: string }[]): Record<string, number> =>
  Object.fromEntries(list.map(({ name }) => [name, 0]));

export class FakeDatapath implements Datapath {
  connected = true;
  readonly portList: DatapathPort[] = [];
  options: Readonly<Record<string, string>> = {};
  cleared = 0;

  listen(): void {}
  putFlow(): number {
    return 0;
  }
  setFlow(): void {}
  deleteFlow(): void {}
  flushFlows(): void {}
  async barrier(): Promise<void> {}
  flowStats(): void {}
  execute(): void {}

  async addPort(config: {
    name: string;
    type: string;
    options: Readonly<Record<string, string>>;
    mtu: number;
  }): Promise<number> {
    if (config.type === 'bogus') throw new Error('no such port type: bogus');
    const portNo = Math.max(0, ...this.portList.map((port) => port.portNo)) + 1;
    this.portList.push({ ...config, portNo, state: 'up', lastError: '', linkUp: true, facts: {} });
    return portNo;
  }

  async setPort(): Promise<void> {}

  async deletePort(portNo: number): Promise<void> {
    this.portList.splice(
      this.portList.findIndex((port) => port.portNo === portNo),
      1,
    );
  }

  ports(): readonly DatapathPort[] {
    return this.portList;
  }

  portStatistics(): PortStatistics {
    return { counters: zeros(PORT_COUNTERS) as PortStatistics['counters'], drops: { [DROP_REASONS[1].name]: 2 } };
  }

  async pmds() {
    const rxq = { portNo: 1, queue: 0, enabled: true, usage: Number.NaN, why: 'round robin' };
    const counters = { ...zeros(WORKER_COUNTERS), rx_packets: 7, emc_hits: 7 } as Record<
      (typeof WORKER_COUNTERS)[number]['name'],
      number
    >;
    return [{ worker: 0, core: 1, numa: 0, isolated: false, asleep: false, rxqs: [rxq], counters }];
  }

  clearPmdCounters(): void {
    this.cleared++;
  }

  async setOptions(options: Readonly<Record<string, string>>): Promise<void> {
    this.options = options;
  }
}

export class FakeSwitch implements SwitchApi {
  readonly bridges = new Map<string, FakeBridge>();
  readonly datapath: FakeDatapath;
  readonly tunnels: TunnelApi = {
    routes: () => ['User: 10.0.0.0/24 dev br0 SRC 10.0.0.1'],
    addRoute: async (...words) => void this.calls.push(`addRoute ${words.join(' ')}`),
    deleteRoute: async (prefix) => void this.calls.push(`deleteRoute ${prefix}`),
    lookupRoute: () => 'src 10.0.0.1\ndev br0',
    neighbours: () => [{ ip: '10.0.0.2', mac: '02:00:00:00:00:02', bridge: 'br0' }],
    setNeighbour: async (...words) => void this.calls.push(`setNeighbour ${words.join(' ')}`),
    flushNeighbours: async () => void this.calls.push('flushNeighbours'),
    listeners: () => [{ name: 'vxlan_sys_4789', port: 3, users: 2, matches: ['dst=10.0.0.1,proto=17,dst_port=4789'] }],
  };
  /** Calls that changed something, in their order. */
  readonly calls: string[] = [];

  constructor(datapath = new FakeDatapath()) {
    this.datapath = datapath;
  }

  async addBridge(spec: BridgeSpec): Promise<FakeBridge> {
    this.calls.push(`addBridge ${spec.name}`);
    const bridge = new FakeBridge(spec);
    this.bridges.set(spec.name, bridge);
    return bridge;
  }

  async setBridge(spec: BridgeSpec): Promise<void> {
    this.calls.push(`setBridge ${spec.name}`);
    this.bridges.get(spec.name)!.spec = spec;
  }

  async deleteBridge(name: string): Promise<void> {
    this.calls.push(`deleteBridge ${name}`);
    this.bridges.delete(name);
  }

  async addPort(bridge: string, spec: PortSpec): Promise<PortView> {
    this.calls.push(`addPort ${spec.name}`);
    const at = this.bridges.get(bridge)!;
    const portNo = await this.datapath.addPort({ ...spec, mtu: spec.mtuRequest || 1500 });
    const used = new Set(at.ports().map((port) => port.ofport));
    let ofport = spec.ofportRequest && !used.has(spec.ofportRequest) ? spec.ofportRequest : 0;
    for (let next = 1; ofport === 0; next++) if (!used.has(next)) ofport = next;
    const view: PortView = {
      ...spec,
      ofport,
      mac: 'aa:55:aa:55:00:0f',
      datapath: this.datapath.ports().find((port) => port.portNo === portNo),
    };
    at.portViews.set(spec.name, view);
    return view;
  }

  async setPort(bridge: string, spec: PortSpec): Promise<PortView> {
    this.calls.push(`setPort ${spec.name}`);
    if (spec.type === 'bogus') throw new Error('no such port type: bogus');
    const at = this.bridges.get(bridge)!;
    const view = { ...at.port(spec.name)!, ...spec };
    at.portViews.set(spec.name, view);
    return view;
  }

  async deletePort(bridge: string, name: string): Promise<void> {
    this.calls.push(`deletePort ${name}`);
    const at = this.bridges.get(bridge)!;
    await this.datapath.deletePort(at.port(name)!.datapath!.portNo);
    at.portViews.delete(name);
  }

  portStatistics(bridge: string, name: string): PortStatistics {
    const port = this.bridges.get(bridge)?.port(name);
    if (!port || port.ofport === LOCAL) throw new Error('no such port');
    return this.datapath.portStatistics();
  }

  datapathFlows() {
    const match = 'recirc_id(0),in_port(1),eth_type(0x0800),ipv4(frag=no)';
    return [{ id: 1, match, actions: '2', packets: 3, bytes: 180, used: 0.5, tcpFlags: 0 }];
  }

  datapathLookups() {
    return { hit: 5, missed: 2, lost: 0, flows: 1 };
  }

  async flushDatapathFlows(): Promise<void> {
    this.calls.push('flushDatapathFlows');
  }
}
