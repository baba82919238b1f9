/** Bridges and ports. */
import { RequestError } from '#ofproto/api.ts';
import { PAGE_QUERY, paged, type Route, type RouteContext } from '../route.ts';
import { change } from '../single-change.ts';
import {
  type BridgeSpecMessage,
  bridgeMessage,
  bridgeRecord,
  bridgeSpecMessage,
  findPort,
  type PortSpecMessage,
  portMessages,
  portRecord,
  portSpecMessage,
} from '../views.ts';

const tag = 'bridges';

function bridgeModel(context: RouteContext, name: string) {
  context.manager.bridge(name);
  return context.manager.model.bridges.get(name)!;
}

function portOf(context: RouteContext, bridge: string, name: string): object {
  const found = portMessages(context.manager, bridge).find(
    (port) => (port as { spec: { name: string } }).spec.name === name,
  );
  if (!found) throw new RequestError('no_such_port', `no port named ${name}`, { field: 'port', status: 404 });
  return found;
}

const exists = (what: string, name: string): RequestError =>
  new RequestError('exists', `cannot create a ${what} named ${name} because a ${what} named ${name} already exists`, {
    field: 'name',
    status: 409,
    hint: 'use PUT to create or replace',
  });

/** The name in the path must be the one in the body. */
function sameName(path: string, body: string): void {
  if (path !== body)
    throw new RequestError('bad_value', `name is ${body} here but ${path} in the path`, { field: 'name' });
}

export const bridgeRoutes: readonly Route[] = [
  {
    method: 'GET',
    url: '/v1/bridges',
    summary: 'All bridges with their ports',
    tag,
    query: PAGE_QUERY,
    reply: 'BridgeList',
    handler: (context, request) =>
      paged(context, request, 'bridges', () =>
        [...context.manager.model.bridges.values()].map((model) => bridgeMessage(context.manager, model)),
      ),
  },
  {
    method: 'POST',
    url: '/v1/bridges',
    summary: 'Create a bridge',
    tag,
    body: 'BridgeSpec',
    reply: 'Bridge',
    handler: async (context, { body }) => {
      const spec = body as BridgeSpecMessage;
      await change(context.manager, (model) => {
        if (model.bridges.has(spec.name)) throw exists('bridge', spec.name);
        return { kind: 'SetBridge', record: bridgeRecord(spec) };
      });
      return bridgeMessage(context.manager, bridgeModel(context, spec.name));
    },
  },
  {
    method: 'GET',
    url: '/v1/bridges/:name',
    summary: 'One bridge with its ports',
    tag,
    reply: 'Bridge',
    handler: (context, { params }) => bridgeMessage(context.manager, bridgeModel(context, params.name!)),
  },
  {
    method: 'PUT',
    url: '/v1/bridges/:name',
    summary: 'Create a bridge or replace its columns',
    tag,
    body: 'BridgeSpec',
    reply: 'Bridge',
    handler: async (context, { params, body }) => {
      const spec = body as BridgeSpecMessage;
      sameName(params.name!, spec.name);
      await change(context.manager, () => ({ kind: 'SetBridge', record: bridgeRecord(spec) }));
      return bridgeMessage(context.manager, bridgeModel(context, spec.name));
    },
  },
  {
    method: 'PATCH',
    url: '/v1/bridges/:name',
    summary: 'Replace the given columns of a bridge',
    tag,
    body: 'BridgeSpec',
    reply: 'Bridge',
    handler: async (context, { params, body }) => {
      sameName(params.name!, (body as BridgeSpecMessage).name);
      await change(context.manager, () => {
        const now = bridgeSpecMessage(bridgeModel(context, params.name!).bridge);
        return { kind: 'SetBridge', record: bridgeRecord({ ...now, ...(body as BridgeSpecMessage) }) };
      });
      return bridgeMessage(context.manager, bridgeModel(context, params.name!));
    },
  },
  {
    method: 'DELETE',
    url: '/v1/bridges/:name',
    summary: 'Delete a bridge with its ports, flows and groups',
    tag,
    reply: 'Empty',
    handler: async (context, { params }) => {
      await change(context.manager, () => ({ kind: 'DeleteBridge', name: params.name! }));
      return {};
    },
  },
  {
    method: 'GET',
    url: '/v1/bridges/:name/ports',
    summary: 'Ports of a bridge with state and statistics',
    tag,
    query: PAGE_QUERY,
    reply: 'PortList',
    handler: (context, request) =>
      paged(context, request, 'ports', () => portMessages(context.manager, request.params.name!)),
  },
  {
    method: 'POST',
    url: '/v1/bridges/:name/ports',
    summary: 'Add a port',
    tag,
    body: 'PortSpec',
    reply: 'Port',
    handler: async (context, { params, body }) => {
      const spec = body as PortSpecMessage;
      await change(context.manager, (model) => {
        if (findPort(model, params.name!, spec.name)) throw exists('port', spec.name);
        return { kind: 'SetPort', bridge: params.name!, record: portRecord(spec, undefined) };
      });
      return portOf(context, params.name!, spec.name);
    },
  },
  {
    method: 'GET',
    url: '/v1/bridges/:name/ports/:port',
    summary: 'One port',
    tag,
    reply: 'Port',
    handler: (context, { params }) => portOf(context, params.name!, params.port!),
  },
  {
    method: 'PUT',
    url: '/v1/bridges/:name/ports/:port',
    summary: 'Add a port or replace its columns',
    tag,
    body: 'PortSpec',
    reply: 'Port',
    handler: async (context, { params, body }) => {
      const spec = body as PortSpecMessage;
      sameName(params.port!, spec.name);
      await change(context.manager, (model) => {
        const before = findPort(model, params.name!, spec.name);
        return { kind: 'SetPort', bridge: params.name!, record: portRecord(spec, before) };
      });
      return portOf(context, params.name!, spec.name);
    },
  },
  {
    method: 'PATCH',
    url: '/v1/bridges/:name/ports/:port',
    summary: 'Replace the given columns of a port',
    tag,
    body: 'PortSpec',
    reply: 'Port',
    handler: async (context, { params, body }) => {
      sameName(params.port!, (body as PortSpecMessage).name);
      await change(context.manager, (model) => {
        const before = findPort(model, params.name!, params.port!);
        if (!before)
          throw new RequestError('no_such_port', `no port named ${params.port}`, { field: 'port', status: 404 });
        const spec = { ...portSpecMessage(before), ...(body as PortSpecMessage) };
        return { kind: 'SetPort', bridge: params.name!, record: portRecord(spec, before) };
      });
      return portOf(context, params.name!, params.port!);
    },
  },
  {
    method: 'DELETE',
    url: '/v1/bridges/:name/ports/:port',
    summary: 'Delete a port',
    tag,
    reply: 'Empty',
    handler: async (context, { params }) => {
      await change(context.manager, () => ({ kind: 'DeletePort', bridge: params.name!, name: params.port! }));
      return {};
    },
  },
  {
    method: 'GET',
    url: '/v1/bridges/:name/fdb',
    summary: 'Learnt MAC addresses',
    tag,
    query: PAGE_QUERY,
    reply: 'FdbList',
    handler: (context, request) =>
      paged(context, request, 'entries', () => context.manager.bridge(request.params.name!).fdb()),
  },
  {
    method: 'DELETE',
    url: '/v1/bridges/:name/fdb',
    summary: 'Forget all learnt MAC addresses',
    tag,
    reply: 'Empty',
    handler: async (context, { params }) => {
      await context.manager.bridge(params.name!).flushFdb();
      return {};
    },
  },
];
