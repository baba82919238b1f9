/**
 * Cases of messages: one conversation with a device, whose rings (if it comes to that) are polled between messages. Each
 * message must be obeyed or refused by name, and in the end nothing may stay open, mapped or attached.
 */
import { closeSync, constants, openSync, readdirSync } from 'node:fs';
import { PORT_ROW } from '#contract/catalogue.ts';
import { close, dup, eventfd, memfd, pipe, socketPair } from '#contract/os.ts';
import { PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import type { WorkerPort } from '#ports/port.ts';
import { RefusedError, VhostUserDevice } from '#ports/vhost-user/device.ts';
import { vhostPort } from '#ports/vhost-user/factory.ts';
import { parseOptions } from '#ports/vhost-user/options.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { type FdKind, FILE_BYTES, type FuzzMessage } from './messages.ts';

const list = Int32Array.from({ length: SLOTS }, (_, i) => i);

export interface Conversation {
  readonly fault: string;
  readonly obeyed: number;
  readonly refused: number;
  readonly attached: number;
}

export class MessageRig {
  readonly batch = new PacketBatch();
  readonly #dir: string;
  readonly #file = memfd('fuzz', FILE_BYTES);
  readonly #short = memfd('short', 4096);
  readonly #readOnly: number;
  readonly #sockets = socketPair();
  readonly #pipe = pipe();
  readonly #null = openSync('/dev/null', constants.O_RDWR);
  readonly #settings;

  /** @param dir for the journal of rings in flight. */
  constructor(dir: string) {
    this.#dir = dir;
    this.#readOnly = openSync(`/proc/self/fd/${this.#file}`, constants.O_RDONLY);
    const config = { portNo: 1, name: 'p', type: 'vhost-user', options: { n_rxq: '2' }, mtu: 1500 };
    this.#settings = parseOptions(config, dir);
  }

  /** Descriptors that this process has. */
  static open(): number {
    return readdirSync('/proc/self/fd').length;
  }

  async run(messages: readonly FuzzMessage[]): Promise<Conversation> {
    let port: WorkerPort | undefined;
    let attached = 0;
    let obeyed = 0;
    let refused = 0;
    const { batch } = this;
    const device = new VhostUserDevice({
      portNo: 1,
      mtu: 1500,
      settings: this.#settings,
      rundir: this.#dir,
      attach: async (attachment) => {
        const counters = { slots: new Float64Array(PORT_ROW), base: 0 };
        const previous = port;
        attached++;
        port = attachment && vhostPort(attachment, { worker: 0, workers: 1, counters, batch }, previous);
        if (!attachment) previous?.close();
      },
    });
    let fault = '';
    for (const { code, needReply, payload, fds } of messages) {
      const given = fds.map((kind) => this.#fd(kind));
      const flags = wire.VERSION | (needReply ? wire.FLAG_NEED_REPLY : 0);
      try {
        const reply = await device.handle({ code, flags, payload }, given);
        if (reply && reply.fd >= 0) close(reply.fd);
        obeyed++;
      } catch (error) {
        if (error instanceof RefusedError) refused++;
        else fault ||= `${wire.MESSAGES.get(code)?.name ?? code}: ${(error as Error).stack}`;
      }
      for (const fd of given) if (fd >= 0) close(fd);
      for (const rx of port?.rx ?? []) {
        const n = rx.poll(batch);
        if (n > 0) port!.tx?.push(batch, list, n);
        batch.copy();
        port!.tx?.publish();
        rx.complete();
        batch.clear();
      }
    }
    await device.close();
    // Buffers that were let go are finalized between turns of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
    if (port !== undefined) fault ||= 'the workers kept their view of a device that was closed';
    if (batch.copyLogs.length > 0 || batch.journal) fault ||= 'a log or a journal stayed with the batch';
    return { fault, obeyed, refused, attached };
  }

  close(): void {
    for (const fd of [this.#file, this.#short, ...this.#sockets, ...this.#pipe]) close(fd);
    for (const fd of [this.#readOnly, this.#null]) closeSync(fd);
  }

  #fd(kind: FdKind): number {
    switch (kind) {
      case 'event':
        return eventfd();
      case 'memory':
        return dup(this.#file);
      case 'short memory':
        return dup(this.#short);
      case 'read-only':
        return dup(this.#readOnly);
      case 'socket':
        return dup(this.#sockets[0]);
      case 'pipe':
        return dup(this.#pipe[1]);
      case 'null':
        return dup(this.#null);
    }
  }
}
