/**
 * The client's end of the ivshmem server protocol: what the server tells, kept for whoever maps the memory.
 *
 * The server says who is there and nothing else; the client never says anything. Descriptors of other guests are closed at
 * once: a guest of this switch talks to the switch only.
 */
import { close, EAGAIN, ECONNRESET, errnoName, READABLE, recvWithFds, unixConnect, Watcher } from '#contract/os.ts';
import { type ServerMessage, ServerMessages, SWITCH_ID } from '#ports/ivshmem/wire.ts';

const HUNG_UP = 'the switch hung up';

export class ServerConnection {
  /** This guest's id; -1 until told. */
  id = -1;
  /** The shared object; -1 until told. The connection closes it, a mapping outlives that. */
  memoryFd = -1;
  /** Event descriptors by vector: those that interrupt this guest, and those that interrupt the switch. */
  readonly own: number[] = [];
  readonly ofSwitch: number[] = [];
  /** Called after every message. */
  onNews: () => void = () => {};
  /** Called once when the connection is lost or `close` was called. */
  onClose: (reason: string) => void = () => {};

  readonly #fd: number;
  readonly #watcher: Watcher;
  readonly #messages = new ServerMessages();
  readonly #bytes = new Uint8Array(64);
  readonly #fds = new Int32Array(2);
  /** Came with a message that is not all here. */
  #pendingFd = -1;
  #closed = false;

  /** @throws OsError when nobody listens at `path`. */
  constructor(path: string) {
    this.#fd = unixConnect(path);
    this.#watcher = new Watcher(() => this.#receive());
    this.#watcher.add(this.#fd, READABLE);
  }

  get closed(): boolean {
    return this.#closed;
  }

  close(reason = 'closed by the guest'): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher.close();
    for (const fd of [this.#fd, this.memoryFd, this.#pendingFd, ...this.own, ...this.ofSwitch]) if (fd >= 0) close(fd);
    this.memoryFd = -1;
    this.own.length = 0;
    this.ofSwitch.length = 0;
    this.onClose(reason);
  }

  #receive(): void {
    while (!this.#closed) {
      const got = recvWithFds(this.#fd, this.#bytes, 0, this.#messages.want, this.#fds);
      if (got === -EAGAIN) return;
      if (got === 0 || got === -ECONNRESET) return this.close(HUNG_UP);
      if (got < 0) return this.close(`receiving failed: ${errnoName(got)}`);
      const fd = this.#fds[0]! > 0 ? this.#fds[1]! : -1;
      try {
        const message = this.#messages.push(this.#bytes.subarray(0, got), fd);
        if (fd >= 0) this.#pendingFd = fd;
        if (message) this.#take(message);
      } catch (error) {
        if (fd >= 0 && fd !== this.#pendingFd) close(fd);
        this.close((error as Error).message);
      }
    }
  }

  #take(message: ServerMessage): void {
    this.#pendingFd = -1;
    switch (message.kind) {
      case 'id':
        this.id = message.id;
        break;
      case 'memory':
        this.memoryFd = message.fd;
        break;
      case 'vector':
        if (message.id === this.id) this.own.push(message.fd);
        else if (message.id === SWITCH_ID) this.ofSwitch.push(message.fd);
        else close(message.fd);
        break;
      case 'gone':
        if (message.id === SWITCH_ID) return this.close('the switch left the shared memory');
        break;
    }
    this.onNews();
  }
}
