/** What a route is: one table entry from which fastify's route, its checks and its OpenAPI page are made. */
import type { Coverage } from './coverage.ts';
import type { Manager } from './manager.ts';
import type { Message } from './messages.ts';
import type { PageQuery, Pager } from './paging.ts';

export interface RouteContext {
  readonly manager: Manager;
  readonly pager: Pager;
  readonly coverage: Coverage;
  readonly version: string;
  /** Ends the daemon soon after the reply. */
  readonly exit: (keepDatapath: boolean) => void;
}

export interface RouteRequest {
  readonly params: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string>>;
  /** A message, or text where the route takes it. */
  readonly body: unknown;
}

export interface Route {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly url: string;
  readonly summary: string;
  readonly tag: string;
  /** Query parameters → what they mean. */
  readonly query?: Readonly<Record<string, string>>;
  /** Name of the request message. */
  readonly body?: string;
  /** What a text/plain body is; absent: none is taken. */
  readonly text?: string;
  /** Name of the reply message. */
  readonly reply: string;
  /** The reply where text/plain is asked for, in pieces. */
  readonly textReply?: (context: RouteContext, request: RouteRequest) => Iterable<string>;
  /** Largest body in bytes. */
  readonly bodyLimit?: number;
  readonly handler: (context: RouteContext, request: RouteRequest) => Message | Promise<Message>;
}

/** For flow and group sets of MAX_MODS entries. */
export const LARGE_BODY = 64 << 20;

export const PAGE_QUERY = {
  limit: 'Most entries of one page, 1 to 10000; 1000 without it.',
  page: '`nextPage` of the page before.',
} as const;

/** A list reply: `name` is the field that holds the entries. */
export function paged<T>(
  context: RouteContext,
  request: RouteRequest,
  name: string,
  list: () => readonly T[],
): Message {
  const { items, nextPage, total } = context.pager.page(request.query as PageQuery, list);
  return { [name]: items, nextPage, total };
}
