/** One queue pair: bursts out, bursts in, and the friendlier calls on top of them. */
import { eventfdDrain, READABLE, Watcher } from '#contract/os.ts';
import { RX_BURST } from './received.ts';
import type { RxQueue } from './rx.ts';
import type { PackedRxQueue } from './rx-packed.ts';
import { TX_BURST } from './to-send.ts';
import type { TxQueue } from './tx.ts';
import type { PackedTxQueue } from './tx-packed.ts';

/** Sees one frame: `length` bytes at `bytes[offset]`, valid during the call only. `index` is its place in the rx fields. */
export type FrameHandler = (bytes: Uint8Array, offset: number, length: number, index: number) => void;

/** virtio-net header fields of a frame (virtio 1.2 section 5.1.6); all 0 for a plain frame. */
export interface Offload {
  readonly flags?: number;
  readonly gsoType?: number;
  readonly gsoSize?: number;
  readonly headerLength?: number;
  readonly csumStart?: number;
  readonly csumOffset?: number;
}

export interface ReceivedFrame extends Required<Offload> {
  readonly frame: Uint8Array;
}

export class Queue {
  /** Number of the queue pair. */
  readonly index: number;
  readonly rx: RxQueue | PackedRxQueue;
  readonly tx: TxQueue | PackedTxQueue;
  #joined = new Uint8Array(0);

  constructor(index: number, rx: RxQueue | PackedRxQueue, tx: TxQueue | PackedTxQueue) {
    this.index = index;
    this.rx = rx;
    this.tx = tx;
  }

  /**
   * Copies frames into the ring and publishes them, in bursts of TX_BURST.
   * @param offload header fields for all of these frames.
   * @returns frames taken, fewer than given when the ring is full or the port closed.
   * @throws RangeError for an empty frame or one longer than `tx.frameBytes`.
   */
  send(frames: readonly Uint8Array[], offload?: Offload): number {
    const tx = this.tx;
    for (let i = 0; i < frames.length; i++) {
      const length = frames[i]!.length;
      if (length === 0 || length > tx.frameBytes) {
        throw new RangeError(`frame ${i} has ${length} bytes; 1 to ${tx.frameBytes} (option txFrameBytes) can be sent`);
      }
    }
    let done = 0;
    while (done < frames.length) {
      const n = tx.reserve(Math.min(TX_BURST, frames.length - done));
      if (n === 0) break;
      for (let i = 0; i < n; i++) {
        const frame = frames[done + i]!;
        tx.u8.set(frame, tx.at[i]!);
        tx.length[i] = frame.length;
        if (offload) {
          tx.flags[i] = offload.flags ?? 0;
          tx.gsoType[i] = offload.gsoType ?? 0;
          tx.gsoSize[i] = offload.gsoSize ?? 0;
          tx.headerLength[i] = offload.headerLength ?? 0;
          tx.csumStart[i] = offload.csumStart ?? 0;
          tx.csumOffset[i] = offload.csumOffset ?? 0;
        }
      }
      done += tx.send(n);
    }
    return done;
  }

  /** Takes one burst, shows its frames to `handler` in place, and gives the buffers back. @returns frames seen. */
  receiveBurst(handler: FrameHandler): number {
    const rx = this.rx;
    const n = rx.poll();
    for (let i = 0; i < n; i++) {
      if (rx.pieceCount[i] === 1) {
        handler(rx.u8, rx.at[i]!, rx.length[i]!, i);
      } else {
        if (this.#joined.length < rx.length[i]!) this.#joined = new Uint8Array(Math.max(65_600, rx.length[i]!));
        rx.copy(i, this.#joined);
        handler(this.#joined, 0, rx.length[i]!, i);
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
      if (n < RX_BURST) break;
    }
    return frames;
  }

  /** Like `receive`, with the header fields of each frame. */
  receiveWithOffload(max = 1024): ReceivedFrame[] {
    const { rx } = this;
    const frames: ReceivedFrame[] = [];
    while (frames.length < max) {
      const n = this.receiveBurst((bytes, at, length, i) =>
        frames.push({
          frame: bytes.slice(at, at + length),
          flags: rx.flags[i]!,
          gsoType: rx.gsoType[i]!,
          gsoSize: rx.gsoSize[i]!,
          headerLength: rx.headerLength[i]!,
          csumStart: rx.csumStart[i]!,
          csumOffset: rx.csumOffset[i]!,
        }),
      );
      if (n < RX_BURST) break;
    }
    return frames;
  }

  /** Blocks this thread until frames wait; see RxQueue.waitReadable. For worker threads: the event loop stands still. */
  waitReadable(timeoutMs = -1): boolean {
    return this.rx.waitReadable(timeoutMs);
  }

  /** Resolves when frames wait (true) or after `timeoutMs` (false), with the event loop running on. */
  async readable(timeoutMs: number): Promise<boolean> {
    const rx = this.rx;
    if (rx.callFd < 0) return false;
    rx.release();
    eventfdDrain(rx.callFd);
    if (rx.arm()) {
      rx.disarm();
      return true;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    const fd = rx.callFd;
    const watcher = new Watcher(() => resolve());
    const timer = setTimeout(resolve, timeoutMs);
    watcher.add(fd, READABLE);
    await promise;
    clearTimeout(timer);
    watcher.close();
    const ready = rx.arm();
    rx.disarm();
    return ready;
  }
}
