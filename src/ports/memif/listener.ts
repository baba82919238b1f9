/**
 * Listening sockets, each shared by all server ports of its path: greets a client, reads the INIT by which it says which
 * interface it wants, and hands the connection to that port.
 *
 * Clients that have not said so yet are few: the oldest goes when there are too many.
 */
import { timingSafeEqual } from 'node:crypto';
import { accept, Watcher } from '#contract/os.ts';
import { type Listener, listenAt } from '../socket/endpoint.ts';
import { Channel } from './channel.ts';
import { APP_NAME } from './client.ts';
import type { Settings } from './options.ts';
import * as wire from './wire.ts';

const MAX_WAITING = 16;

/** A port that clients can ask for by its id. */
export interface Interface {
  readonly name: string;
  readonly settings: Settings;
  /** Takes a connection over and answers its INIT. @throws Error when it cannot: the client is told why. */
  take(channel: Channel, init: wire.Init): Promise<void>;
  /** A client that was refused, and why. */
  refused(reason: string): void;
}

class SharedListener {
  readonly settings: Settings;
  readonly interfaces = new Map<number, Interface>();
  readonly #listener: Listener;
  readonly #watcher: Watcher;
  readonly #waiting = new Set<Channel>();

  constructor(settings: Settings) {
    this.settings = settings;
    this.#listener = listenAt(settings);
    this.#watcher = new Watcher(() => this.#accept());
    this.#watcher.add(this.#listener.fd);
  }

  close(): void {
    this.#watcher.close();
    this.#listener.close();
    for (const channel of this.#waiting) channel.end('the port was removed');
  }

  #accept(): void {
    const fd = accept(this.#listener.fd);
    if (fd < 0) return;
    const channel = new Channel(
      fd,
      'client',
      (type, bytes) => this.#greeted(channel, type, bytes),
      () => void this.#waiting.delete(channel),
    );
    this.#waiting.add(channel);
    const [oldest] = this.#waiting;
    if (this.#waiting.size > MAX_WAITING) oldest!.end('too many connections that ask for no interface');
    channel.send(this.#hello());
  }

  #hello(): Uint8Array {
    const queues = Math.max(...[...this.interfaces.values()].map(({ settings }) => settings.queues));
    return wire.encodeHello({
      name: APP_NAME,
      minVersion: wire.VERSION,
      maxVersion: wire.VERSION,
      maxRegion: wire.MAX_REGIONS - 1,
      maxM2sRing: queues - 1,
      maxS2mRing: queues - 1,
      maxLog2RingSize: wire.MAX_LOG2_RING_SIZE,
    });
  }

  async #greeted(channel: Channel, type: number, bytes: Uint8Array): Promise<void> {
    if (type !== wire.INIT) throw new Error(`${wire.MESSAGES.get(type)!.name} came before INIT`);
    const init = wire.INIT_LAYOUT.decode(bytes, 2);
    if (init.version !== wire.VERSION) throw new Error(`INIT is of version 0x${init.version.toString(16)}, not 0x200`);
    const found = this.interfaces.get(init.id);
    if (!found) throw new Error(`no interface has the id ${init.id}; ids here are ${[...this.interfaces.keys()]}`);
    try {
      if (init.mode !== wire.MODE_ETHERNET) throw new Error(`interface mode ${init.mode} is not ethernet (0)`);
      checkSecret(found.settings.secret, init.secret);
      await found.take(channel, init);
    } catch (error) {
      const { message } = error as Error;
      found.refused(message);
      throw error;
    }
    this.#waiting.delete(channel);
  }
}

function checkSecret(wanted: string, given: string): void {
  if (wanted === '') return;
  if (given === '') throw new Error('secret required');
  const field = (text: string) => {
    const bytes = Buffer.alloc(wire.SECRET_BYTES * 4);
    bytes.write(text);
    return bytes;
  };
  if (!timingSafeEqual(field(wanted), field(given))) throw new Error('wrong secret');
}

const listeners = new Map<string, SharedListener>();

/**
 * Has clients that ask for the id of `wanted` at its path.
 * @returns how to end that; the socket goes with its last port.
 * @throws Error when the path cannot be listened on, or its id is taken.
 */
export function listen(wanted: Interface): () => void {
  const { settings } = wanted;
  const { path, id } = settings;
  let shared = listeners.get(path);
  const other = shared?.interfaces.get(id);
  if (other)
    throw new Error(`port ${other.name} has id ${id} on ${path}; give each port there an option id of its own`);
  if (shared && permissions(shared.settings) !== permissions(settings)) {
    throw new Error(`options socket-mode and socket-owner must be those of the other ports on ${path}`);
  }
  if (!shared) {
    shared = new SharedListener(settings);
    listeners.set(path, shared);
  }
  const mine = shared;
  mine.interfaces.set(id, wanted);
  return () => {
    mine.interfaces.delete(id);
    if (mine.interfaces.size > 0) return;
    listeners.delete(path);
    mine.close();
  };
}

const permissions = ({ socketMode, socketOwner }: Settings): string => JSON.stringify([socketMode, socketOwner]);
