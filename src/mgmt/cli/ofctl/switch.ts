/** Commands on the bridge itself and its ports and tables. */
import { Fatal, json, segment } from '../client.ts';
import { version as ringwayVersion } from '../version.ts';
import { atBridge, bridgeName, bridgePath, type Command, type Context } from './context.ts';
import { byNumber, describePort, LOCAL, type PortMessage, portStatistics } from './port-format.ts';
import { replyHeader } from './protocol.ts';

const ports = (context: Context): Promise<PortMessage[]> =>
  atBridge(context.args[0]!, (path) => context.client.list<PortMessage>(`${path}/ports`, 'ports'));

async function show(context: Context): Promise<undefined> {
  const { out, version } = context;
  const bridge = await atBridge(context.args[0]!, (path) => context.client.get(path));
  if (context.json) {
    out.line(JSON.stringify(bridge));
    return undefined;
  }
  const first = version.number === 1;
  out.line(`OFPT_FEATURES_REPLY${version.label} (xid=0x2): dpid:${bridge.datapathId}`);
  out.line('n_tables:254, n_buffers:0');
  out.line(
    `capabilities: FLOW_STATS TABLE_STATS PORT_STATS ${first ? 'QUEUE_STATS ARP_MATCH_IP' : 'GROUP_STATS QUEUE_STATS'}`,
  );
  if (first) {
    out.line(
      'actions: output enqueue set_vlan_vid set_vlan_pcp strip_vlan mod_dl_src mod_dl_dst mod_nw_src mod_nw_dst mod_nw_tos mod_tp_src mod_tp_dst',
    );
  } else {
    out.line(replyHeader(version, 'PORT_DESC', 3));
  }
  for (const port of byNumber(bridge.ports)) for (const line of describePort(port, version)) out.line(line);
  out.line(`OFPT_GET_CONFIG_REPLY${version.label} (xid=0x${first ? 4 : 5}): frags=normal miss_send_len=0`);
  return undefined;
}

async function dumpPortsDesc(context: Context): Promise<undefined> {
  const { out, version, args } = context;
  // Before 1.5 the request has no port in it: all are told.
  const wanted = args[1] !== undefined && version.number >= 6 ? args[1] : undefined;
  const all = byNumber(await ports(context));
  const list = wanted === undefined ? all : all.filter((port) => isPort(port, wanted));
  if (context.json) out.line(JSON.stringify(list));
  else {
    out.line(replyHeader(version, 'PORT_DESC', 2));
    for (const port of list) for (const line of describePort(port, version)) out.line(line);
  }
  return undefined;
}

const isPort = (port: PortMessage, name: string): boolean =>
  port.spec.name === name || (name.toUpperCase() === 'LOCAL' ? port.ofport === LOCAL : String(port.ofport) === name);

async function dumpPorts(context: Context): Promise<undefined> {
  const { out, version, args } = context;
  const all = byNumber(await ports(context));
  const wanted = args[1];
  const list =
    wanted === undefined
      ? [...all.filter((port) => port.ofport === LOCAL), ...all.filter((port) => port.ofport !== LOCAL)]
      : all.filter((port) => isPort(port, wanted));
  if (wanted !== undefined && list.length === 0 && !/^\d+$/.test(wanted)) {
    throw new Fatal(`${args[0]}: unknown port \`${wanted}'`);
  }
  if (context.json) out.line(JSON.stringify(list));
  else {
    out.line(`${replyHeader(version, 'PORT', 2)} ${list.length} ports`);
    for (const port of list) for (const line of portStatistics(port, version)) out.line(line);
  }
  return undefined;
}

/** What a mod-port word does: its configuration word, and whether it sets or clears it. */
const PORT_ACTIONS: Readonly<Record<string, readonly [word: string, set: boolean]>> = {
  up: ['down', false],
  down: ['down', true],
  receive: ['no-receive', false],
  'no-receive': ['no-receive', true],
  flood: ['no-flood', false],
  'no-flood': ['no-flood', true],
  forward: ['no-forward', false],
  'no-forward': ['no-forward', true],
  'packet-in': ['no-packet-in', false],
  'no-packet-in': ['no-packet-in', true],
};

