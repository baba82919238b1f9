/**
 * The configuration as one rw-vsctl run sees it: read once, changed here by the commands, and sent back as one
 * transaction of what differs.
 */
import type { Client } from '../client.ts';
import { Fatal, json } from '../client.ts';

export type Columns = Record<string, string>;

export interface BridgeSpec {
  name: string;
  datapathType: string;
  failMode: string;
  otherConfig: Columns;
  externalIds: Columns;
}

export interface PortSpec {
  name: string;
  type: string;
  options: Columns;
  ofportRequest: number;
  tag?: number;
  trunks: number[];
  vlanMode: string;
  mtuRequest: number;
  config: string[];
  otherConfig: Columns;
  externalIds: Columns;
}

/** What a Port message tells beside its spec; absent for a port of this run. */
export interface PortState {
  readonly ofport: number;
  readonly mac: string;
  readonly state: string;
  readonly linkUp: boolean;
  readonly error: string;
  readonly mtu: number;
  readonly status: Readonly<Columns>;
  readonly statistics: {
    readonly counters: Readonly<Record<string, number>>;
    readonly drops: Readonly<Record<string, number>>;
  };
}

export interface DraftPort {
  readonly bridge: string;
  readonly spec: PortSpec;
  readonly state: PortState | undefined;
  /** The bridge's own port, which comes and goes with it. */
  readonly local: boolean;
}

export interface DraftBridge {
  readonly spec: BridgeSpec;
  readonly datapathId: string;
  readonly ports: Map<string, DraftPort>;
}

export interface Draft {
  readonly uuid: string;
  readonly version: string;
  readonly generation: number;
  readonly switch: { otherConfig: Columns; externalIds: Columns };
  readonly bridges: Map<string, DraftBridge>;
}

const LOCAL = 65534;

export const newPort = (name: string, type = ''): PortSpec => ({
  name,
  type,
  options: {},
  ofportRequest: 0,
  trunks: [],
  vlanMode: '',
  mtuRequest: 0,
  config: [],
  otherConfig: {},
  externalIds: {},
});

export const newBridge = (name: string): DraftBridge => ({
  spec: { name, datapathType: '', failMode: '', otherConfig: {}, externalIds: {} },
  datapathId: '',
  ports: new Map([[name, { bridge: name, spec: newPort(name, 'internal'), state: undefined, local: true }]]),
});

export async function readDraft(client: Client): Promise<Draft> {
  const config = await client.get('/v1/config');
  const bridges = new Map<string, DraftBridge>();
  for (const { spec, datapathId, ports } of config.bridges) {
    const list = ports.map((port: PortState & { spec: PortSpec }): [string, DraftPort] => {
      const full = { ...newPort(port.spec.name), ...port.spec };
      return [full.name, { bridge: spec.name, spec: full, state: port, local: port.ofport === LOCAL }];
    });
    bridges.set(spec.name, { spec, datapathId, ports: new Map(list) });
  }
  return { uuid: config.uuid, version: config.version, generation: config.generation, switch: config.switch, bridges };
}

export function findBridge(draft: Draft, name: string): DraftBridge {
  const found = draft.bridges.get(name);
  if (!found) throw new Fatal(`no bridge named ${name}`);
  return found;
}

export const allPorts = (draft: Draft): DraftPort[] =>
  [...draft.bridges.values()].flatMap(({ ports }) => [...ports.values()]);

/** Specs as they were, to tell what changed. */
export function remember(draft: Draft): Map<string, string> {
  const specs = new Map<string, string>([['switch', JSON.stringify(draft.switch)]]);
  for (const [name, bridge] of draft.bridges) {
    specs.set(`bridge ${name}`, JSON.stringify(bridge.spec));
    for (const port of bridge.ports.values()) {
      if (!port.local) specs.set(`port ${name} ${port.spec.name}`, JSON.stringify(port.spec));
    }
  }
  return specs;
}

/** Operations of the API that turn what was remembered into the draft. */
export function operations(before: ReadonlyMap<string, string>, draft: Draft): object[] {
  const after = remember(draft);
  const list: object[] = [];
  const gone = new Set<string>();
  for (const key of before.keys()) {
    const [kind, bridge = ''] = key.split(' ');
    if (kind === 'bridge' && !after.has(key)) {
      gone.add(bridge);
      list.push({ deleteBridge: bridge });
    }
  }
  for (const key of before.keys()) {
    const [kind, bridge = '', port = ''] = key.split(' ');
    if (kind === 'port' && !after.has(key) && !gone.has(bridge)) list.push({ deletePort: { bridge, port } });
  }
  for (const [key, spec] of after) {
    if (before.get(key) === spec) continue;
    const [kind, bridge = ''] = key.split(' ');
    if (kind === 'switch') list.push({ setSwitch: JSON.parse(spec) });
    else if (kind === 'bridge') list.push({ setBridge: JSON.parse(spec) });
    else list.push({ setPort: { bridge, port: JSON.parse(spec) } });
  }
  return list;
}

export const sendOperations = (client: Client, draft: Draft, list: readonly object[]): Promise<unknown> =>
  client.call('POST', '/v1/transactions', json({ operations: list, generation: draft.generation }));
