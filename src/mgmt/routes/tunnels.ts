/** Routes, neighbours and listening ports of the tunnels. */
import { RequestError } from '#ofproto/api.ts';
import type { Route } from '../route.ts';

const tag = 'tunnels';

const need = (query: Readonly<Record<string, string>>, field: string): string => {
  const text = query[field];
  if (!text) throw new RequestError('invalid_request', `${field} is missing`, { field });
  return text;
};

export const tunnelRoutes: readonly Route[] = [
  {
    method: 'GET',
    url: '/v1/tunnels',
    summary: 'Routes, neighbours and listening ports of the tunnels',
    tag,
    reply: 'TunnelState',
    handler: ({ manager }) => {
      const { tunnels } = manager.switch;
      return { routes: tunnels.routes(), neighbours: tunnels.neighbours(), listeners: tunnels.listeners() };
    },
  },
  {
    method: 'POST',
    url: '/v1/tunnels/routes',
    summary: 'Add a route beside those of the host',
    tag,
    body: 'TunnelRoute',
    reply: 'Empty',
    handler: async ({ manager }, { body }) => {
      const { prefix, device, gateway = '', source = '' } = body as Record<string, string>;
      await manager.switch.tunnels.addRoute(prefix!, device!, gateway, source);
      return {};
    },
  },
  {
    method: 'DELETE',
    url: '/v1/tunnels/routes',
    summary: 'Delete an added route',
    tag,
    query: { prefix: 'As it was given.' },
    reply: 'Empty',
    handler: async ({ manager }, { query }) => {
      await manager.switch.tunnels.deleteRoute(need(query, 'prefix'));
      return {};
    },
  },
  {
    method: 'GET',
    url: '/v1/tunnels/lookup',
    summary: 'The way to an address',
    tag,
    query: { address: 'IPv4 or IPv6.' },
    reply: 'TunnelRouteLookup',
    handler: ({ manager }, { query }) => ({ text: manager.switch.tunnels.lookupRoute(need(query, 'address')) }),
  },
  {
    method: 'PUT',
    url: '/v1/tunnels/neighbours',
    summary: 'Set the Ethernet address of a neighbour',
    tag,
    body: 'TunnelNeighbour',
    reply: 'Empty',
    handler: async ({ manager }, { body }) => {
      const { bridge, ip, mac } = body as Record<string, string>;
      await manager.switch.tunnels.setNeighbour(bridge!, ip!, mac!);
      return {};
    },
  },
  {
    method: 'DELETE',
    url: '/v1/tunnels/neighbours',
    summary: 'Forget all neighbours',
    tag,
    reply: 'Empty',
    handler: async ({ manager }) => {
      await manager.switch.tunnels.flushNeighbours();
      return {};
    },
  },
];
