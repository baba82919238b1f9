/**
 * Paging through lists. The rest of a list is kept as it was at the first page, so that what changes between two pages
 * neither skips nor doubles an entry.
 */
import { randomBytes } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { RequestError } from '#ofproto/api.ts';

export const DEFAULT_LIMIT = 1000;
export const MAX_LIMIT = 10_000;
/** Lists kept for a next page, and for how long (ms). */
const KEPT_LISTS = 8;
const KEPT_FOR = 60_000;

export interface Page<T> {
  readonly items: readonly T[];
  /** Empty at the end. */
  readonly nextPage: string;
  readonly total: number;
}

export interface PageQuery {
  readonly limit?: string;
  readonly page?: string;
}

export class Pager {
  readonly #lists = new LRUCache<string, readonly unknown[]>({ max: KEPT_LISTS, ttl: KEPT_FOR });

  /** @param list is called for the first page only. @throws RequestError page_expired */
  page<T>(query: PageQuery, list: () => readonly T[]): Page<T> {
    const limit = query.limit === undefined ? DEFAULT_LIMIT : Number(query.limit);
    if (!(limit >= 1 && limit <= MAX_LIMIT)) {
      throw new RequestError('bad_value', `limit must be 1 to ${MAX_LIMIT}`, { field: 'limit' });
    }
    if (query.page === undefined) return this.#cut(randomBytes(9).toString('base64url'), list(), 0, limit);
    const [key = '', from = ''] = query.page.split('.');
    const kept = this.#lists.get(key) as readonly T[] | undefined;
    if (!kept || !/^\d{1,9}$/.test(from)) {
      throw new RequestError('page_expired', 'this page is no longer kept', {
        field: 'page',
        hint: 'start again without `page`',
        status: 404,
      });
    }
    return this.#cut(key, kept, Number(from), limit);
  }

  #cut<T>(key: string, list: readonly T[], from: number, limit: number): Page<T> {
    const end = from + limit;
    const more = end < list.length;
    if (more) this.#lists.set(key, list);
    else this.#lists.delete(key);
    return { items: list.slice(from, end), nextPage: more ? `${key}.${end}` : '', total: list.length };
  }
}
