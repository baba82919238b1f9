/**
 * The HTTP API as a fastify application: routes from the tables in routes/, bodies in JSON or protobuf, requests checked
 * against the schemas of messages.ts, errors as ErrorReply. server.ts gives it its sockets.
 */
import { Readable } from 'node:stream';
import swagger from '@fastify/swagger';
import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { RequestError } from '#ofproto/api.ts';
import { decodeMessage, encodeMessage, type JsonSchema, MESSAGE_NAMES, messageSchema } from './messages.ts';
import type { Metrics } from './metrics.ts';
import type { Route, RouteContext } from './route.ts';
import { bridgeRoutes } from './routes/bridges.ts';
import { configRoutes } from './routes/config.ts';
import { daemonRoutes } from './routes/daemon.ts';
import { datapathRoutes } from './routes/datapath.ts';
import { openflowRoutes } from './routes/openflow.ts';
import { tunnelRoutes } from './routes/tunnels.ts';
import { validationError } from './validation-error.ts';

export const PROTOBUF = 'application/x-protobuf';
const BODY_LIMIT = 1 << 20;

export const ROUTES: readonly Route[] = [
  ...daemonRoutes,
  ...configRoutes,
  ...bridgeRoutes,
  ...openflowRoutes,
  ...tunnelRoutes,
  ...datapathRoutes,
];

declare module 'fastify' {
  interface FastifyContextConfig {
    route?: Route;
  }
}

const wantsProtobuf = (request: FastifyRequest): boolean => (request.headers.accept ?? '').includes(PROTOBUF);

function answer(request: FastifyRequest, reply: FastifyReply, name: string, message: object): object {
  if (!wantsProtobuf(request)) return message;
  reply.type(PROTOBUF).serializer((payload) => encodeMessage(name, payload as object) as unknown as string);
  return message;
}

function toRequestError(error: FastifyError | RequestError): RequestError {
  if (error instanceof RequestError) return error;
  if (error.validation) return validationError(error);
  const status = error.statusCode ?? 500;
  // What went wrong inside is for the log.
  if (status >= 500)
    return new RequestError('internal', 'internal error', { status, hint: 'see the log of rw-vswitchd' });
  const hints: Readonly<Record<string, string>> = {
    FST_ERR_CTP_BODY_TOO_LARGE: 'send it in several requests',
    FST_ERR_CTP_INVALID_MEDIA_TYPE: `send application/json or ${PROTOBUF}`,
  };
  return new RequestError('invalid_request', error.message, { status, field: 'body', hint: hints[error.code] ?? '' });
}

export interface ApiLog {
  error(details: object, message: string): void;
}

/** Builds the application; nothing listens yet. */
export async function buildApi(context: RouteContext, metrics: Metrics, log: ApiLog): Promise<FastifyInstance> {
  const app = Fastify({
    bodyLimit: BODY_LIMIT,
    routerOptions: { maxParamLength: 200 },
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: false, allErrors: false } },
  });
  for (const name of MESSAGE_NAMES) app.addSchema(messageSchema(name));
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const told = toRequestError(error);
    if (told.status >= 500) log.error({ error, method: request.method, url: request.url }, 'request failed');
    const { code, field, message, hint } = told;
    reply.code(told.status).send(answer(request, reply, 'ErrorReply', { error: { code, field, message, hint } }));
  });
  app.setNotFoundHandler((request) => {
    throw new RequestError('no_such_route', `there is no ${request.method} ${request.url.split('?')[0]}`, {
      status: 404,
      hint: 'see /openapi.json',
    });
  });
  addParsers(app);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Ringway', description: 'A userspace virtual switch', version: context.version },
      servers: [{ url: '/' }],
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
    },
    refResolver: { buildLocalReference: (json) => String(json.$id) },
  });
  for (const route of ROUTES) addRoute(app, route, context);
  app.get('/openapi.json', { schema: { hide: true } }, () => app.swagger());
  app.get('/metrics', { schema: { hide: true } }, async (_request, reply) => {
    reply.type(metrics.contentType);
    return metrics.text();
  });
  await app.ready();
  return app;
}

function addParsers(app: FastifyInstance): void {
  app.addContentTypeParser(PROTOBUF, { parseAs: 'buffer' }, (request, body, done) => {
    const name = request.routeOptions.config.route?.body;
    if (!name) return done(new RequestError('invalid_request', 'this request takes no body', { field: 'body' }));
    try {
      done(null, decodeMessage(name, body as Buffer));
    } catch (error) {
      done(new RequestError('invalid_request', `not a ${name}: ${(error as Error).message}`, { field: 'body' }));
    }
  });
  app.addContentTypeParser('text/plain', { parseAs: 'string' }, (request, body, done) => {
    if (request.routeOptions.config.route?.text) return done(null, body);
    const hint = `send application/json or ${PROTOBUF}`;
    done(new RequestError('invalid_request', 'this request takes no text', { field: 'body', hint, status: 415 }));
  });
}

function addRoute(app: FastifyInstance, route: Route, context: RouteContext): void {
  const content = (name: string): JsonSchema => {
    const schema = { $ref: `${name}#` };
    return { content: { 'application/json': { schema }, [PROTOBUF]: { schema } } };
  };
  const done = content(route.reply) as { content: Record<string, JsonSchema> };
  if (route.textReply) done.content['text/plain'] = { schema: { type: 'string' } };
  const names = [...route.url.matchAll(/:(\w+)/g)].map((found) => found[1]!);
  const properties = (fields: Readonly<Record<string, string>>): JsonSchema =>
    Object.fromEntries(Object.entries(fields).map(([name, description]) => [name, { type: 'string', description }]));
  const schema: JsonSchema = {
    summary: route.summary,
    tags: [route.tag],
    querystring: { type: 'object', properties: properties(route.query ?? {}), additionalProperties: false },
    response: {
      200: { description: 'Done', ...done },
      default: { description: 'It cannot be done', ...content('ErrorReply') },
    },
  };
  if (names.length > 0) {
    const params = Object.fromEntries(names.map((name) => [name, { type: 'string', minLength: 1, maxLength: 63 }]));
    schema.params = { type: 'object', properties: params, required: names };
  }
  if (route.body) {
    const body = content(route.body) as { content: Record<string, JsonSchema> };
    if (route.text) body.content['text/plain'] = { schema: { type: 'string', description: route.text } };
    schema.body = body;
  }
  app.route({
    method: route.method,
    url: route.url,
    schema,
    config: { route },
    ...(route.bodyLimit ? { bodyLimit: route.bodyLimit } : {}),
    handler: async (request, reply) => {
      if (route.body && request.body === undefined) {
        throw new RequestError('invalid_request', 'body is missing', { field: 'body', hint: `send a ${route.body}` });
      }
      const asked = {
        params: request.params as Record<string, string>,
        query: request.query as Record<string, string>,
        body: request.body,
      };
      if (route.textReply && request.headers.accept === 'text/plain') {
        return reply.type('text/plain; charset=utf-8').send(Readable.from(route.textReply(context, asked)));
      }
      const message = await route.handler(context, asked);
      return answer(request, reply, route.reply, message);
    },
  });
}
