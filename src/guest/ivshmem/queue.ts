/** One queue pair of an ivshmem port: bursts out, bursts in, and the friendlier calls on top of them. */
import { eventfdDrain, READABLE, Watcher } from '#contract/os.ts';
import { MAX_CHAIN } from '#ports/ivshmem/layout.ts';
import type { QueuePlace } from './ring.ts';
import { IV_RX_BURST, IvRxQueue } from './rx.ts';
import { IV_TX_BURST, IvTxQueue } from './tx.ts';

/** Between two looks where nobody calls. */
const LOOK_MS = 1;

/** Sees one frame: `length` bytes at `bytes[offset]`, to be read only, and only during the call. */
export type IvFrameHandler = (bytes: Uint8Array, offset: number, length: number) => void;

export class IvQueue {
  /** Number of the queue pair. */
  readonly index: number;
  readonly rx = new IvRxQueue();
  readonly tx = new IvTxQueue();
  #joined = new Uint8Array(0);

  constructor(index: number) {
    this.index = index;
  }

  /** True when the slot is no longer what the queue works with; the port joins again by itself. */
  get stale(): boolean {
    return this.rx.stale || this.tx.stale;
  }

  attach(place: QueuePlace): void {
    this.rx.attach(place);
    this.tx.attach(place);
  }

  detach(): void {
    this.rx.detach();
    this.tx.detach();
  }

  /**
   * Copies frames into buffers and sends them; long ones over several buffers.
   * @returns frames taken: fewer than given when there are no buffers, or the port is not up.
   * @throws RangeError for an empty frame, or one of more than 64 buffers.
   */
  send(frames: readonly Uint8Array[]): number {
    const tx = this.tx;
    const most = tx.room * MAX_CHAIN;
    for (const [i, { length }] of frames.entries()) {
      if (length === 0 || (tx.room > 0 && length > most)) {
        throw new RangeError(`frame ${i} has ${length} bytes; 1 to ${most} can be sent`);
      }
    }
    let done = 0;
    for (;;) {
      const n = tx.reserve(IV_TX_BURST);
      let used = 0;
      let taken = 0;
      while (done + taken < frames.length) {
        const frame = frames[done + taken]!;
        const need = Math.ceil(frame.length / tx.room);
        if (used + need > n) break;
        for (let at = 0; at < frame.length; at += tx.room, used++) {
          const part = frame.subarray(at, at + tx.room);
          tx.u8.set(part, tx.at[used]!);
          tx.length[used] = part.length;
          tx.next[used] = at + part.length < frame.length ? 1 : 0;
        }
        taken++;
      }
      if (taken === 0) return done;
      tx.send(used);
      done += taken;
    }
  }

  /** Takes one burst, shows its frames to `handler`, and gives the buffers back. @returns frames seen. */
  receiveBurst(handler: IvFrameHandler): number {
    const rx = this.rx;
    const n = rx.poll();
    for (let i = 0; i < n; i++) {
      const length = rx.length[i]!;
      if (rx.pieceCount[i] === 1) {
        handler(rx.u8, rx.at[i]!, length);
      } else {
        if (this.#joined.length < length) this.#joined = new Uint8Array(Math.max(65_600, length));
        rx.copy(i, this.#joined);
        handler(this.#joined, 0, length);
      }
    }
    rx.release();
    return n;
  }

  /** Copies of all frames that wait, at most `max`, rounded up to a burst. */
  receive(max = 1024): Uint8Array[] {
    const frames: Uint8Array[] = [];
    while (frames.length < max) {
      const n = this.receiveBurst((bytes, at, length) => frames.push(bytes.slice(at, at + length)));
      if (n < IV_RX_BURST) break;
    }
    return frames;
  }

  /** Blocks this thread until frames wait; see IvRxQueue.waitReadable. For worker threads: the event loop stands still. */
  waitReadable(timeoutMs: number): boolean {
    return this.rx.waitReadable(timeoutMs);
  }

  /** Resolves when frames wait (true) or after `timeoutMs` (false), with the event loop running on. */
  readable(timeoutMs: number): Promise<boolean> {
    const rx = this.rx;
    rx.release();
    return this.#until(timeoutMs, rx);
  }

  /** Resolves when there are buffers to send with (true) or after `timeoutMs` (false), with the event loop running on. */
  writable(timeoutMs: number): Promise<boolean> {
    return this.#until(timeoutMs, this.tx);
  }

  async #until(timeoutMs: number, ring: { arm(): boolean; disarm(): void }): Promise<boolean> {
    const end = performance.now() + timeoutMs;
    const fd = this.rx.callFd;
    if (fd >= 0) eventfdDrain(fd);
    for (;;) {
      const ready = ring.arm();
      const left = end - performance.now();
      if (ready || left <= 0) {
        ring.disarm();
        return ready;
      }
      await called(fd, fd < 0 ? Math.min(left, LOOK_MS) : left);
    }
  }
}

/** Waits for a doorbell, or a time. */
async function called(fd: number, milliseconds: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  const watcher = new Watcher(() => {
    eventfdDrain(fd);
    resolve();
  });
  if (fd >= 0) watcher.add(fd, READABLE);
  await promise;
  clearTimeout(timer);
  watcher.close();
}
