/** The control plane itself. */
import process from 'node:process';
import type { Route } from '../route.ts';

const tag = 'daemon';

export const daemonRoutes: readonly Route[] = [
  {
    method: 'GET',
    url: '/healthz',
    summary: 'Whether the switch is well',
    tag,
    reply: 'Health',
    handler: ({ manager, version }) => ({
      status: manager.datapath.connected ? 'ok' : 'degraded',
      version,
      datapathConnected: manager.datapath.connected,
      bridges: manager.model.bridges.size,
      ports: [...manager.model.bridges.values()].reduce((sum, { ports }) => sum + ports.size, 0),
      uptime: process.uptime(),
    }),
  },
  {
    method: 'POST',
    url: '/v1/exit',
    summary: 'Stop the switch, or the control plane only',
    tag,
    body: 'ExitRequest',
    reply: 'Empty',
    handler: ({ exit }, { body }) => {
      exit((body as { keepDatapath?: boolean }).keepDatapath === true);
      return {};
    },
  },
];
