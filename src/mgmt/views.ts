/** Records and run-time state as messages of the API, and back. */
import type { BridgeApi, PortView, VlanMode } from '#ofproto/api.ts';
import type { PortStatistics } from '#ofproto/datapath.ts';
import { OFPP_LOCAL } from './apply.ts';
import type { Manager } from './manager.ts';
import type { Message } from './messages.ts';
import type { BridgeModel, BridgeRecord, Columns, Model, PortRecord } from './model.ts';

export interface BridgeSpecMessage {
  name: string;
  datapathType?: string;
  failMode?: string;
  otherConfig?: Columns;
  externalIds?: Columns;
}

export interface PortSpecMessage {
  name: string;
  type?: string;
  options?: Columns;
  ofportRequest?: number;
  tag?: number;
  trunks?: number[];
  vlanMode?: string;
  mtuRequest?: number;
  config?: string[];
  otherConfig?: Columns;
  externalIds?: Columns;
}

export const bridgeRecord = (spec: BridgeSpecMessage): BridgeRecord => ({
  name: spec.name,
  datapathType: spec.datapathType ?? '',
  failMode: (spec.failMode ?? '') as BridgeRecord['failMode'],
  otherConfig: spec.otherConfig ?? {},
  externalIds: spec.externalIds ?? {},
});

/** @param before the port's record so far: a number in use is kept unless another is asked for. */
export const portRecord = (spec: PortSpecMessage, before: PortRecord | undefined): PortRecord => ({
  name: spec.name,
  type: spec.type ?? '',
  options: spec.options ?? {},
  ofport: before?.ofport ?? 0,
  ofportRequest: spec.ofportRequest ?? 0,
  tag: spec.tag ?? -1,
  trunks: [...new Set(spec.trunks ?? [])].sort((a, b) => a - b),
  vlanMode: (spec.vlanMode || undefined) as VlanMode | undefined,
  mtuRequest: spec.mtuRequest ?? 0,
  config: [...new Set(spec.config ?? [])],
  otherConfig: spec.otherConfig ?? {},
  externalIds: spec.externalIds ?? {},
});

export const findPort = (model: Model, bridge: string, port: string): PortRecord | undefined =>
  model.bridges.get(bridge)?.ports.get(port);

export const bridgeSpecMessage = (record: BridgeRecord): BridgeSpecMessage => ({ ...record });

export function portSpecMessage(record: PortRecord): PortSpecMessage {
  const { ofport: _, tag, vlanMode, ...rest } = record;
  return {
    ...rest,
    trunks: [...record.trunks],
    config: [...record.config],
    vlanMode: vlanMode ?? '',
    ...(tag >= 0 ? { tag } : {}),
  };
}

const noStatistics: PortStatistics = { counters: {} as PortStatistics['counters'], drops: {} };

/** A port with its columns of run time; `view` is absent while the port could not be set up. */
export function portMessage(manager: Manager, bridge: string, record: PortRecord, view: PortView | undefined): Message {
  const datapath = view?.datapath;
  return {
    spec: portSpecMessage(record),
    bridge,
    ofport: view?.ofport ?? -1,
    datapathPort: datapath?.portNo ?? -1,
    mac: datapath?.facts['mac'] ?? view?.mac ?? '',
    state: datapath?.state ?? (view ? '' : 'error'),
    linkUp: datapath?.linkUp ?? false,
    error: manager.portError(bridge, record.name) || (datapath?.lastError ?? ''),
    mtu: interfaceMtu(datapath) ?? (record.mtuRequest || 1500),
    status: datapath?.facts ?? {},
    statistics: view ? statistics(manager, bridge, record.name) : noStatistics,
    duration: manager.portAge(bridge, record.name),
  };
}

/** What a kernel interface has; else what was asked for. */
const interfaceMtu = (datapath: PortView['datapath']): number | undefined =>
  Number(datapath?.facts['mtu'] ?? 0) || datapath?.mtu || undefined;

export function statistics(manager: Manager, bridge: string, port: string): PortStatistics {
  try {
    return manager.switch.portStatistics(bridge, port);
  } catch {
    // The data plane is away, or does not have this port.
    return noStatistics;
  }
}

/** The bridge's own port; ofproto lists it among its ports when it has a device. */
function localMessage(manager: Manager, api: BridgeApi): Message {
  const name = api.spec.name;
  const view = api.ports().find((port) => port.ofport === OFPP_LOCAL);
  return {
    spec: { name, type: 'internal' },
    bridge: name,
    ofport: OFPP_LOCAL,
    datapathPort: view?.datapath?.portNo ?? -1,
    mac: view?.datapath?.facts['mac'] ?? api.spec.otherConfig.hwaddr ?? view?.mac ?? macOf(api.datapathId),
    state: view?.datapath?.state ?? '',
    linkUp: view?.datapath?.linkUp ?? true,
    error: '',
    mtu: interfaceMtu(view?.datapath) ?? 1500,
    status: view?.datapath?.facts ?? (api.localError ? { device: 'none', reason: api.localError } : {}),
    statistics: view ? statistics(manager, name, name) : noStatistics,
    duration: manager.portAge(name, name),
  };
}

const macOf = (datapathId: string): string => datapathId.slice(4).replace(/..(?!$)/g, '$&:');

/** All ports of a bridge: first LOCAL, then as configured. */
export function portMessages(manager: Manager, name: string): Message[] {
  const api = manager.bridge(name);
  const model = manager.model.bridges.get(name)!;
  return [
    localMessage(manager, api),
    ...[...model.ports.values()].map((record) => portMessage(manager, name, record, api.port(record.name))),
  ];
}

export function bridgeMessage(manager: Manager, model: BridgeModel): Message {
  const name = model.bridge.name;
  return {
    spec: bridgeSpecMessage(model.bridge),
    datapathId: manager.bridge(name).datapathId,
    ports: portMessages(manager, name),
  };
}
