// hot
/**
 * Where the packets of a burst go: for each port a list of slot numbers, in the order of output, and the list of ports
 * that have any. `transmit` sends them: all ports are pushed, their copies done in one native call, then all published.
 *
 * A port whose queue several workers share is pushed, copied and published under its lock before the next port.
 *
 * Under a journal a burst is one step: what its queues are pushed waits, shared queues stay locked, and all is published at
 * once when the burst ends, also what had to be pushed on the way (`part`). Locks are taken in the order of port numbers, so
 * that workers do not wait for each other.
 */
import { DROP_BASE, DROP_REASONS, dropReason, PORT_ROW, workerCounter } from '#contract/catalogue.ts';
import { MAX_PORTS } from '#contract/lane.ts';
import { MAX_ROWS, type PacketBatch } from './packet/batch.ts';
import type { TxQueue } from './packet/queues.ts';

/** Longest list of one port; a program that outputs more often to it sends in between. */
export const MAX_OUTPUTS = 64;
/** Copy rows above which ports that are pushed are sent before the next push: 64 packets of 128 pieces, split, still fit. */
const ROWS_HIGH = MAX_ROWS >> 2;

const NO_LIST = new Int32Array(0);
const PORTS = MAX_PORTS;
const LIST = MAX_OUTPUTS;
const ROW = PORT_ROW;
const DROPS = DROP_BASE;
const REASONS = DROP_REASONS.length;
const TX_RING_FULL = dropReason('tx_ring_full');
const TX_PORT_DOWN = dropReason('tx_port_down');
const NO_SUCH_PORT = dropReason('no_such_port');
const TRANSLATION_ERROR = dropReason('translation_error');
const TX_PACKETS = workerCounter('tx_packets');
const TX_BATCHES = workerCounter('tx_batches');

/** What the outputs need to know of the worker's ports. */
export interface PortLookup {
  /** The queue that this worker sends on to the port; undefined while there is none. */
  txQueue(portNo: number): TxQueue | undefined;
  /** Whether the port exists, with or without a queue. */
  hasPort(portNo: number): boolean;
}

export class Outputs {
  /** Per port, MAX_OUTPUTS slot numbers; made when the port is first sent to. */
  readonly lists: Int32Array[] = [];
  /** Per port, slot numbers in its list. */
  readonly counts = new Int32Array(MAX_PORTS);
  /** Ports with a list that is not empty. */
  readonly touched = new Int32Array(MAX_PORTS);
  touchedCount = 0;
  readonly #batch: PacketBatch;
  readonly #lookup: PortLookup;
  readonly #ports: Float64Array;
  readonly #worker: Float64Array;
  /** Queues pushed and not yet published. */
  readonly #pushed: (TxQueue | undefined)[] = [];
  /** Under a journal: number of those, 1 for the ports they are of; and queues to be unlocked when the burst is done. */
  #held = 0;
  readonly #isHeld = new Uint8Array(MAX_PORTS);
  readonly #locked: (TxQueue | undefined)[] = [];
  #lockedCount = 0;

  /** @param ports, worker counter rows of the lane. */
  constructor(batch: PacketBatch, lookup: PortLookup, ports: Float64Array, worker: Float64Array) {
    this.#batch = batch;
    this.#lookup = lookup;
    this.#ports = ports;
    this.#worker = worker;
    for (let port = 0; port < MAX_PORTS; port++) {
      this.lists.push(NO_LIST);
      this.#pushed.push(undefined);
      this.#locked.push(undefined);
    }
  }

  /** Port `port` gets its list and stands among the touched ones. */
  touch(port: number): Int32Array {
    if (this.lists[port] === NO_LIST) this.lists[port] = new Int32Array(LIST);
    this.touched[this.touchedCount++] = port;
    return this.lists[port]!;
  }

  /** Adds one packet to a port's list. */
  add(port: number, slot: number): void {
    // Port 0 never exists: a number out of range is counted as such.
    const to = port < PORTS ? port : 0;
    let count = this.counts[to]!;
    if (count === 0) this.touch(to);
    if (count === LIST) {
      this.#sendOne(to);
      count = 0;
    }
    this.lists[to]![count] = slot;
    this.counts[to] = count + 1;
  }

  /** Counts drops at a port. */
  drop(port: number, reason: number, packets: number): void {
    const at = port * ROW + DROPS + (reason < REASONS ? reason : TRANSLATION_ERROR);
    this.#ports[at] = this.#ports[at]! + packets;
  }

