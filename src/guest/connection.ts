/**
 * One connection to a vhost-user back end: sends messages with descriptors, waits for replies and acknowledgements.
 *
 * Requests are answered in order and one at a time, as the protocol has it; what the back end says unasked ends the
 * connection.
 */
import {
  close,
  EAGAIN,
  ECONNRESET,
  errnoName,
  READABLE,
  recvWithFds,
  sendWithFds,
  Watcher,
  WRITABLE,
} from '#contract/os.ts';
import { decodeU64, encodeRequest, FLAG_REPLY, MESSAGES, type Message, MessageReader } from '#ports/vhost-user/wire.ts';

interface Waiter {
  readonly request: number;
  /** A descriptor belongs to the answer. */
  readonly wantsFd: boolean;
  resolve(payload: Uint8Array): void;
  reject(error: Error): void;
}

const nameOf = (request: number): string => MESSAGES.get(request)?.name ?? `request ${request}`;
const HUNG_UP = 'the switch hung up';
const empty = new Uint8Array(0);

export class Connection {
  /** The socket, for as long as the connection stands. */
  readonly fd: number;
  readonly #replyMs: number;
  readonly #watcher: Watcher;
  readonly #reader = new MessageReader();
  readonly #input = new Uint8Array(4096);
  readonly #fds = new Int32Array(9);
  readonly #queue: { bytes: Uint8Array; at: number; fds: readonly number[] }[] = [];
  #waiter: Waiter | undefined;
  /** Descriptor that came with the answer that is being received, or -1. */
  #answerFd = -1;
  #closed = false;

  /** Called once, when the connection is lost or `close` was called. */
  onClose: (reason: string) => void = () => {};

  /** @param fd a connected, non-blocking socket; owned from here on. */
  constructor(fd: number, replyMs: number) {
    this.fd = fd;
    this.#replyMs = replyMs;
    this.#watcher = new Watcher((_fd, events) => this.#ready(events));
    this.#watcher.add(fd, READABLE);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Sends a message that has no reply. `fds` stay the caller's and must stay open until the back end has answered. */
  send(request: number, payload: Uint8Array = empty, fds: readonly number[] = [], needReply = false): void {
    if (this.#closed) throw new Error(`cannot send ${nameOf(request)}: the connection is closed`);
    this.#queue.push({ bytes: encodeRequest(request, payload, needReply), at: 0, fds });
    this.#flush();
  }

  /** Sends a message and gives the reply's payload. @throws Error when none comes in time or the connection is lost. */
  request(request: number, payload: Uint8Array = empty, fds: readonly number[] = []): Promise<Uint8Array> {
    return this.#ask(request, payload, fds, false);
  }

  /** Like `request`, for answers with a descriptor, which is the caller's. @throws Error also when none comes along. */
  async requestWithFd(request: number, payload: Uint8Array): Promise<{ payload: Uint8Array; fd: number }> {
    const answer = await this.#ask(request, payload, [], false, true);
    const fd = this.#answerFd;
    this.#answerFd = -1;
    if (fd < 0) throw new Error(`the reply to ${nameOf(request)} came without a descriptor`);
    return { payload: answer, fd };
  }

  /** Sends a message and waits for its acknowledgement (REPLY_ACK). @throws Error when the back end refuses it. */
  async acknowledged(request: number, payload: Uint8Array = empty, fds: readonly number[] = []): Promise<void> {
    const reply = await this.#ask(request, payload, fds, true);
    const code = toU64(reply, request);
    if (code !== 0n) throw new Error(`the switch refused ${nameOf(request)} (reply ${code})`);
  }

  /** Like `request`, for replies of one 64-bit number. */
  async requestU64(request: number, payload: Uint8Array = empty): Promise<bigint> {
    return toU64(await this.request(request, payload), request);
  }

  close(reason = 'closed by the guest'): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher.close();
    close(this.fd);
    if (this.#answerFd >= 0) close(this.#answerFd);
    this.#answerFd = -1;
    const waiter = this.#waiter;
    this.#waiter = undefined;
    waiter?.reject(new Error(`connection lost: ${reason}`));
    this.onClose(reason);
  }

  async #ask(
    request: number,
    payload: Uint8Array,
    fds: readonly number[],
    ack: boolean,
    wantsFd = false,
  ): Promise<Uint8Array> {
    if (this.#waiter) throw new Error(`cannot send ${nameOf(request)}: another request waits for its reply`);
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    this.#waiter = { request, wantsFd, resolve, reject };
    const late = new Error(`the switch did not answer ${nameOf(request)} within ${this.#replyMs} ms`);
    const timer = setTimeout(() => {
      this.#waiter = undefined;
      reject(late);
    }, this.#replyMs);
    try {
      this.send(request, payload, fds, ack);
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#waiter = undefined;
    }
  }

  #ready(events: number): void {
    if (events & WRITABLE) this.#flush();
    if (events & ~WRITABLE) this.#receive();
  }

  #flush(): void {
    while (!this.#closed && this.#queue.length > 0) {
      const head = this.#queue[0]!;
      const fds = head.at === 0 ? head.fds : [];
      const left = head.bytes.length - head.at;
      const sent = sendWithFds(this.fd, head.bytes, head.at, left, Int32Array.from(fds), fds.length);
      if (sent === -EAGAIN) {
        this.#watcher.modify(this.fd, READABLE | WRITABLE);
        return;
      }
      if (sent < 0) {
        // What the back end said last may explain it, and its end of stream closes the connection.
        this.#queue.length = 0;
        queueMicrotask(() => this.close(`sending failed: ${errnoName(sent)}`));
        return;
      }
      head.at += sent;
      if (head.at === head.bytes.length) this.#queue.shift();
    }
    if (!this.#closed) this.#watcher.modify(this.fd, READABLE);
  }

  #receive(): void {
    const input = this.#input;
    while (!this.#closed) {
      const got = recvWithFds(this.fd, input, 0, Math.min(this.#reader.want, input.length), this.#fds);
      if (got === -EAGAIN) return;
      if (got === -ECONNRESET) return this.close(HUNG_UP);
      if (got < 0) return this.close(`receiving failed: ${errnoName(got)}`);
      for (let i = 1; i <= this.#fds[0]!; i++) this.#received(this.#fds[i]!);
      if (got === 0) return this.close(HUNG_UP);
      try {
        const message = this.#reader.push(input.subarray(0, got));
        if (message) this.#take(message);
      } catch (error) {
        this.close((error as Error).message);
      }
    }
  }

  /** The first descriptor that comes with an answer that may have one is kept for whoever asked. */
  #received(fd: number): void {
    if (this.#waiter?.wantsFd && this.#answerFd < 0) this.#answerFd = fd;
    else close(fd);
  }

  #take({ code, flags, payload }: Message): void {
    const waiter = this.#waiter;
    if ((flags & FLAG_REPLY) === 0 || waiter?.request !== code) {
      return this.close(`the switch sent ${nameOf(code)}, flags 0x${flags.toString(16)}, which was not asked for`);
    }
    this.#waiter = undefined;
    waiter.resolve(payload);
  }
}

function toU64(payload: Uint8Array, request: number): bigint {
  if (payload.length < 8) throw new Error(`the reply to ${nameOf(request)} has ${payload.length} bytes, not 8`);
  return decodeU64(payload);
}
