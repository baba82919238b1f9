/**
 * What ofproto offers to management: bridges, ports, OpenFlow tables, groups, the MAC table and traces. Texts are in the
 * syntax of ovs-ofctl(8), ovs-fields(7) and ovs-actions(7); numbers are plain. Implemented by switch.ts and bridge.ts.
 */
import type { FlowLineParts } from '#contract/flow-line.ts';
import type { DatapathPort, PortStatistics } from './datapath.ts';

/**
 * A request that cannot be carried out. `code` is stable and machine-readable: an OpenFlow error name (OFPFMFC_OVERLAP,
 * OFPBAC_BAD_OUT_GROUP) where OpenFlow has one, else a short word (unknown_keyword, no_such_bridge, exists, …).
 */
export class RequestError extends Error {
  readonly code: string;
  /** Path of the offending field (`flows[3].match.nw_src`), or empty. */
  readonly field: string;
  /** How to put it right, or empty. */
  readonly hint: string;
  /** HTTP status that fits: 400, 404, 409, 503. */
  readonly status: number;

  constructor(code: string, message: string, more: { field?: string; hint?: string; status?: number } = {}) {
    super(message);
    this.name = 'RequestError';
    this.code = code;
    this.field = more.field ?? '';
    this.hint = more.hint ?? '';
    this.status = more.status ?? 400;
  }
}

export type FlowCommand = 'add' | 'modify' | 'modify_strict' | 'delete' | 'delete_strict';

/** One flow_mod; `flow` is ovs-ofctl text, with actions for add and modify. */
export interface FlowMod {
  readonly command: FlowCommand;
  readonly flow: string;
  /** An addition clears the counters of the flow that it replaces, as if it said reset_counts: OpenFlow 1.0 and 1.1 do. */
  readonly resetCounts?: boolean;
}

/**
 * How actions are printed: in the terms of OpenFlow 1.0 with Nicira extensions, in those of OpenFlow 1.2 and later, or
 * `exact`, which reads back as the same actions.
 */
export type ActionForm = 'nicira' | 'openflow' | 'exact';

export interface DumpOptions {
  /** Print port names instead of numbers; not with `exact`. */
  readonly names?: boolean;
  /** Only the flow with the filter's very match and priority. */
  readonly strict?: boolean;
  /** `nicira` when not said. */
  readonly actions?: ActionForm;
}

/** A flow as it is told: its parts, and its statistics. */
export type FlowView = FlowLineParts;

export interface FlowAggregate {
  readonly packets: number;
  readonly bytes: number;
  readonly flows: number;
}

export interface TableView {
  readonly table: number;
  readonly active: number;
  readonly lookup: number;
  readonly matched: number;
}

export type GroupCommand = 'add' | 'modify' | 'add_or_modify' | 'delete' | 'insert_buckets' | 'remove_buckets';

/** One group_mod; `group` is ovs-ofctl text (`group_id=1,type=select,bucket=…`); empty deletes all. */
export interface GroupMod {
  readonly command: GroupCommand;
  readonly group: string;
}

export interface GroupView {
  readonly groupId: number;
  readonly type: string;
  /** Canonical text as in dump-groups, without the leading blank. */
  readonly text: string;
  readonly duration: number;
  readonly refCount: number;
  readonly packets: number;
  readonly bytes: number;
  readonly buckets: readonly { readonly packets: number; readonly bytes: number }[];
}

export interface FdbEntry {
  /** OpenFlow port number and its name. */
  readonly port: number;
  readonly portName: string;
  readonly vlan: number;
  readonly mac: string;
  /** Seconds. */
  readonly age: number;
}

export type VlanMode = 'access' | 'trunk' | 'native-tagged' | 'native-untagged' | 'dot1q-tunnel';

/** A port as configured (stored as Avro by management). */
export interface PortSpec {
  readonly name: string;
  readonly type: string;
  readonly options: Readonly<Record<string, string>>;
  /** 0 = any. */
  readonly ofportRequest: number;
  /** Access VLAN; -1 = none. */
  readonly tag: number;
  /** Admitted VLANs of a trunk; empty = all. */
  readonly trunks: readonly number[];
  /** Undefined: `access` with a tag, else `trunk`, as in ovs-vswitchd.conf.db(5). */
  readonly vlanMode: VlanMode | undefined;
  readonly mtuRequest: number;
  /** OpenFlow port configuration words: no-flood, no-forward, no-receive, no-packet-in, down. */
  readonly config: readonly string[];
  readonly otherConfig: Readonly<Record<string, string>>;
}

export interface PortView extends PortSpec {
  readonly ofport: number;
  /** Locally administered address shown as the port's `addr`. */
  readonly mac: string;
  readonly datapath: DatapathPort | undefined;
}

