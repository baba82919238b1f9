/** Commands on bridges and ports by name. */
import { Fatal } from '../client.ts';
import { findTable } from './columns.ts';
import type { Command, CommandContext } from './context.ts';
import { setColumn } from './database.ts';
import { allPorts, type Draft, type DraftPort, findBridge, newBridge, newPort } from './draft.ts';
import { formatAtom, formatValue } from './values.ts';

/** A port that was configured, not a bridge's own. */
const findPort = (draft: Draft, name: string): DraftPort | undefined =>
  allPorts(draft).find((port) => port.spec.name === name && !port.local);

function addBridge({ draft, args, options }: CommandContext): void {
  const name = args[0]!;
  if (args.length === 2) throw new Fatal(`'add-br' command takes exactly 1 or 3 arguments`);
  if (args.length === 3) throw new Fatal('fake bridges are not supported: give the ports of a VLAN a tag instead');
  if (draft.bridges.has(name)) {
    if (options.has('may-exist')) return;
    throw new Fatal(`cannot create a bridge named ${name} because a bridge named ${name} already exists`);
  }
  const owner = findPort(draft, name);
  if (owner) {
    throw new Fatal(
      `cannot create a bridge named ${name} because a port named ${name} already exists on bridge ${owner.bridge}`,
    );
  }
  draft.bridges.set(name, newBridge(name));
}

function deleteBridge({ draft, args, options }: CommandContext): void {
  const name = args[0]!;
  if (options.has('if-exists') && !draft.bridges.has(name)) return;
  findBridge(draft, name);
  draft.bridges.delete(name);
}

function addPort({ draft, args, options }: CommandContext): void {
  const [bridgeName = '', name = '', ...settings] = args;
  const bridge = findBridge(draft, bridgeName);
  const there = findPort(draft, name);
  if (draft.bridges.has(name)) {
    throw new Fatal(`cannot create a port named ${name} because a bridge named ${name} already exists`);
  }
  if (there && !options.has('may-exist')) {
    throw new Fatal(
      `cannot create a port named ${name} because a port named ${name} already exists on bridge ${there.bridge}`,
    );
  }
  if (there && there.bridge !== bridgeName) {
    throw new Fatal(
      `"--may-exist add-port ${args.join(' ')}" but ${name} is actually attached to bridge ${there.bridge}`,
    );
  }
  const port = there ?? { bridge: bridgeName, spec: newPort(name), state: undefined, local: false };
  bridge.ports.set(name, port);
  for (const setting of settings) setColumn(draft, findTable('Port'), port, setting);
}

function deletePort({ draft, args, options }: CommandContext): void {
  const name = args.at(-1)!;
  const bridge = args.length > 1 ? findBridge(draft, args[0]!) : undefined;
  const port = findPort(draft, name);
  if (!port) {
    if (options.has('if-exists')) return;
    throw new Fatal(
      draft.bridges.has(name)
        ? `cannot delete port ${name} because it is the local port for bridge ${name} (deleting this port requires deleting the entire bridge)`
        : `no port named ${name}`,
    );
  }
  if (bridge && port.bridge !== bridge.spec.name) {
    throw new Fatal(`bridge ${bridge.spec.name} does not have a port ${name}`);
  }
  draft.bridges.get(port.bridge)!.ports.delete(name);
}

function lines({ out, json }: CommandContext, names: readonly string[]): void {
  const sorted = [...names].sort();
  if (json) out.line(JSON.stringify(sorted));
  else for (const name of sorted) out.line(name);
}

const portsOf = ({ draft, args }: CommandContext): string[] =>
  [...findBridge(draft, args[0]!).ports.values()].filter((port) => !port.local).map((port) => port.spec.name);

function bridgeOf(what: string, { draft, args, out }: CommandContext): void {
  const port = findPort(draft, args[0]!);
  if (!port) throw new Fatal(`no ${what} named ${args[0]}`);
  out.line(port.bridge);
}

