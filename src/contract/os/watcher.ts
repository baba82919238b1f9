/** Watching descriptors from the event loop. Part of os.ts, whose rules hold here. */
import { native } from '#native';
import { checked, OsError } from './result.ts';

/** Event bits of `Watcher` (epoll_ctl(2)). HANGUP and ERROR are always reported. */
export const READABLE = 0x001;
export const WRITABLE = 0x004;
export const ERROR = 0x008;
export const HANGUP = 0x010;

interface Watch {
  id: number;
  fd: number;
  events: number;
  watcher: Watcher;
}

// One epoll set serves all watchers of this thread. Ids are never reused, so that an event that was on its way when
// its registration went away finds nothing here.
const watches = new Map<number, Watch>();
let nextWatchId = 1;
let reactorRunning = false;
let keepingAlive = 0;

const dispatch = (id: number, events: number): void => {
  const watch = watches.get(id);
  if (!watch) return;
  try {
    watch.watcher.onReady(watch.fd, events);
  } finally {
    // The callback may have removed, or closed, its descriptor.
    if (watches.get(id) === watch && native.watchSet(watch.fd, id, watch.events) < 0) watch.watcher.remove(watch.fd);
  }
};

/**
 * Calls `onReady(fd, events)` on the event loop while a descriptor is ready. A callback need not drain its descriptor: it is
 * called again, never twice at once. After `remove` no call for that registration follows, whatever was on its way.
 * Remove a descriptor before closing it. With `unref` the watcher does not keep the process alive.
 */
export class Watcher {
  readonly onReady: (fd: number, events: number) => void;
  readonly #unref: boolean;
  readonly #byFd = new Map<number, Watch>();

  constructor(onReady: (fd: number, events: number) => void, options: { unref?: boolean } = {}) {
    this.onReady = onReady;
    this.#unref = options.unref ?? false;
  }

  /** Watches a descriptor for READABLE and/or WRITABLE. Replaces an earlier registration of the same number. */
  add(fd: number, events: number = READABLE): void {
    if (!reactorRunning) {
      checked('epoll_create', native.watchStart(dispatch));
      reactorRunning = true;
    }
    if (this.#byFd.has(fd)) this.remove(fd);
    const watch: Watch = { id: nextWatchId++, fd, events, watcher: this };
    checked('epoll_ctl', native.watchSet(fd, watch.id, events), String(fd));
    watches.set(watch.id, watch);
    this.#byFd.set(fd, watch);
    if (!this.#unref && keepingAlive++ === 0) native.watchRef(true);
  }

  /** Changes the awaited events; 0 pauses all but HANGUP and ERROR. Errors: ENOENT when the descriptor is not watched. */
  modify(fd: number, events: number): void {
    const watch = this.#byFd.get(fd);
    if (!watch) throw new OsError('epoll_ctl', 2, String(fd));
    watch.events = events;
    checked('epoll_ctl', native.watchSet(fd, watch.id, events), String(fd));
  }

  /** Ends the watch of a descriptor; nothing happens if there is none. */
  remove(fd: number): void {
    const watch = this.#byFd.get(fd);
    if (!watch) return;
    this.#byFd.delete(fd);
    watches.delete(watch.id);
    // Fails only for a descriptor that was closed before, whose registration is gone then.
    native.watchRemove(fd);
    if (!this.#unref && --keepingAlive === 0) native.watchRef(false);
  }

  has(fd: number): boolean {
    return this.#byFd.has(fd);
  }

  /** Removes all descriptors; they stay open. */
  close(): void {
    for (const fd of this.#byFd.keys()) this.remove(fd);
  }
}
