/**
 * A relay of vhost-user messages between a front end and a back end that both connect, and neither listens.
 *
 * It hands on bytes and descriptors as they come, and takes features away from the back end's offer (the reply to
 * GET_FEATURES). Rings and kicks do not pass through it.
 */
import { accept, close, READABLE, recvWithFds, sendWithFds, unixListen, Watcher } from '#contract/os.ts';
import { GET_FEATURES } from '#ports/vhost-user/wire.ts';

const HEADER = 12;
const FEATURES_REPLY = HEADER + 8;
type End = 'front' | 'back';
const OTHER = { front: 'back', back: 'front' } as const;

export class VhostRelay {
  readonly #without: bigint;
  readonly #listeners: Record<End, number>;
  readonly #watcher = new Watcher((fd) => this.#ready(fd), { unref: true });
  /** The connection of each end. */
  readonly #fds: Partial<Record<End, number>> = {};
  readonly #bytes = new Uint8Array(1 << 16);
  /** Count, then descriptors: as many as one message of sendmsg(2) takes. */
  readonly #passed = new Int32Array(1 + 253);

  /** Listens at a path for each end; `without`: feature bits to take away. */
  constructor(paths: Readonly<Record<End, string>>, without: bigint) {
    this.#without = without;
    this.#listeners = { front: unixListen(paths.front), back: unixListen(paths.back) };
    for (const fd of Object.values(this.#listeners)) this.#watcher.add(fd, READABLE);
  }

  close(): void {
    this.#hangUp();
    this.#watcher.close();
    for (const fd of Object.values(this.#listeners)) close(fd);
  }

  #hangUp(): void {
    for (const end of ['front', 'back'] as const) {
      const fd = this.#fds[end];
      if (fd === undefined) continue;
      this.#watcher.remove(fd);
      close(fd);
      delete this.#fds[end];
    }
  }

  #ready(fd: number): void {
    for (const end of ['front', 'back'] as const) {
      if (fd === this.#listeners[end]) this.#accept(end);
      else if (fd === this.#fds[end]) this.#hand(end);
    }
  }

  /** One connection of each end at a time; nothing is read before both are there. */
  #accept(end: End): void {
    const fd = accept(this.#listeners[end]);
    if (fd < 0) return;
    if (this.#fds[end] !== undefined) this.#hangUp();
    this.#fds[end] = fd;
    const other = this.#fds[OTHER[end]];
    if (other === undefined) return;
    for (const each of [fd, other]) this.#watcher.add(each, READABLE);
  }

  #hand(from: End): void {
    const length = recvWithFds(this.#fds[from]!, this.#bytes, 0, this.#bytes.length, this.#passed);
    if (length <= 0) return this.#hangUp();
    const header = new Uint32Array(this.#bytes.buffer, 0, 1);
    if (from === 'back' && header[0] === GET_FEATURES && length === FEATURES_REPLY) {
      const features = new DataView(this.#bytes.buffer);
      features.setBigUint64(HEADER, features.getBigUint64(HEADER, true) & ~this.#without, true);
    }
    const fds = this.#passed.subarray(1, 1 + this.#passed[0]!);
    // Messages are small, and each waits for what the one before brought about: a full socket is a peer that hangs.
    const sent = sendWithFds(this.#fds[OTHER[from]]!, this.#bytes, 0, length, fds, fds.length);
    for (const fd of fds) close(fd);
    if (sent !== length) this.#hangUp();
  }
}
