/** The data plane as it is: megaflows, ports, workers, drops. */
import { DROP_REASONS } from '#contract/catalogue.ts';
import { PAGE_QUERY, paged, type Route } from '../route.ts';
import { statistics } from '../views.ts';

const tag = 'datapath';

export const datapathRoutes: readonly Route[] = [
  {
    method: 'GET',
    url: '/v1/datapath',
    summary: 'Lookups and number of megaflows',
    tag,
    reply: 'Datapath',
    handler: ({ manager }) => ({ connected: manager.datapath.connected, ...manager.switch.datapathLookups() }),
  },
  {
    method: 'GET',
    url: '/v1/datapath/flows',
    summary: 'Megaflows',
    tag,
    query: PAGE_QUERY,
    reply: 'DatapathFlowList',
    handler: (context, request) => paged(context, request, 'flows', () => context.manager.switch.datapathFlows()),
  },
  {
    method: 'DELETE',
    url: '/v1/datapath/flows',
    summary: 'Forget all megaflows; packets bring them back',
    tag,
    reply: 'Empty',
    handler: async ({ manager }) => {
      await manager.switch.flushDatapathFlows();
      return {};
    },
  },
  {
    method: 'GET',
    url: '/v1/datapath/ports',
    summary: 'Ports of the data plane',
    tag,
    query: PAGE_QUERY,
    reply: 'DatapathPortList',
    handler: (context, request) =>
      paged(context, request, 'ports', () =>
        context.manager.datapath.ports().map((port) => ({
          port: port.portNo,
          name: port.name,
          type: port.type,
          options: port.options,
          mtu: port.mtu,
          state: port.state,
          error: port.lastError,
          linkUp: port.linkUp,
          status: port.facts,
          statistics: context.manager.datapath.portStatistics(port.portNo),
        })),
      ),
  },
  {
    method: 'GET',
    url: '/v1/datapath/pmd',
    summary: 'Workers: their rx queues and counters',
    tag,
    reply: 'PmdList',
    handler: async ({ manager }) => {
      const names = new Map(manager.datapath.ports().map((port) => [port.portNo, port.name]));
      const pmds = (await manager.datapath.pmds()).map(({ rxqs, ...pmd }) => ({
        ...pmd,
        rxqs: rxqs.map(({ portNo, usage, ...rxq }) => ({
          ...rxq,
          port: portNo,
          portName: names.get(portNo) ?? '',
          usage: Number.isFinite(usage) ? usage : -1,
        })),
      }));
      return { pmds };
    },
  },
  {
    method: 'DELETE',
    url: '/v1/datapath/pmd/counters',
    summary: 'Start the counters of the workers again at 0',
    tag,
    reply: 'Empty',
    handler: ({ manager }) => {
      manager.datapath.clearPmdCounters();
      return {};
    },
  },
  {
    method: 'GET',
    url: '/v1/drops',
    summary: 'Lost packets by port and reason',
    tag,
    reply: 'DropList',
    handler: ({ manager }) => {
      const ports: object[] = [];
      const seen = new Set<string>();
      for (const [bridge, api] of manager.switch.bridges) {
        for (const port of api.ports()) {
          const { drops } = statistics(manager, bridge, port.name);
          for (const reason of Object.keys(drops)) seen.add(reason);
          ports.push({ bridge, port: port.name, drops });
        }
      }
      const reasons = DROP_REASONS.filter(({ name }) => seen.has(name)).map(({ name, help }) => [name, help]);
      return { ports, reasons: Object.fromEntries(reasons) };
    },
  },
  {
    method: 'GET',
    url: '/v1/coverage',
    summary: 'Rates of all events of the data plane',
    tag,
    reply: 'Coverage',
    handler: async ({ coverage }) => {
      const { rows, neverHit } = await coverage.rows();
      return { counters: rows, neverHit };
    },
  },
];
