/** Requests to the data plane, each matched with its reply by number. */
import type { Channel } from '#contract/channel.ts';
import {
  encodeRequest,
  type FlowMessage,
  type FromDatapath,
  type RequestBodies,
  type RequestName,
} from '#contract/messages.ts';
import { RequestError } from './api.ts';

const REQUEST_LIMIT_MS = 30_000;

interface Waiting {
  resolve(message: FromDatapath): void;
  reject(error: Error): void;
  /** Parts of a long reply so far. */
  flows: FlowMessage[];
}

export class DatapathRequests {
  #next = 1;
  readonly #waiting = new Map<number, Waiting>();

  /** Resolves with the whole reply. @throws RequestError: the data plane's own, or `timeout`. */
  send<N extends RequestName>(
    channel: Channel,
    name: N,
    body: RequestBodies[N],
    fds: readonly number[] = [],
  ): Promise<FromDatapath> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(
          new RequestError('timeout', `the data plane did not answer ${name} in ${REQUEST_LIMIT_MS} ms`, {
            status: 503,
          }),
        );
      }, REQUEST_LIMIT_MS);
      timer.unref();
      const done = <A>(act: (a: A) => void) => {
        return (a: A): void => {
          clearTimeout(timer);
          act(a);
        };
      };
      this.#waiting.set(id, { resolve: done(resolve), reject: done(reject), flows: [] });
      channel.send(encodeRequest({ id, [name]: body }), fds);
    });
  }

  /** Takes a message that answers a request, or part of one. */
  settle(message: FromDatapath): void {
    const waiting = this.#waiting.get(message.id);
    if (!waiting) return;
    if (message.flows) {
      for (const flow of message.flows.flows) waiting.flows.push(flow);
      if (message.flows.more) return;
      message.flows.flows = waiting.flows;
    }
    this.#waiting.delete(message.id);
    if (message.error) {
      const { code, message: text } = message.error;
      waiting.reject(new RequestError(code, text, { status: code === 'exists' ? 409 : 400 }));
    } else waiting.resolve(message);
  }

  /** No reply will come any more. */
  rejectAll(why: Error): void {
    for (const waiting of this.#waiting.values()) waiting.reject(why);
    this.#waiting.clear();
  }
}
