/**
 * The configuration as management keeps it: what was asked for, beside what ofproto runs. Changes are folded into a model
 * at start, and made on a copy of it before the switch is touched.
 */
import { type FlowMod, type GroupMod, type PortSpec, RequestError } from '#ofproto/api.ts';

export type Columns = Readonly<Record<string, string>>;

/** Columns of the one Open_vSwitch record. */
export interface SwitchRecord {
  readonly uuid: string;
  readonly otherConfig: Columns;
  readonly externalIds: Columns;
}

export interface BridgeRecord {
  readonly name: string;
  readonly datapathType: string;
  /** Empty: the default, standalone. */
  readonly failMode: '' | 'standalone' | 'secure';
  readonly otherConfig: Columns;
  readonly externalIds: Columns;
}

export interface PortRecord extends PortSpec {
  /** OpenFlow port number in use; 0 before the port was set up for the first time. */
  readonly ofport: number;
  readonly externalIds: Columns;
}

export interface BridgeModel {
  readonly bridge: BridgeRecord;
  readonly ports: ReadonlyMap<string, PortRecord>;
}

export interface Model {
  readonly switch: SwitchRecord;
  readonly bridges: ReadonlyMap<string, BridgeModel>;
}

export type Change =
  | { readonly kind: 'SetSwitch'; readonly record: SwitchRecord }
  | { readonly kind: 'SetBridge'; readonly record: BridgeRecord }
  | { readonly kind: 'DeleteBridge'; readonly name: string }
  | { readonly kind: 'SetPort'; readonly bridge: string; readonly record: PortRecord }
  | { readonly kind: 'DeletePort'; readonly bridge: string; readonly name: string }
  | {
      readonly kind: 'ModifyFlows';
      readonly bridge: string;
      readonly reset: boolean;
      readonly mods: readonly FlowMod[];
    }
  | { readonly kind: 'ModifyGroups'; readonly bridge: string; readonly mods: readonly GroupMod[] };

/** Changes of the configuration proper; the others concern OpenFlow state. */
export type ConfigChange = Exclude<Change, { kind: 'ModifyFlows' } | { kind: 'ModifyGroups' }>;

/** Changes that happened together. `time` in ms since the epoch. */
export interface Transaction {
  readonly time: number;
  readonly changes: readonly Change[];
}

export const emptyModel = (uuid: string): Model => ({
  switch: { uuid, otherConfig: {}, externalIds: {} },
  bridges: new Map(),
});

const needBridge = (model: Model, name: string): BridgeModel => {
  const found = model.bridges.get(name);
  if (!found) throw new RequestError('no_such_bridge', `no bridge named ${name}`, { status: 404, field: 'bridge' });
  return found;
};

/** @returns the bridge that has a port of this name, if any. */
export function bridgeOfPort(model: Model, port: string): string | undefined {
  for (const [name, { ports }] of model.bridges) if (ports.has(port)) return name;
  return undefined;
}

/**
 * The model after one change; `model` itself stays as it is.
 * @throws RequestError no_such_bridge, no_such_port, exists.
 */
export function applyChange(model: Model, change: ConfigChange): Model {
  const bridges = new Map(model.bridges);
  switch (change.kind) {
    case 'SetSwitch':
      return { ...model, switch: change.record };
    case 'SetBridge': {
      const name = change.record.name;
      const owner = bridgeOfPort(model, name);
      if (owner !== undefined) {
        throw new RequestError(
          'exists',
          `cannot create a bridge named ${name} because a port named ${name} already exists on bridge ${owner}`,
          { status: 409, field: 'name' },
        );
      }
      bridges.set(name, { bridge: change.record, ports: bridges.get(name)?.ports ?? new Map() });
      return { ...model, bridges };
    }
    case 'DeleteBridge':
      needBridge(model, change.name);
      bridges.delete(change.name);
      return { ...model, bridges };
    case 'SetPort': {
      const at = needBridge(model, change.bridge);
      const name = change.record.name;
      const owner = bridgeOfPort(model, name);
      if (model.bridges.has(name)) {
        throw new RequestError(
          'exists',
          `cannot create a port named ${name} because a bridge named ${name} already exists`,
          { status: 409, field: 'name' },
        );
      }
      if (owner !== undefined && owner !== change.bridge) {
        throw new RequestError(
          'exists',
          `cannot create a port named ${name} because a port named ${name} already exists on bridge ${owner}`,
          { status: 409, field: 'name' },
        );
      }
      bridges.set(change.bridge, { ...at, ports: new Map(at.ports).set(name, change.record) });
      return { ...model, bridges };
    }
    case 'DeletePort': {
      const at = needBridge(model, change.bridge);
      const ports = new Map(at.ports);
      if (!ports.delete(change.name)) {
        throw new RequestError('no_such_port', `no port named ${change.name}`, { status: 404, field: 'port' });
      }
      bridges.set(change.bridge, { ...at, ports });
      return { ...model, bridges };
    }
  }
}

export type FlowHistory = Extract<Change, { kind: 'ModifyFlows' } | { kind: 'ModifyGroups' }> & {
  readonly time: number;
};

/** What a store holds, folded: the final configuration, and per bridge the OpenFlow changes in their order. */
export interface Restored {
  readonly model: Model;
  readonly history: ReadonlyMap<string, readonly FlowHistory[]>;
}

/** Folds stored transactions in their order. @throws RequestError when one contradicts those before it. */
export function fold(transactions: Iterable<Transaction>, uuid: string): Restored {
  let model = emptyModel(uuid);
  const history = new Map<string, FlowHistory[]>();
  for (const { time, changes } of transactions) {
    for (const change of changes) {
      if (change.kind === 'ModifyFlows' || change.kind === 'ModifyGroups') {
        if (change.kind === 'ModifyFlows' && change.reset) {
          const kept = (history.get(change.bridge) ?? []).filter((old) => old.kind === 'ModifyGroups');
          history.set(change.bridge, kept);
        }
        history.get(change.bridge)?.push({ ...change, time });
        continue;
      }
      model = applyChange(model, change);
      if (change.kind === 'DeleteBridge') history.delete(change.name);
      if (change.kind === 'SetBridge' && !history.has(change.record.name)) history.set(change.record.name, []);
    }
  }
  return { model, history };
}
