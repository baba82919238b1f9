/**
 * The socket of a port: listens, or connects and tries again, and hands over one connection at a time.
 *
 * A socket file left by a dead process is removed; one that somebody listens on, and any other kind of file, is an error.
 * While a connection is in use, further ones wait in the socket's backlog: a guest that restarts faster than its old
 * connection is taken apart is served right after. One that connects without end is served so many times a second and no
 * more, so that it cannot have the thread that serves the other ports.
 */
import { chownSync, lstatSync, mkdirSync, statSync, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { accept, close, OsError, unixConnect, unixListen, unlinkIfSocket, Watcher } from '#contract/os.ts';
import type { SocketOwner } from '../options.ts';

const FIRST_RETRY_MS = 50;
const LAST_RETRY_MS = 250;
/** Connections that a listening socket takes at once, and per second in the long run. */
const MOST_AT_ONCE = 50;
const MOST_PER_SECOND = 50;
/** One that ended for a fault of the peer counts as so many: to map its memory and take it apart again costs milliseconds. */
const FAULT_COUNTS = 5;

export interface SocketSettings {
  /** `server`: the switch listens; `client`: the switch connects, again and again. */
  readonly mode: 'server' | 'client';
  readonly path: string;
  /** Permission bits of a listening socket; undefined: the umask's. */
  readonly socketMode: number | undefined;
  /** Owner and group of a listening socket. */
  readonly socketOwner: SocketOwner | undefined;
  /** A sequenced-packet socket instead of a stream. */
  readonly packets?: boolean;
}

export class Endpoint {
  readonly #settings: SocketSettings;
  /** Takes a connected descriptor over. */
  readonly #onConnection: (fd: number) => void;
  /** Says why a connection could not be had, once per cause. */
  readonly #onTrouble: (reason: string) => void;
  readonly #watcher: Watcher;
  #listener: Listener | undefined;
  #timer: NodeJS.Timeout | undefined;
  #delay = FIRST_RETRY_MS;
  #open = false;
  /** Connections that may be taken at `#allowedAt` (ms). */
  #allowed = MOST_AT_ONCE;
  #allowedAt = performance.now();

  constructor(settings: SocketSettings, onConnection: (fd: number) => void, onTrouble: (reason: string) => void) {
    this.#settings = settings;
    this.#onConnection = onConnection;
    this.#onTrouble = onTrouble;
    this.#watcher = new Watcher(() => this.#accept());
  }

  /** @throws Error when the path cannot be listened on. A client starts to connect and never throws. */
  start(): void {
    this.#open = true;
    if (this.#settings.mode === 'client') {
      this.#connect();
      return;
    }
    this.#listener = listenAt(this.#settings);
    this.#watcher.add(this.#listener.fd);
  }

  /** The connection handed over has ended, `faulty`: by what the peer did wrong. The next one may come. */
  released(faulty = false): void {
    if (faulty) {
      this.#allowed -= FAULT_COUNTS - 1;
      this.#delay = LAST_RETRY_MS;
    }
    if (!this.#open) return;
    if (this.#settings.mode === 'client') this.#later();
    else this.#listenAgain();
  }

  /** The connection came to life: the next retry starts early again. */
  healthy(): void {
    this.#delay = FIRST_RETRY_MS;
  }

  stop(): void {
    this.#open = false;
    clearTimeout(this.#timer);
    this.#watcher.close();
    this.#listener?.close();
    this.#listener = undefined;
  }

  #accept(): void {
    const listenFd = this.#listener!.fd;
    const fd = accept(listenFd);
    if (fd < 0) return;
    this.#watcher.remove(listenFd);
    this.#allowed--;
    this.#onConnection(fd);
  }

  #listenAgain(): void {
    clearTimeout(this.#timer);
    const now = performance.now();
    this.#allowed = Math.min(MOST_AT_ONCE, this.#allowed + ((now - this.#allowedAt) * MOST_PER_SECOND) / 1000);
    this.#allowedAt = now;
    if (this.#allowed >= 1) this.#watcher.add(this.#listener!.fd);
    else this.#timer = setTimeout(() => this.#listenAgain(), ((1 - this.#allowed) * 1000) / MOST_PER_SECOND);
  }

  #connect(): void {
    let fd: number;
    try {
      fd = unixConnect(this.#settings.path, { packets: this.#settings.packets ?? false });
    } catch (error) {
      this.#onTrouble((error as Error).message);
      this.#later();
      return;
    }
    this.#onConnection(fd);
  }

  #later(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), this.#delay);
    this.#delay = Math.min(2 * this.#delay, LAST_RETRY_MS);
  }
}

/** A listening socket. */
export interface Listener {
  readonly fd: number;
  /** Stops listening and removes the path. */
  close(): void;
}

/** @throws Error when the path cannot be listened on; says what to do. */
export function listenAt({ path, socketMode, socketOwner, packets = false }: Omit<SocketSettings, 'mode'>): Listener {
  makeParent(path);
  removeStale(path, packets);
  const fd = unixListen(path, socketMode === undefined ? { packets } : { packets, mode: socketMode });
  const inode = lstatSync(path).ino;
  const listener = {
    fd,
    close: () => {
      close(fd);
      // Another process may have put its own socket there.
      if (lstatSync(path, { throwIfNoEntry: false })?.ino === inode) unlinkIfSocket(path);
    },
  };
  if (!socketOwner) return listener;
  const { uid, gid } = socketOwner;
  try {
    chownSync(path, uid < 0 ? process.getuid!() : uid, gid < 0 ? process.getgid!() : gid);
  } catch (error) {
    listener.close();
    throw new Error(`option socket-owner: ${(error as Error).message}`);
  }
  return listener;
}

/**
 * Makes the folder of a socket where only that is missing. Not the folders above it: in a file system that refuses new
 * folders (/proc) Node's recursive mkdir never comes back (Node 26.10).
 * @throws Error that names the folder and says what to do.
 */
function makeParent(path: string): void {
  const folder = dirname(path);
  try {
    if (statSync(folder).isDirectory()) return;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return makeFolder(folder);
    throw new Error(`${folder}: ${(error as Error).message}; choose another path`);
  }
  throw new Error(`${folder} is not a folder; choose another path`);
}

function makeFolder(folder: string): void {
  try {
    mkdirSync(folder);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // Another port made it just now.
    if (code === 'EEXIST') return;
    throw new Error(`folder ${folder} cannot be made (${code ?? message}); make it, or choose another path`);
  }
}

/** @throws Error when the path is in use, or holds something that is not a socket. */
function removeStale(path: string, packets: boolean): void {
  const about = lstatSync(path, { throwIfNoEntry: false });
  if (!about) return;
  if (!about.isSocket()) throw new Error(`${path} exists and is not a socket; remove it or choose another path`);
  try {
    close(unixConnect(path, { packets }));
  } catch (error) {
    const code = error instanceof OsError ? error.code : '';
    // ECONNREFUSED: nobody listens. ENOENT: it went away just now. EPROTOTYPE: somebody does, on a socket of the other kind.
    if (code === 'ECONNREFUSED') unlinkSync(path);
    else if (code !== 'ENOENT' && code !== 'EPROTOTYPE') throw error;
    if (code !== 'EPROTOTYPE') return;
  }
  throw new Error(`another process listens on ${path}; stop it or choose another path`);
}
