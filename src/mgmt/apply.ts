/** One configuration change carried out on the switch, with the way back. */
import type { BridgeApi, BridgeSpec, FlowMod, PortSpec, PortView, SwitchApi } from '#ofproto/api.ts';
import { flowText, groupAdd } from './flow-text.ts';
import type { BridgeRecord, Columns, ConfigChange, PortRecord } from './model.ts';

export interface Outcome {
  /** The change as it came out: with the OpenFlow port number in use. */
  readonly change: ConfigChange;
  readonly undo: () => Promise<void>;
  /** Bridge whose flows came or went with the change itself. */
  readonly flowsChanged?: string;
}

/** other_config:datapath-id, else the bridge's own address, as in ovs-vswitchd.conf.db(5); empty where ofproto makes one. */
function datapathId({ 'datapath-id': id, hwaddr }: Columns): string {
  if (id !== undefined) return id.replace(/^0x/, '').padStart(16, '0');
  return hwaddr === undefined ? '' : hwaddr.replaceAll(':', '').padStart(16, '0');
}

export const bridgeSpec = (record: BridgeRecord): BridgeSpec => ({
  name: record.name,
  datapathId: datapathId(record.otherConfig),
  failMode: record.failMode || 'standalone',
  datapathType: record.datapathType,
  otherConfig: record.otherConfig,
});

const pick = (columns: Columns, key: string): Columns => (columns[key] === undefined ? {} : { [key]: columns[key] });

/** An ivshmem port that names no pool shares the one of its bridge; in isolation it has a pool of its own. */
const defaultOptions = ({ type, options }: PortRecord, bridge: string): Columns =>
  type === 'ivshmem' && options['isolation'] !== 'copy' ? { pool: bridge } : {};

/** What ofproto gets: a number that is in use already is asked for again. */
const portSpec = (record: PortRecord, bridge: string): PortSpec => ({
  name: record.name,
  type: record.type,
  // The data plane reads it among a port's options.
  options: { ...defaultOptions(record, bridge), ...record.options, ...pick(record.otherConfig, 'pmd-rxq-affinity') },
  ofportRequest: record.ofportRequest || record.ofport,
  tag: record.tag,
  trunks: record.trunks,
  vlanMode: record.vlanMode,
  mtuRequest: record.mtuRequest,
  config: record.config,
  otherConfig: record.otherConfig,
});

/**
 * @throws RequestError, or the data plane's own reason. The switch is as before then.
 */
export async function apply(target: SwitchApi, change: Exclude<ConfigChange, { kind: 'SetSwitch' }>): Promise<Outcome> {
  switch (change.kind) {
    case 'SetBridge': {
      const spec = bridgeSpec(change.record);
      const before = target.bridges.get(spec.name)?.spec;
      if (!before) {
        await target.addBridge(spec);
        return { change, undo: () => target.deleteBridge(spec.name), flowsChanged: spec.name };
      }
      await target.setBridge(spec);
      const undo = (): Promise<void> => target.setBridge(before);
      return before.failMode === spec.failMode ? { change, undo } : { change, undo, flowsChanged: spec.name };
    }
    case 'DeleteBridge': {
      const undo = rebuild(target, target.bridges.get(change.name)!);
      await target.deleteBridge(change.name);
      return { change, undo };
    }
    case 'SetPort': {
      const { bridge, record } = change;
      const before = target.bridges.get(bridge)!.port(record.name);
      const spec = portSpec(record, bridge);
      const view = before ? await target.setPort(bridge, spec) : await target.addPort(bridge, spec);
      const undo = async (): Promise<void> => {
        if (before) await target.setPort(bridge, viewSpec(before));
        else await target.deletePort(bridge, record.name);
      };
      return { change: { ...change, record: { ...record, ofport: view.ofport } }, undo };
    }
    case 'DeletePort': {
      const before = target.bridges.get(change.bridge)!.port(change.name);
      // A port that could not be set up is known to the configuration only.
      if (!before) return { change, undo: async () => undefined };
      const spec = viewSpec(before);
      await target.deletePort(change.bridge, change.name);
      return {
        change,
        undo: async () => {
          await target.addPort(change.bridge, spec);
        },
      };
    }
  }
}

const viewSpec = (view: PortView): PortSpec => ({
  name: view.name,
  type: view.type,
  options: view.options,
  ofportRequest: view.ofport,
  tag: view.tag,
  trunks: view.trunks,
  vlanMode: view.vlanMode,
  mtuRequest: view.mtuRequest,
  config: view.config,
  otherConfig: view.otherConfig,
});

/** OpenFlow port number of the bridge's own port, LOCAL. */
export const OFPP_LOCAL = 65534;

function rebuild(target: SwitchApi, bridge: BridgeApi): () => Promise<void> {
  const spec = bridge.spec;
  const ports = bridge.ports().filter((port) => port.ofport !== OFPP_LOCAL);
  const groups = bridge.groups().map(groupAdd);
  const flows = bridge
    .dumpFlows('', { actions: 'exact' })
    .map((flow): FlowMod => ({ command: 'add', flow: flowText(flow) }));
  return async () => {
    const again = await target.addBridge(spec);
    for (const port of ports) await target.addPort(spec.name, viewSpec(port));
    if (groups.length > 0) await again.modifyGroups(groups);
    await again.modifyFlows([{ command: 'delete', flow: '' }, ...flows]);
  };
}