function show({ draft, out, json }: CommandContext): void {
  if (json) {
    const bridges = [...draft.bridges.values()].map(({ spec, datapathId, ports }) => ({
      spec,
      datapathId,
      ports: [...ports.values()],
    }));
    out.line(JSON.stringify({ uuid: draft.uuid, version: draft.version, switch: draft.switch, bridges }));
    return;
  }
  out.line(draft.uuid);
  for (const name of [...draft.bridges.keys()].sort()) {
    const { spec, ports } = draft.bridges.get(name)!;
    out.line(`    Bridge ${formatAtom(name)}`);
    if (spec.failMode) out.line(`        fail_mode: ${spec.failMode}`);
    if (spec.datapathType) out.line(`        datapath_type: ${spec.datapathType}`);
    for (const portName of [...ports.keys()].sort()) {
      const port = ports.get(portName)!;
      out.line(`        Port ${formatAtom(portName)}`);
      if (port.spec.tag !== undefined) out.line(`            tag: ${port.spec.tag}`);
      if (port.spec.trunks.length > 0) out.line(`            trunks: ${formatValue(port.spec.trunks, 'integer')}`);
      out.line(`            Interface ${formatAtom(portName)}`);
      if (port.spec.type) out.line(`                type: ${formatAtom(port.spec.type)}`);
      const options = new Map(Object.entries(port.spec.options));
      if (options.size > 0) out.line(`                options: ${formatValue(options)}`);
      if (port.state?.error) out.line(`                error: ${formatAtom(port.state.error)}`);
    }
  }
  if (draft.version) out.line(`    ovs_version: ${JSON.stringify(draft.version)}`);
}

export const bridgeCommands: Readonly<Record<string, Command>> = {
  init: { least: 0, most: 0, run: () => undefined },
  show: { least: 0, most: 0, run: show },
  'add-br': { least: 1, most: 3, options: ['may-exist'], run: addBridge },
  'del-br': { least: 1, most: 1, options: ['if-exists'], run: deleteBridge },
  'list-br': { least: 0, most: 0, run: (context) => lines(context, [...context.draft.bridges.keys()]) },
  'br-exists': { least: 1, most: 1, run: ({ draft, args }) => (draft.bridges.has(args[0]!) ? 0 : 2) },
  'br-to-vlan': {
    least: 1,
    most: 1,
    run: ({ draft, args, out }) => {
      findBridge(draft, args[0]!);
      out.line('0');
    },
  },
  'br-to-parent': {
    least: 1,
    most: 1,
    run: ({ draft, args, out }) => out.line(findBridge(draft, args[0]!).spec.name),
  },
  'add-port': { least: 2, most: 1000, options: ['may-exist'], run: addPort },
  'del-port': { least: 1, most: 2, options: ['if-exists', 'with-iface'], run: deletePort },
  'list-ports': { least: 1, most: 1, run: (context) => lines(context, portsOf(context)) },
  'list-ifaces': { least: 1, most: 1, run: (context) => lines(context, portsOf(context)) },
  'port-to-br': { least: 1, most: 1, run: (context) => bridgeOf('port', context) },
  'iface-to-br': { least: 1, most: 1, run: (context) => bridgeOf('interface', context) },
  'get-fail-mode': {
    least: 1,
    most: 1,
    run: ({ draft, args, out }) => {
      const { failMode } = findBridge(draft, args[0]!).spec;
      if (failMode) out.line(failMode);
    },
  },
  'set-fail-mode': {
    least: 2,
    most: 2,
    run: ({ draft, args }) => {
      const mode = args[1]!;
      if (mode !== 'standalone' && mode !== 'secure') throw new Fatal('fail-mode must be "standalone" or "secure"');
      findBridge(draft, args[0]!).spec.failMode = mode;
    },
  },
  'del-fail-mode': {
    least: 1,
    most: 1,
    run: ({ draft, args }) => {
      findBridge(draft, args[0]!).spec.failMode = '';
    },
  },
  'br-set-external-id': {
    least: 2,
    most: 3,
    run: ({ draft, args }) => {
      const { externalIds } = findBridge(draft, args[0]!).spec;
      if (args[2] === undefined) delete externalIds[args[1]!];
      else externalIds[args[1]!] = args[2];
    },
  },
  'br-get-external-id': {
    least: 1,
    most: 2,
    run: ({ draft, args, out }) => {
      const { externalIds } = findBridge(draft, args[0]!).spec;
      if (args[1] === undefined)
        for (const [key, value] of Object.entries(externalIds).sort()) out.line(`${key}=${value}`);
      else if (externalIds[args[1]] !== undefined) out.line(externalIds[args[1]]!);
    },
  },
};
