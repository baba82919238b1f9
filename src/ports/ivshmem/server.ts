/**
 * One client of the ivshmem server: what it is told, message by message, and the end of its connection.
 *
 * A client may read as slowly as it likes. What waits for it is bounded: news of a peer that left before its coming was
 * told is dropped with the coming, so that at most one departure and one arrival wait for each peer.
 *
 * The protocol has no message from client to server: a client that sends anything is not one, and is cut off.
 */
import {
  close,
  EAGAIN,
  ECONNRESET,
  EPIPE,
  errnoName,
  READABLE,
  recvWithFds,
  sendWithFds,
  Watcher,
  WRITABLE,
} from '#contract/os.ts';
import { encodeMessage, MESSAGE_BYTES, PROTOCOL_VERSION, SHARED_MEMORY } from './wire.ts';

/** A peer as others see it: its id, and the eventfds that interrupt it, by vector. */
export interface Peer {
  readonly id: number;
  readonly vectors: readonly number[];
}

/** What a new client is told of itself and of the shared memory. Descriptors stay open until the connection has ended. */
export interface Welcome {
  readonly memoryFd: number;
  readonly self: Peer;
  readonly others: readonly Peer[];
}

interface Waiting {
  readonly value: number;
  /** -1: none. */
  readonly fd: number;
}

export class ClientConnection {
  readonly #fd: number;
  /** `reason` is empty when the client just went. */
  readonly #onEnd: (reason: string) => void;
  readonly #watcher: Watcher;
  readonly #self: number;
  #waiting: Waiting[] = [];
  /** Bytes sent of the first message that waits. */
  #sent = 0;
  /** Peers of which the client has been told at least one vector. */
  readonly #shown = new Set<number>();
  readonly #scrap = new Uint8Array(256);
  // No room: descriptors that come in are closed.
  readonly #noFds = new Int32Array(1);
  readonly #one = new Int32Array(1);
  #open = true;

  /** Takes the connected descriptor over. `onEnd` is called once, never from within the constructor. */
  constructor(fd: number, { memoryFd, self, others }: Welcome, onEnd: (reason: string) => void) {
    this.#fd = fd;
    this.#self = self.id;
    this.#onEnd = onEnd;
    this.#say(PROTOCOL_VERSION);
    this.#say(self.id);
    this.#say(SHARED_MEMORY, memoryFd);
    for (const peer of others) this.#introduce(peer);
    this.#introduce(self);
    this.#watcher = new Watcher((_, events) => this.#ready(events));
    this.#watcher.add(fd, READABLE | WRITABLE);
  }

  /** True when the client has been told all there is. */
  get told(): boolean {
    return this.#waiting.length === 0;
  }

  /** Messages that wait for the client to read. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Another peer came. Its descriptors must stay open until `gone`. */
  joined(peer: Peer): void {
    if (!this.#open) return;
    this.#introduce(peer);
    this.#flush();
  }

  /** Another peer went: its descriptors may be closed. */
  gone(id: number): void {
    if (!this.#open) return;
    const begun = this.#sent > 0 ? this.#waiting[0] : undefined;
    this.#waiting = this.#waiting.filter((message) => message === begun || message.value !== id || message.fd < 0);
    if (this.#shown.delete(id)) this.#say(id);
    this.#flush();
  }

  /** Ends the connection; `reason` goes to `onEnd`. */
  end(reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    this.#waiting = [];
    this.#watcher.close();
    close(this.#fd);
    this.#onEnd(reason);
  }

  #introduce({ id, vectors }: Peer): void {
    for (const fd of vectors) this.#say(id, fd);
  }

  #say(value: number, fd = -1): void {
    this.#waiting.push({ value, fd });
  }

  #ready(events: number): void {
    if ((events & ~WRITABLE) !== 0) this.#listen();
    if (this.#open) this.#flush();
  }

  #listen(): void {
    const got = recvWithFds(this.#fd, this.#scrap, 0, this.#scrap.length, this.#noFds);
    if (got === -EAGAIN) return;
    if (got === 0 || got === -ECONNRESET) this.end('');
    else if (got < 0) this.end(`receiving failed: ${errnoName(got)}`);
    else this.end('the client sent something; the ivshmem protocol has no message from client to server');
  }

  #flush(): void {
    while (this.#waiting.length > 0) {
      const { value, fd } = this.#waiting[0]!;
      const bytes = encodeMessage(value);
      this.#one[0] = fd;
      // The descriptor goes with the first byte.
      const withFd = fd >= 0 && this.#sent === 0 ? 1 : 0;
      const sent = sendWithFds(this.#fd, bytes, this.#sent, MESSAGE_BYTES - this.#sent, this.#one, withFd);
      if (sent === -EAGAIN) break;
      if (sent < 0) {
        this.end(sent === -EPIPE || sent === -ECONNRESET ? '' : `sending failed: ${errnoName(sent)}`);
        return;
      }
      if (fd >= 0 && value >= 0 && value !== this.#self) this.#shown.add(value);
      this.#sent += sent;
      if (this.#sent < MESSAGE_BYTES) continue;
      this.#sent = 0;
      this.#waiting.shift();
    }
    this.#watcher.modify(this.#fd, this.#waiting.length > 0 ? READABLE | WRITABLE : READABLE);
  }
}
