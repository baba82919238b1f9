/** The two halves of a queue pair, as the pipeline uses them and ports implement them. */
import type { PacketBatch } from './batch.ts';

/** Receive half of a queue pair, seen from the switch: packets the guest sent. Owned by one worker. */
export interface RxQueue {
  readonly portNo: number;
  readonly queue: number;
  /**
   * Takes at most BURST packets into slots 0.. of an empty batch: header windows copied, keys not yet parsed, vnet fields
   * checked. Sets batch.count and batch.inPort. Bad packets are counted and given back, never returned.
   * @param whole nobody will read or edit headers: the port may leave whole frames where they are (headLength 0).
   * @returns number of packets.
   */
  poll(batch: PacketBatch, whole?: boolean): number;
  /** Gives the source buffers of the last burst back to the guest; the batch must not be read after it. */
  complete(): void;
  /**
   * Asks for a notification at the next packet, before the worker sleeps.
   * @returns true when packets wait already (notifications stay off then).
   */
  arm(): boolean;
  /** Turns notifications off again. */
  disarm(): void;
  /** This worker polls it no more: the guest is told now of what it would be told later. Reads nothing of the guest's. */
  rest?(): void;
  /** Descriptor to poll for readability while asleep, or -1. */
  readonly kickFd: number;
  /** `kickFd` is no eventfd: it is readable while frames wait, and the loop does not read it. */
  readonly kickIsLevel?: boolean;
}

/** Transmit half of a queue pair: packets to the guest. */
export interface TxQueue {
  readonly portNo: number;
  readonly queue: number;
  /** True when more than one worker may send here: `lock` before `push`, publish at once, `unlock`. */
  readonly shared: boolean;
  /**
   * The queue takes part in the batch's journal: several pushes, each followed by batch.copy(), may come before one publish,
   * and a shared one stays locked until the burst is done.
   */
  readonly journaled?: boolean;
  /** @returns false when the lock could not be had within a bounded spin. */
  lock(): boolean;
  unlock(): void;
  /**
   * Takes buffers for the packets in `list[0..n-1]` (slot numbers), writes their virtio-net headers and adds the copies to
   * batch.rows. What cannot be sent is counted as a drop of this port. At most one push between two publishes, but see
   * `journaled`.
   * @returns packets that will be sent.
   */
  push(batch: PacketBatch, list: Int32Array, n: number): number;
  /** After batch.copy(): shows the packets of the last push to the guest and notifies it where it asked for that. */
  publish(): void;
}