  /** Sends what is in the lists, in the middle of a burst: its slots and segments are free afterwards. */
  part(): void {
    if (this.#batch.journal === undefined) this.transmit();
    else this.#gather();
  }

  /** Sends everything and empties all lists. */
  transmit(): void {
    const batch = this.#batch;
    if (batch.journal !== undefined) {
      this.#gather();
      batch.journal.decide();
      this.#show();
      return;
    }
    const pushed = this.#pushed;
    const touchedCount = this.touchedCount;
    let waiting = 0;
    for (let i = 0; i < touchedCount; i++) {
      const port = this.touched[i]!;
      const count = this.counts[port]!;
      this.counts[port] = 0;
      if (count === 0) continue;
      const queue = this.#lookup.txQueue(port);
      if (queue === undefined) {
        this.#unsendable(port, count);
      } else if (queue.shared) {
        this.#sendShared(queue, port, count);
      } else {
        this.#count(queue.push(batch, this.lists[port]!, count));
        pushed[waiting++] = queue;
        if (batch.rowCount > ROWS_HIGH) {
          this.#publish(waiting);
          waiting = 0;
        }
      }
    }
    this.#publish(waiting);
    this.touchedCount = 0;
  }

  #publish(waiting: number): void {
    const pushed = this.#pushed;
    this.#batch.copy();
    for (let i = 0; i < waiting; i++) {
      pushed[i]!.publish();
      pushed[i] = undefined;
    }
  }

  /** Under a journal: everything is pushed and copied, nothing is shown that is not to be shown with the rest. */
  #gather(): void {
    const touched = this.touched;
    const touchedCount = this.touchedCount;
    for (let i = 1; i < touchedCount; i++) {
      const port = touched[i]!;
      let at = i;
      for (; at > 0 && touched[at - 1]! > port; at--) touched[at] = touched[at - 1]!;
      touched[at] = port;
    }
    for (let i = 0; i < touchedCount; i++) this.#hold(touched[i]!);
    this.touchedCount = 0;
  }

  /** Pushes the list of one port and empties it. */
  #hold(port: number): void {
    const batch = this.#batch;
    const count = this.counts[port]!;
    this.counts[port] = 0;
    if (count === 0) return;
    const queue = this.#lookup.txQueue(port);
    if (queue === undefined) return this.#unsendable(port, count);
    const journaled = queue.journaled === true;
    if (!journaled && queue.shared) return this.#sendShared(queue, port, count);
    if (this.#isHeld[port] === 0 && queue.shared) {
      if (!queue.lock()) return this.drop(port, TX_RING_FULL, count);
      this.#locked[this.#lockedCount++] = queue;
    }
    this.#count(queue.push(batch, this.lists[port]!, count));
    batch.copy();
    if (!journaled) return queue.publish();
    if (this.#isHeld[port] === 1) return;
    this.#isHeld[port] = 1;
    this.#pushed[this.#held++] = queue;
  }

  #show(): void {
    const pushed = this.#pushed;
    const held = this.#held;
    for (let i = 0; i < held; i++) {
      const queue = pushed[i]!;
      this.#isHeld[queue.portNo] = 0;
      queue.publish();
      pushed[i] = undefined;
    }
    this.#held = 0;
  }

  /** The burst is done: its source buffers are given back, and the journal knows. */
  release(): void {
    const locked = this.#locked;
    const count = this.#lockedCount;
    for (let i = 0; i < count; i++) {
      locked[i]!.unlock();
      locked[i] = undefined;
    }
    this.#lockedCount = 0;
  }

  #sendShared(queue: TxQueue, port: number, count: number): void {
    if (!queue.lock()) {
      this.drop(port, TX_RING_FULL, count);
      return;
    }
    // Rows of other ports that wait already are copied along; their queues are published later.
    this.#count(queue.push(this.#batch, this.lists[port]!, count));
    this.#batch.copy();
    queue.publish();
    queue.unlock();
  }

  /** Sends the full list of one port, outside the order of `transmit`; no other port is pushed at this time. */
  #sendOne(port: number): void {
    if (this.#batch.journal !== undefined) return this.#hold(port);
    const count = this.counts[port]!;
    this.counts[port] = 0;
    const queue = this.#lookup.txQueue(port);
    if (queue === undefined) {
      this.#unsendable(port, count);
    } else if (queue.shared) {
      this.#sendShared(queue, port, count);
    } else {
      this.#count(queue.push(this.#batch, this.lists[port]!, count));
      this.#batch.copy();
      queue.publish();
    }
  }

  #unsendable(port: number, count: number): void {
    if (this.#lookup.hasPort(port)) this.drop(port, TX_PORT_DOWN, count);
    else this.drop(this.#batch.inPort, NO_SUCH_PORT, count);
  }

  #count(packets: number): void {
    this.#worker[TX_PACKETS] = this.#worker[TX_PACKETS]! + packets;
    this.#worker[TX_BATCHES] = this.#worker[TX_BATCHES]! + 1;
  }
}
