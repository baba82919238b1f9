/** What the fields of request messages must be beyond their protobuf type, in JSON-schema words. */
const words = (...list: string[]): object => ({ enum: list });

/** Most flow or group mods in one request. */
export const MAX_MODS = 200_000;
/** Longest text of one flow or group. */
const MAX_TEXT = 65_536;
const name = { minLength: 1, maxLength: 63 };
const vlan = { maximum: 4095 };
const value = { maxLength: 4096 };

export const CONSTRAINTS: Readonly<Record<string, object>> = {
  'SwitchOptions.otherConfig': value,
  'SwitchOptions.externalIds': value,
  'BridgeSpec.name': name,
  'BridgeSpec.datapathType': words('', 'netdev', 'system', 'dummy'),
  'BridgeSpec.failMode': words('', 'standalone', 'secure'),
  'BridgeSpec.otherConfig': value,
  'BridgeSpec.externalIds': value,
  'PortSpec.name': name,
  'PortSpec.type': { maxLength: 63 },
  'PortSpec.options': value,
  'PortSpec.ofportRequest': { maximum: 65_279 },
  'PortSpec.tag': vlan,
  'PortSpec.trunks': { ...vlan, maxItems: 4096 },
  'PortSpec.vlanMode': words('', 'access', 'trunk', 'native-tagged', 'native-untagged', 'dot1q-tunnel'),
  'PortSpec.mtuRequest': { maximum: 65_535 },
  'PortSpec.config': { ...words('down', 'no-receive', 'no-forward', 'no-flood', 'no-packet-in'), maxItems: 5 },
  'PortSpec.otherConfig': value,
  'PortSpec.externalIds': value,
  'Transaction.operations': { maxItems: 10_000 },
  'FlowMod.command': words('add', 'modify', 'modify_strict', 'delete', 'delete_strict'),
  'FlowMod.flow': { maxLength: MAX_TEXT },
  'FlowMods.mods': { maxItems: MAX_MODS },
  'FlowTexts.flows': { maxLength: MAX_TEXT, maxItems: MAX_MODS },
  'GroupMod.command': words('add', 'modify', 'add_or_modify', 'delete', 'insert_buckets', 'remove_buckets'),
  'GroupMod.group': { maxLength: MAX_TEXT },
  'GroupMods.mods': { maxItems: MAX_MODS },
  'TunnelRoute.prefix': { minLength: 1, maxLength: 63 },
  'TunnelRoute.device': name,
  'TunnelNeighbour.ip': { minLength: 1, maxLength: 63 },
  'TraceRequest.bridge': { maxLength: 63 },
  'TraceRequest.flow': { minLength: 1, maxLength: MAX_TEXT },
};

export const REQUIRED: Readonly<Record<string, readonly string[]>> = {
  BridgeSpec: ['name'],
  PortSpec: ['name'],
  PortAt: ['bridge', 'port'],
  PortName: ['bridge', 'port'],
  Transaction: ['operations'],
  FlowMod: ['command'],
  FlowMods: ['mods'],
  FlowTexts: ['flows'],
  GroupMod: ['command'],
  GroupMods: ['mods'],
  TraceRequest: ['flow'],
  TunnelRoute: ['prefix', 'device'],
  TunnelNeighbour: ['ip', 'mac', 'bridge'],
};