async function modPort(context: Context): Promise<undefined> {
  const [target = '', name = '', word = ''] = context.args;
  const port = (await ports(context)).find((candidate) => isPort(candidate, name));
  if (!port) throw new Fatal(`${target}: couldn't find port \`${name}'`);
  const action = Object.hasOwn(PORT_ACTIONS, word) ? PORT_ACTIONS[word] : undefined;
  if (!action) throw new Fatal(`unknown mod-port command '${word}'`);
  if (port.ofport === LOCAL) throw new Fatal(`${target}: the configuration of LOCAL cannot be changed`);
  const config = new Set(port.spec.config);
  if (action[1]) config.add(action[0]);
  else config.delete(action[0]);
  const path = `${bridgePath(target)}/ports/${segment(port.spec.name)}`;
  await context.client.call('PATCH', path, json({ name: port.spec.name, config: [...config] }));
  return undefined;
}

interface TableMessage {
  readonly table: number;
  readonly active: number;
  readonly lookup: number;
  readonly matched: number;
}

async function dumpTables(context: Context): Promise<undefined> {
  const { out, version } = context;
  const { tables } = await atBridge(context.args[0]!, (path) =>
    context.client.get<{ tables: TableMessage[] }>(`${path}/tables`),
  );
  if (context.json) {
    out.line(JSON.stringify(tables));
    return undefined;
  }
  out.line(replyHeader(version, 'TABLE', 2));
  const same = (a: TableMessage, b: TableMessage): boolean =>
    a.active === b.active && a.lookup === b.lookup && a.matched === b.matched;
  for (let at = 0; at < tables.length; at++) {
    const table = tables[at]!;
    if (at > 0) out.line('');
    out.line(`  table ${table.table}:`);
    out.line(`    active=${table.active}, lookup=${table.lookup}, matched=${table.matched}`);
    if (version.number === 1) {
      if (at === 0) {
        out.line('    max_entries=1000000');
        out.line('    matching:');
        out.line(
          '      exact match or wildcard: in_port eth_{src,dst,type} vlan_{vid,pcp} ip_{src,dst} nw_{proto,tos} tcp_{src,dst}',
        );
      } else {
        out.line('    (same features)');
      }
    }
    let last = at;
    while (last + 1 < tables.length && same(tables[last + 1]!, table)) last++;
    if (last > at) {
      out.line('');
      const from = tables[at + 1]!.table;
      const to = tables[last]!.table;
      out.line(from === to ? `  table ${from}: ditto` : `  tables ${from}...${to}: ditto`);
      at = last;
    }
  }
  return undefined;
}

async function dumpDesc(context: Context): Promise<undefined> {
  const { out, version } = context;
  await atBridge(context.args[0]!, (path) => context.client.get(path));
  const desc = {
    manufacturer: 'Ringway',
    hardware: 'Ringway',
    software: ringwayVersion(),
    serial: 'None',
    datapath: 'None',
  };
  if (context.json) out.line(JSON.stringify({ bridge: bridgeName(context.args[0]!), ...desc }));
  else {
    out.line(replyHeader(version, 'DESC', 2));
    out.line(`Manufacturer: ${desc.manufacturer}`);
    out.line(`Hardware: ${desc.hardware}`);
    out.line(`Software: ${desc.software}`);
    out.line(`Serial Num: ${desc.serial}`);
    out.line(`DP Description: ${desc.datapath}`);
  }
  return undefined;
}

export const switchCommands: Readonly<Record<string, Command>> = {
  show: { least: 1, most: 1, run: show },
  'dump-desc': { least: 1, most: 1, run: dumpDesc },
  'dump-ports': { least: 1, most: 2, run: dumpPorts },
  'dump-ports-desc': { least: 1, most: 2, run: dumpPortsDesc },
  'dump-tables': { least: 1, most: 1, run: dumpTables },
  'mod-port': { least: 3, most: 3, run: modPort },
};
