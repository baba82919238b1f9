/**
 * The control channel of a connection: whole messages in, one after the other, and out, with at most one descriptor each.
 *
 * While a message is being obeyed nothing is read, so that order and memory stay bounded. The end of the channel, for
 * whatever cause, is told once; where this side ends it, the peer is told why by a DISCONNECT.
 */
import { close, EAGAIN, errnoName, recvWithFds, sendWithFds, Watcher, WRITABLE } from '#contract/os.ts';
import { checkMessage, DISCONNECT, DISCONNECT_LAYOUT, encodeDisconnect, MESSAGE_BYTES, typeOf } from './wire.ts';

/** Descriptors that are looked at; the kernel closes what does not fit. */
const MAX_FDS = 4;

/**
 * Obeys a message, which has passed `checkMessage`. A descriptor that it keeps is replaced by -1 in `fds`.
 * @throws Error to end the channel with its message.
 */
export type MessageHandler = (type: number, bytes: Uint8Array, fds: number[]) => void | Promise<void>;

/** `reason` is empty when the peer just closed; `byPeer`: it is what the peer said in its DISCONNECT. */
export type EndHandler = (reason: string, byPeer: boolean) => void;

export class Channel {
  readonly #fd: number;
  readonly #from: 'client' | 'server';
  readonly #watcher: Watcher;
  readonly #bytes = new Uint8Array(2 * MESSAGE_BYTES);
  readonly #received = new Int32Array(1 + MAX_FDS);
  #handler: MessageHandler;
  #onEnd: EndHandler;
  #output: { bytes: Uint8Array; fd: number }[] = [];
  #busy = false;
  #open = true;

  /** @param from the side that the messages come from. */
  constructor(fd: number, from: 'client' | 'server', handler: MessageHandler, onEnd: EndHandler) {
    this.#fd = fd;
    this.#from = from;
    this.#handler = handler;
    this.#onEnd = onEnd;
    this.#watcher = new Watcher((_, events) => {
      if ((events & WRITABLE) !== 0) this.#flush();
      void this.#read();
    });
    this.#watcher.add(fd);
  }

  get fd(): number {
    return this.#fd;
  }

  get open(): boolean {
    return this.#open;
  }

  /** From the next message on, others obey. */
  handOver(handler: MessageHandler, onEnd: EndHandler): void {
    this.#handler = handler;
    this.#onEnd = onEnd;
  }

  /** Looks at the socket now: a peer that has gone is noticed without waiting for an event. */
  probe(): void {
    void this.#read();
  }

  /** `fd` stays the caller's, and open until the channel ends. */
  send(bytes: Uint8Array, fd = -1): void {
    if (!this.#open) return;
    this.#output.push({ bytes, fd });
    this.#flush();
  }

  /** Ends the channel. A `reason` is told to the peer and to `onEnd`. */
  end(reason: string): void {
    if (!this.#open) return;
    // A peer that does not read is not waited for.
    if (reason) {
      const bytes = encodeDisconnect(reason);
      sendWithFds(this.#fd, bytes, 0, bytes.length, null, 0);
    }
    this.#ended(reason);
  }

  #ended(reason: string, byPeer = false): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watcher.close();
    close(this.#fd);
    this.#onEnd(reason, byPeer);
  }

  async #read(): Promise<void> {
    while (this.#open && !this.#busy) {
      const bytes = this.#bytes;
      const got = recvWithFds(this.#fd, bytes, 0, bytes.length, this.#received);
      if (got === -EAGAIN) return;
      if (got <= 0) {
        this.#ended(got === 0 ? '' : `receiving failed: ${errnoName(got)}`);
        return;
      }
      const fds = Array.from(this.#received.subarray(1, 1 + this.#received[0]!));
      const message = bytes.slice(0, got);
      const wrong = checkMessage(message, this.#from, fds.length);
      if (wrong === undefined && typeOf(message) === DISCONNECT) {
        const { reason } = DISCONNECT_LAYOUT.decode(message, 2);
        this.#ended(reason && `the peer disconnected: ${printable(reason)}`, true);
        return;
      }
      if (wrong !== undefined) {
        for (const fd of fds) close(fd);
        this.end(wrong);
        return;
      }
      await this.#obey(message, fds);
    }
  }

  async #obey(message: Uint8Array, fds: number[]): Promise<void> {
    this.#busy = true;
    this.#watcher.remove(this.#fd);
    let failure: string | undefined;
    try {
      await this.#handler(typeOf(message), message, fds);
    } catch (error) {
      failure = (error as Error).message;
    }
    this.#busy = false;
    for (const fd of fds) if (fd >= 0) close(fd);
    if (!this.#open) return;
    if (failure !== undefined) {
      this.end(failure);
      return;
    }
    this.#watcher.add(this.#fd);
    this.#flush();
  }

  #flush(): void {
    while (this.#open && this.#output.length > 0) {
      const { bytes, fd } = this.#output[0]!;
      const sent = sendWithFds(this.#fd, bytes, 0, bytes.length, fd < 0 ? null : Int32Array.of(fd), fd < 0 ? 0 : 1);
      if (sent === -EAGAIN) {
        if (this.#watcher.has(this.#fd)) this.#watcher.modify(this.#fd, WRITABLE);
        return;
      }
      if (sent < 0) {
        this.#ended(`sending failed: ${errnoName(sent)}`);
        return;
      }
      this.#output.shift();
    }
    if (this.#open && !this.#busy) this.#watcher.add(this.#fd);
  }
}

/** Text of the peer for a status: without control characters. */
export const printable = (text: string): string => text.replace(/[^\x20-\x7e]/g, '?');