export interface BridgeSpec {
  readonly name: string;
  /** 16 hex digits; empty: made from the bridge's MAC. */
  readonly datapathId: string;
  /** secure: starts empty; standalone: starts with one NORMAL flow. */
  readonly failMode: 'secure' | 'standalone';
  readonly otherConfig: Readonly<Record<string, string>>;
  /** `dummy`: no device of its own. */
  readonly datapathType?: string;
}

export interface BridgeApi {
  readonly spec: BridgeSpec;
  readonly datapathId: string;
  /** Why the bridge has no device of its own; empty when it has one, or was not asked for one. */
  readonly localError?: string;
  ports(): readonly PortView[];
  port(name: string): PortView | undefined;
  /** All or none; strict input checks. Resolves when the next packet obeys (barrier). @throws RequestError. */
  modifyFlows(mods: readonly FlowMod[]): Promise<void>;
  /**
   * Flows of dump-flows: `filter` as ovs-ofctl takes it (table, cookie/mask, match, out_port, out_group), loose matching.
   */
  dumpFlows(filter: string, options?: DumpOptions): readonly FlowView[];
  /** The same, each flow described when it is asked for. Errors of the filter come at once. */
  walkFlows(filter: string, options?: DumpOptions): Iterable<FlowView>;
  aggregate(filter: string): FlowAggregate;
  tables(): readonly TableView[];
  modifyGroups(mods: readonly GroupMod[]): Promise<void>;
  groups(): readonly GroupView[];
  fdb(): readonly FdbEntry[];
  flushFdb(): Promise<void>;
  /**
   * ofproto/trace: `flow` is a flow in ovs-ofctl syntax (in_port needed) or an ODP key; the text is what ovs-appctl prints.
   */
  trace(flow: string): TraceResult;
}

export interface TraceResult {
  readonly text: string;
  /** `recirc_id=0,eth,ip,in_port=1,…` */
  readonly megaflow: string;
  /** `2`, `drop`, `push_vlan(vid=5,pcp=0),2`, … */
  readonly datapathActions: string;
}

export interface DatapathFlowView {
  readonly id: number;
  /** `recirc_id(0),in_port(1),eth(src=…),eth_type(0x0800),ipv4(…)` as dpctl/dump-flows prints it. */
  readonly match: string;
  readonly actions: string;
  readonly packets: number;
  readonly bytes: number;
  /** Seconds since the last packet; -1 = never. */
  readonly used: number;
  readonly tcpFlags: number;
}

export interface SwitchApi {
  readonly bridges: ReadonlyMap<string, BridgeApi>;
  addBridge(spec: BridgeSpec): Promise<BridgeApi>;
  setBridge(spec: BridgeSpec): Promise<void>;
  deleteBridge(name: string): Promise<void>;
  addPort(bridge: string, spec: PortSpec): Promise<PortView>;
  setPort(bridge: string, spec: PortSpec): Promise<PortView>;
  deletePort(bridge: string, name: string): Promise<void>;
  portStatistics(bridge: string, name: string): PortStatistics;
  datapathFlows(): readonly DatapathFlowView[];
  /** hit, missed and lost lookups over all workers (dpctl/show). */
  datapathLookups(): { hit: number; missed: number; lost: number; flows: number };
  /** ovs/route, tnl/neigh and tnl/ports of ovs-appctl(8). */
  readonly tunnels: TunnelApi;
  /** Deletes all megaflows; they come back by upcalls (dpctl/del-flows, revalidator/purge). */
  flushDatapathFlows(): Promise<void>;
}

export interface NeighbourView {
  readonly ip: string;
  readonly mac: string;
  readonly bridge: string;
}

export interface ListenerView {
  readonly name: string;
  readonly port: number;
  /** Tunnel ports that share it. */
  readonly users: number;
  /** What is taken for it: `dst=10.0.0.1,proto=17,dst_port=4789`, one for each address. */
  readonly matches: readonly string[];
}

/** The networks under the tunnels. @throws RequestError for texts that do not parse. */
export interface TunnelApi {
  /** Lines of ovs/route/show. */
  routes(): readonly string[];
  /** @param prefix `10.0.0.0/24`; @param gateway, source empty: none. */
  addRoute(prefix: string, device: string, gateway: string, source: string): Promise<void>;
  deleteRoute(prefix: string): Promise<void>;
  /** `src …, gateway …, dev …` as ovs/route/lookup. */
  lookupRoute(address: string): string;
  neighbours(): readonly NeighbourView[];
  setNeighbour(bridge: string, ip: string, mac: string): Promise<void>;
  flushNeighbours(): Promise<void>;
  listeners(): readonly ListenerView[];
}
