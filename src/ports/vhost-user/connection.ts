/**
 * One vhost-user connection: bytes and descriptors in, messages to the device one after the other, answers out.
 *
 * While a message is being obeyed nothing is read, so that order and memory stay bounded. The end of the connection, for
 * whatever cause, is told once.
 */
import {
  close,
  EAGAIN,
  ECONNRESET,
  EPIPE,
  errnoName,
  recvWithFds,
  sendWithFds,
  Watcher,
  WRITABLE,
} from '#contract/os.ts';
import { MAX_PAYLOAD, MAX_REGIONS, type Message, MessageReader } from './wire.ts';

/** An answer, and a descriptor that goes with it (closed once sent) or -1. */
export interface Reply {
  readonly bytes: Uint8Array;
  readonly fd: number;
}

/** Obeys a message. Descriptors that it keeps are replaced by -1 in `fds`. @throws Error to end the connection. */
export type MessageHandler = (message: Message, fds: number[]) => Promise<Reply | undefined>;

export class Connection {
  readonly #fd: number;
  readonly #handler: MessageHandler;
  /** `reason` is empty when the other side just closed. */
  readonly #onEnd: (reason: string) => void;
  readonly #watcher: Watcher;
  readonly #reader = new MessageReader();
  readonly #bytes = new Uint8Array(MAX_PAYLOAD);
  readonly #received = new Int32Array(1 + MAX_REGIONS);
  #fds: number[] = [];
  #output: Reply[] = [];
  #busy = false;
  #open = true;

  constructor(fd: number, handler: MessageHandler, onEnd: (reason: string) => void) {
    this.#fd = fd;
    this.#handler = handler;
    this.#onEnd = onEnd;
    this.#watcher = new Watcher((_, events) => {
      if ((events & WRITABLE) !== 0) this.#flush();
      void this.#read();
    });
    this.#watcher.add(fd);
  }

  /** Ends the connection; `reason` goes to `onEnd`. */
  end(reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watcher.close();
    close(this.#fd);
    for (const { fd } of this.#output.splice(0)) if (fd >= 0) close(fd);
    if (!this.#busy) this.#closeFds();
    this.#onEnd(reason);
  }

  async #read(): Promise<void> {
    if (this.#busy) return;
    while (this.#open) {
      const got = recvWithFds(this.#fd, this.#bytes, 0, this.#reader.want, this.#received);
      if (got === -EAGAIN) return;
      if (got <= 0) {
        this.end(got === 0 ? '' : `receiving failed: ${errnoName(got)}`);
        return;
      }
      for (let i = 1; i <= this.#received[0]!; i++) this.#fds.push(this.#received[i]!);
      if (this.#fds.length > MAX_REGIONS) {
        this.end(`more than ${MAX_REGIONS} descriptors came with one message`);
        return;
      }
      let message: Message | undefined;
      try {
        message = this.#reader.push(this.#bytes.subarray(0, got));
      } catch (error) {
        this.end((error as Error).message);
        return;
      }
      if (message) await this.#obey(message);
    }
  }

  async #obey(message: Message): Promise<void> {
    this.#busy = true;
    this.#watcher.remove(this.#fd);
    let failure: string | undefined;
    try {
      const answer = await this.#handler(message, this.#fds);
      if (answer && this.#open) this.#output.push(answer);
      else if (answer && answer.fd >= 0) close(answer.fd);
    } catch (error) {
      failure = (error as Error).message;
    }
    this.#busy = false;
    this.#closeFds();
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
      const withFd = fd >= 0 ? 1 : 0;
      const sent = sendWithFds(this.#fd, bytes, 0, bytes.length, withFd ? Int32Array.of(fd) : null, withFd);
      if (sent === -EAGAIN) {
        // A front end that asks and does not read: nothing more is taken from it until it does.
        this.#watcher.modify(this.#fd, WRITABLE);
        return;
      }
      if (sent < 0) {
        this.end(sent === -EPIPE || sent === -ECONNRESET ? '' : `sending failed: ${errnoName(sent)}`);
        return;
      }
      if (withFd) close(fd);
      if (sent < bytes.length) this.#output[0] = { bytes: bytes.subarray(sent), fd: -1 };
      else this.#output.shift();
    }
    if (this.#open) this.#watcher.add(this.#fd);
  }

  #closeFds(): void {
    for (const fd of this.#fds) if (fd >= 0) close(fd);
    this.#fds = [];
  }
}
