/**
 * Frames of bytes, with descriptors, over a unix stream socket: little-endian uint32 length and number of descriptors, then
 * that many bytes. Descriptors travel with the first byte of their frame; since the kernel may hand them over together with
 * bytes of the frame before, they are counted off by the frame heads. Nothing a peer sends is trusted.
 */
import { close, EAGAIN, errnoName, READABLE, recvWithFds, sendWithFds, Watcher, WRITABLE } from './os.ts';

/** Longest frame, in bytes. */
export const MAX_FRAME_BYTES = 1 << 24;
/** Descriptors that may come with one frame. */
export const MAX_FRAME_FDS = 253;
/** Bytes that may wait for a peer that does not read, before the channel is closed. */
const MAX_BACKLOG = 1 << 28;
const CHUNK = 1 << 16;
const HEAD = 8;

export interface ChannelEvents {
  /** `fds` belong to the receiver. */
  frame(bytes: Uint8Array, fds: number[]): void;
  /** The connection is gone; called once, also after `close()`. */
  closed(reason: string): void;
}

interface Outgoing {
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
  sent: number;
}

export class Channel {
  readonly #fd: number;
  readonly #events: ChannelEvents;
  readonly #watcher: Watcher;
  readonly #incoming = new Int32Array(MAX_FRAME_FDS + 1);
  #buffer = new Uint8Array(CHUNK);
  #filled = 0;
  #fds: number[] = [];
  #queue: Outgoing[] = [];
  #backlog = 0;
  #open = true;

  /** Takes over a connected, non-blocking socket. */
  constructor(fd: number, events: ChannelEvents) {
    this.#fd = fd;
    this.#events = events;
    this.#watcher = new Watcher((_, ready) => this.#ready(ready));
    this.#watcher.add(fd, READABLE);
  }

  get open(): boolean {
    return this.#open;
  }

  /** Queues a frame; `fds` stay the caller's and must stay open until the frame has left (they are sent at once if possible). */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    if (!this.#open) return;
    const frame = new Uint8Array(HEAD + bytes.length);
    const head = new DataView(frame.buffer);
    head.setUint32(0, bytes.length, true);
    head.setUint32(4, fds.length, true);
    frame.set(bytes, HEAD);
    this.#queue.push({ bytes: frame, fds, sent: 0 });
    this.#backlog += frame.length;
    if (this.#backlog > MAX_BACKLOG) this.close('peer does not read');
    else this.#flush();
  }

  close(reason = 'closed'): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watcher.remove(this.#fd);
    this.#watcher.close();
    close(this.#fd);
    for (const fd of this.#fds) close(fd);
    this.#fds = [];
    this.#queue = [];
    this.#events.closed(reason);
  }

  #flush(): void {
    while (this.#open && this.#queue.length > 0) {
      const out = this.#queue[0]!;
      const fds = out.sent === 0 && out.fds.length > 0 ? Int32Array.from(out.fds) : null;
      const n = sendWithFds(this.#fd, out.bytes, out.sent, out.bytes.length - out.sent, fds, fds?.length ?? 0);
      if (n === -EAGAIN) break;
      if (n < 0) return this.close(`send: ${errnoName(n)}`);
      out.sent += n;
      this.#backlog -= n;
      if (out.sent === out.bytes.length) this.#queue.shift();
    }
    if (this.#open) this.#watcher.modify(this.#fd, this.#queue.length > 0 ? READABLE | WRITABLE : READABLE);
  }

  #ready(ready: number): void {
    if (ready & WRITABLE) this.#flush();
    // A bounded number of turns, so that a chatty peer leaves room for others; the watcher calls again.
    for (let turn = 0; turn < 16 && this.#open; turn++) {
      if (this.#filled === this.#buffer.length) this.#grow(this.#buffer.length * 2);
      const room = this.#buffer.length - this.#filled;
      const n = recvWithFds(this.#fd, this.#buffer, this.#filled, room, this.#incoming);
      if (n === -EAGAIN) return;
      for (let i = 1; i <= this.#incoming[0]!; i++) this.#fds.push(this.#incoming[i]!);
      if (n === 0) return this.close('peer closed the connection');
      if (n < 0) return this.close(`receive: ${errnoName(n)}`);
      this.#filled += n;
      this.#deliver();
    }
  }

  #deliver(): void {
    let at = 0;
    while (this.#open && this.#filled - at >= HEAD) {
      const view = new DataView(this.#buffer.buffer, this.#buffer.byteOffset + at);
      const length = view.getUint32(0, true);
      const count = view.getUint32(4, true);
      if (length > MAX_FRAME_BYTES)
        return this.close(`frame of ${length} bytes, at most ${MAX_FRAME_BYTES} are allowed`);
      if (this.#filled - at < HEAD + length) {
        if (this.#buffer.length < HEAD + length) this.#grow(HEAD + length);
        break;
      }
      if (count > this.#fds.length) return this.close(`frame lacks ${count - this.#fds.length} of its descriptors`);
      const frame = this.#buffer.slice(at + HEAD, at + HEAD + length);
      at += HEAD + length;
      this.#events.frame(frame, this.#fds.splice(0, count));
    }
    if (!this.#open) return;
    if (this.#fds.length > MAX_FRAME_FDS) return this.close('descriptors that belong to no frame');
    this.#buffer.copyWithin(0, at, this.#filled);
    this.#filled -= at;
  }

  #grow(bytes: number): void {
    const next = new Uint8Array(bytes);
    next.set(this.#buffer.subarray(0, this.#filled));
    this.#buffer = next;
  }
}
