/** ovs/route/*, tnl/neigh/* and tnl/ports/show: the networks under the tunnels, in the words of ovs-appctl(8). */
import { json as jsonBody } from '../client.ts';
import { type AppCommand, type AppContext, ServerError } from './context.ts';

interface TunnelState {
  readonly routes?: readonly string[];
  readonly neighbours?: readonly { readonly ip: string; readonly mac: string; readonly bridge: string }[];
  readonly listeners?: readonly {
    readonly name: string;
    readonly port: number;
    readonly users: number;
    readonly matches?: readonly string[];
  }[];
}

const state = ({ client }: AppContext): Promise<TunnelState> => client.get<TunnelState>('/v1/tunnels');

async function routeShow(context: AppContext): Promise<void> {
  const { routes = [] } = await state(context);
  if (context.json) return context.out.line(JSON.stringify(routes));
  context.out.line('Route Table:');
  for (const route of routes) context.out.line(route);
}

/** `ip/plen bridge [gw] [src=ip]`; a mark has no meaning here. */
async function routeAdd({ client, out, args }: AppContext): Promise<void> {
  const [prefix, device, ...rest] = args;
  let gateway = '';
  let source = '';
  for (const word of rest) {
    if (word.startsWith('src=')) source = word.slice(4);
    else if (word.includes('=')) throw new ServerError(`${word}: Invalid parameter`);
    else gateway = word;
  }
  await client.call('POST', '/v1/tunnels/routes', jsonBody({ prefix, device, gateway, source }));
  out.line('OK');
}

async function neighShow(context: AppContext): Promise<void> {
  const { neighbours = [] } = await state(context);
  const { out } = context;
  if (context.json) return out.line(JSON.stringify(neighbours));
  out.line('IP                                            MAC                 Bridge');
  out.line('='.repeat(74));
  for (const { ip, mac, bridge } of neighbours) out.line(`${ip.padEnd(46)}${mac}   ${bridge}`);
}

async function portsShow(context: AppContext): Promise<void> {
  const { listeners = [] } = await state(context);
  const { out, args } = context;
  if (context.json) return out.line(JSON.stringify(listeners));
  out.line('Listening ports:');
  for (const { name, port, users, matches = [] } of listeners) {
    if (args[0] !== '-v') out.line(`${name} (${port}) ref_cnt=${users}`);
    else for (const match of matches) out.line(`${name} (${port}) : ${match}`);
  }
}

const neighSet: AppCommand = {
  least: 3,
  most: 3,
  usage: 'BRIDGE IP MAC',
  run: async ({ client, out, args: [bridge, ip, mac] }) => {
    await client.call('PUT', '/v1/tunnels/neighbours', jsonBody({ bridge, ip, mac }));
    out.line('OK');
  },
};
const neighFlush: AppCommand = {
  least: 0,
  most: 0,
  usage: '',
  run: async ({ client, out }) => {
    await client.call('DELETE', '/v1/tunnels/neighbours');
    out.line('OK');
  },
};
const neighShowCommand: AppCommand = { least: 0, most: 0, usage: '', run: neighShow };

export const tunnelCommands: Readonly<Record<string, AppCommand>> = {
  'ovs/route/show': { least: 0, most: 0, usage: '', run: routeShow },
  'ovs/route/add': { least: 2, most: 4, usage: 'ip_addr/prefix_len out_br_name [gw] [src=src_ip]', run: routeAdd },
  'ovs/route/del': {
    least: 1,
    most: 1,
    usage: 'ip_addr/prefix_len',
    run: async ({ client, out, args }) => {
      await client.call('DELETE', `/v1/tunnels/routes?prefix=${encodeURIComponent(args[0]!)}`);
      out.line('OK');
    },
  },
  'ovs/route/lookup': {
    least: 1,
    most: 1,
    usage: 'ip_addr',
    run: async ({ client, out, args }) => {
      const { text } = await client.get<{ text: string }>(`/v1/tunnels/lookup?address=${encodeURIComponent(args[0]!)}`);
      out.line(text);
    },
  },
  'tnl/neigh/show': neighShowCommand,
  'tnl/arp/show': neighShowCommand,
  'tnl/neigh/set': neighSet,
  'tnl/arp/set': neighSet,
  'tnl/neigh/flush': neighFlush,
  'tnl/arp/flush': neighFlush,
  'tnl/ports/show': { least: 0, most: 1, usage: '[-v]', run: portsShow },
};
