/**
 * The channel on which the back end makes requests of its own (SET_BACKEND_REQ_FD). The front end answers those that ask
 * for it; what it says beyond that has no meaning, and ends the channel but not the connection.
 */
import { close, EAGAIN, recvWithFds, sendWithFds, Watcher } from '#contract/os.ts';
import { BACKEND_CONFIG_CHANGE, BACKEND_IOTLB, decodeU64, encodeRequest, FLAG_REPLY, MessageReader } from './wire.ts';

const INPUT_BYTES = 256;
const FDS = 8;
/** Requests without an answer, at most: a front end that does not read gets no more. */
const MAX_WAITING = 64;

interface Waiting {
  readonly code: number;
  readonly done: () => void;
}

const NOBODY = (): void => {};

export class BackendChannel {
  readonly #fd: number;
  readonly #watcher: Watcher;
  readonly #reader = new MessageReader();
  readonly #input = new Uint8Array(INPUT_BYTES);
  readonly #fds = new Int32Array(1 + FDS);
  readonly #acknowledged: boolean;
  /** Requests that wait for their answers, oldest first. */
  readonly #waiting: Waiting[] = [];
  #open = true;
  /** Requests that the front end took, and that it refused. */
  answered = 0;
  refused = 0;

  /** @param fd a connected socket, owned from here on. @param acknowledged REPLY_ACK was agreed on. */
  constructor(fd: number, acknowledged: boolean) {
    this.#fd = fd;
    this.#acknowledged = acknowledged;
    this.#watcher = new Watcher(() => this.#receive(), { unref: true });
    try {
      this.#watcher.add(fd);
    } catch (error) {
      this.#open = false;
      throw error;
    }
  }

  get open(): boolean {
    return this.#open;
  }

  /** Tells the front end to read the device configuration again. @returns false when it could not be told. */
  configChanged(): boolean {
    return this.#send(BACKEND_CONFIG_CHANGE);
  }

  /**
   * Says something of the device IOTLB. @returns false when it cannot be said now; else `done` is called once the front end
   * has answered, if it answers at all.
   */
  iotlb(payload: Uint8Array, done: () => void): boolean {
    return this.#send(BACKEND_IOTLB, payload, done);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watcher.close();
    close(this.#fd);
  }

  #send(code: number, payload?: Uint8Array, done = NOBODY): boolean {
    if (!this.#open || this.#waiting.length === MAX_WAITING) return false;
    const bytes = encodeRequest(code, payload, this.#acknowledged);
    const sent = sendWithFds(this.#fd, bytes, 0, bytes.length, null, 0);
    if (sent === -EAGAIN) return false;
    if (sent !== bytes.length) {
      // Half a message cannot be taken back.
      this.close();
      return false;
    }
    if (this.#acknowledged) this.#waiting.push({ code, done });
    return true;
  }

  #receive(): void {
    while (this.#open) {
      const got = recvWithFds(this.#fd, this.#input, 0, Math.min(this.#reader.want, INPUT_BYTES), this.#fds);
      if (got === -EAGAIN) return;
      for (let i = 1; i <= this.#fds[0]!; i++) close(this.#fds[i]!);
      if (got <= 0 || !this.#take(got)) this.close();
    }
  }

  /** @returns false when the bytes make no sense. */
  #take(got: number): boolean {
    try {
      const message = this.#reader.push(this.#input.subarray(0, got));
      if (!message) return true;
      const waiting = this.#waiting.shift();
      if ((message.flags & FLAG_REPLY) === 0 || waiting?.code !== message.code) return false;
      if (decodeU64(message.payload) === 0n) this.answered++;
      else this.refused++;
      waiting.done();
      return true;
    } catch {
      return false;
    }
  }
}
