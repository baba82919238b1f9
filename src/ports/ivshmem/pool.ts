/**
 * A pool as the main thread has it: the shared object formatted, slots opened and shut, what clients wrote into their rows, and
 * the balance of buffers.
 *
 * A slot is opened and shut only while no worker has an attachment for it. Other ports of the pool go on meanwhile.
 */
import { randomInt } from 'node:crypto';
import { map, release } from '#contract/os.ts';
import * as layout from './layout.ts';
import {
  B_HOLDERS,
  B_OWNER,
  BUFFER_WORDS,
  C_FREE,
  lock,
  ownerId,
  ownerSlot,
  PoolRecords,
  Q_BROKEN,
  Q_FREE,
  Q_HELD,
  Q_OUT,
  QUEUE_WORDS,
  recordsBytes,
  SWITCH_BIT,
  unlock,
} from './records.ts';
import type { PoolPlace } from './view.ts';

export interface SlotSettings {
  /** Queue pairs in use. */
  readonly queues: number;
  /** Bytes of an Ethernet payload. */
  readonly mtu: number;
  readonly portNo: number;
  readonly name: string;
  /** Nobody rings doorbells. */
  readonly plain: boolean;
}

/** Buffers by who holds them; free, sending, receiving and held add up to total. */
export interface PoolAudit {
  readonly total: number;
  readonly free: number;
  /** Held by clients for sending. */
  readonly sending: number;
  /** Received by clients, and not held by the switch as well. */
  readonly receiving: number;
  /** Held by the switch, in the middle of a burst. */
  readonly held: number;
  /** Buffers that more than one slot has received. */
  readonly shared: number;
  /** On the stack of free buffers, which must equal `free`. */
  readonly stacked: number;
}

/** Pools made so far in this process: their numbers. */
let pools = 0;

export class Pool {
  readonly geometry: layout.PoolGeometry;
  /** For attachments. */
  readonly place: PoolPlace;
  readonly #memory: ArrayBuffer;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #records: PoolRecords;
  /** By slot: its generation, whatever peers write into its row. */
  readonly #generations: Int32Array;

  /**
   * Formats the object behind `fd`, whatever was in it.
   * @param owner port that faults of this mapping are told to.
   * @throws RangeError for a shape that cannot be, OsError when the object cannot be mapped.
   */
  constructor(fd: number, shape: layout.PoolShape, owner: number) {
    const g = layout.geometry(shape);
    this.geometry = g;
    this.#memory = map(fd, 0, g.size, { write: true, owner });
    this.#words = new Int32Array(this.#memory, 0, g.bufferOffset >> 2);
    this.#bytes = new Uint8Array(this.#memory, 0, g.bufferOffset);
    const records = new SharedArrayBuffer(recordsBytes(g));
    this.#records = new PoolRecords(records, g);
    this.place = { number: ++pools, fd, geometry: g, records };
    this.#generations = this.#format();
    const { stack, control } = this.#records;
    // Low numbers first: memory that is never needed is never touched.
    for (let i = 0; i < g.bufferCount; i++) stack[i] = g.bufferCount - 1 - i;
    control[C_FREE] = g.bufferCount;
  }

  /** @returns the generations that slots begin with. */
  #format(): Int32Array {
    const g = this.geometry;
    const words = this.#words;
    const put = (at: number, value: number): void => {
      words[at >> 2] = value;
    };
    // Clients of a pool that was here before see first that it is none any more, then other generations.
    Atomics.store(words, layout.H_MAGIC_HIGH >> 2, 0);
    const generations = Int32Array.from({ length: g.slots }, (_, slot) => {
      const before = words[this.#at(slot, layout.S_GENERATION)]!;
      return before > 0 ? before : randomInt(1, 2 ** 30);
    });
    this.#bytes.fill(0, 0, g.queueOffset);
    put(layout.H_MAGIC_LOW, layout.MAGIC_LOW);
    put(layout.H_VERSION, layout.VERSION);
    put(layout.H_SIZE, g.size % 2 ** 32);
    put(layout.H_SIZE + 4, Math.floor(g.size / 2 ** 32));
    put(layout.H_SLOT_OFFSET, layout.PAGE);
    put(layout.H_SLOT_STRIDE, layout.SLOT_STRIDE);
    put(layout.H_SLOT_COUNT, g.slots);
    put(layout.H_QUEUE_COUNT, g.queues);
    put(layout.H_QUEUE_OFFSET, g.queueOffset);
    put(layout.H_QUEUE_STRIDE, g.queueStride);
    put(layout.H_RING_ENTRIES, g.entries);
    put(layout.H_BUFFER_OFFSET, g.bufferOffset);
    put(layout.H_BUFFER_BYTES, g.bufferBytes);
    put(layout.H_BUFFER_COUNT, g.bufferCount);
    put(layout.H_HEADROOM, g.headroom);
    put(layout.H_CREDIT, g.credit);
    put(layout.H_EPOCH, randomInt(1, 2 ** 31));
    for (let slot = 0; slot < g.slots; slot++) {
      words[this.#at(slot, layout.S_GENERATION)] = generations[slot]!;
    }
    this.#name(layout.SWITCH_SLOT, layout.S_NAME, 'switch');
    Atomics.store(words, layout.H_MAGIC_HIGH >> 2, layout.MAGIC_HIGH);
    return generations;
  }

  /**
   * Makes a slot ready for a client: empty rings, a new generation, buffers to send with as many as there are.
   * @returns the generation. @throws RangeError for a slot or a number of queues that the pool has not.
   */
  open(slot: number, settings: SlotSettings): number {
    const g = this.geometry;
    if (!(Number.isInteger(slot) && slot > 0 && slot < g.slots))
      throw new RangeError(`the pool has slots 1 to ${g.slots - 1}, not ${slot}`);
    const { queues } = settings;
    if (!(queues > 0 && queues <= g.queues))
      throw new RangeError(`the pool has 1 to ${g.queues} queues, not ${queues}`);
    const words = this.#words;
    this.#setState(slot, layout.STATE_FREE);
    this.reclaim(slot);
    for (let queue = 0; queue < g.queues; queue++) {
      const at = layout.queueAt(g, slot, queue);
      words.fill(0, at >> 2, (at + layout.RINGS * layout.RING_HEADER_BYTES) >> 2);
      this.#records.queue(slot, queue).fill(0, 0, QUEUE_WORDS);
    }
    this.#under(() => {
      for (let queue = 0; queue < queues; queue++) this.#grant(slot, queue);
    });
    const row = layout.slotAt(slot);
    words.fill(0, (row + layout.S_QUEUES) >> 2, (row + layout.SLOT_STRIDE) >> 2);
    words[this.#at(slot, layout.S_QUEUES)] = queues;
    words[this.#at(slot, layout.S_MTU)] = settings.mtu;
    words[this.#at(slot, layout.S_PORT)] = settings.portNo;
    words[this.#at(slot, layout.S_FLAGS)] = layout.FLAG_LINK | (settings.plain ? layout.FLAG_PLAIN : 0);
    this.#name(slot, layout.S_NAME, settings.name);
    const before = this.#generations[slot]!;
    const generation = before === 2 ** 31 - 1 ? 1 : before + 1;
    this.#generations[slot] = generation;
    Atomics.store(words, this.#at(slot, layout.S_GENERATION), generation);
    this.#setState(slot, layout.STATE_READY);
    return generation;
  }

  /** First buffers of a queue pair. Under the lock. */
  #grant(slot: number, queue: number): void {
    const g = this.geometry;
    const { control, stack, buffers } = this.#records;
    const row = this.#records.queue(slot, queue);
    const at = layout.queueAt(g, slot, queue);
    const ring = new Uint32Array(this.#memory, at + layout.ringEntriesAt(layout.RING_FREE, g.entries), g.entries);
    const n = Math.min(g.credit, control[C_FREE]!);
    for (let i = 0; i < n; i++) {
      const buffer = stack[--control[C_FREE]!]!;
      buffers[buffer * BUFFER_WORDS + B_OWNER] = ownerId(slot, queue);
      ring[i] = buffer;
    }
    row[Q_FREE] = n;
    row[Q_HELD] = n;
    const header = at + layout.ringHeaderAt(layout.RING_FREE) + layout.R_PRODUCER;
    Atomics.store(this.#words, header >> 2, n);
  }

  /** Shuts a slot: its client is told by `state` (a STATE_ number but READY), all that it held is taken back. */
  shut(slot: number, state: number): void {
    const error = this.#error(slot);
    this.#words[this.#at(slot, layout.S_ERROR)] = state === layout.STATE_BROKEN ? error : layout.ERROR_NONE;
    this.#words[this.#at(slot, layout.S_FLAGS)]! &= ~layout.FLAG_LINK;
    this.#setState(slot, state);
    this.reclaim(slot);
  }

  /** Takes back all buffers that a slot holds; those that others have received as well stay with those. @returns freed. */
  reclaim(slot: number): number {
    const bit = 1 << slot;
    return this.#under(() => {
      const { control, stack, buffers } = this.#records;
      const before = control[C_FREE]!;
      let free = before;
      for (let buffer = 0, at = 0; buffer < this.geometry.bufferCount; buffer++, at += BUFFER_WORDS) {
        const owner = buffers[at + B_OWNER]!;
        const holders = buffers[at + B_HOLDERS]!;
        if (owner > 0 && ownerSlot(owner) === slot) {
          buffers[at + B_OWNER] = 0;
          stack[free++] = buffer;
        } else if ((holders & bit) !== 0) {
          buffers[at + B_HOLDERS] = holders & ~bit;
          if ((holders & ~bit) !== 0) continue;
          buffers[at + B_OWNER] = 0;
          stack[free++] = buffer;
        }
      }
      control[C_FREE] = free;
      return free - before;
    });
  }

  /** Counts all buffers. */
  audit(): PoolAudit {
    return this.#under(() => {
      const { buffers, control } = this.#records;
      const total = this.geometry.bufferCount;
      const counts = { free: 0, sending: 0, receiving: 0, held: 0, shared: 0 };
      for (let at = 0; at < total * BUFFER_WORDS; at += BUFFER_WORDS) {
        const holders = buffers[at + B_HOLDERS]!;
        const slots = holders & ~SWITCH_BIT;
        if (buffers[at + B_OWNER]! > 0) counts.sending++;
        else if (holders === 0) counts.free++;
        else if ((holders & SWITCH_BIT) !== 0) counts.held++;
        else counts.receiving++;
        if ((slots & (slots - 1)) !== 0) counts.shared++;
      }
      return { total, ...counts, stacked: control[C_FREE]! };
    });
  }

  /** Buffers that a slot holds: for sending, and received. */
  holdings(slot: number): { sending: number; receiving: number } {
    const bit = 1 << slot;
    return this.#under(() => {
      const { buffers } = this.#records;
      const counts = { sending: 0, receiving: 0 };
      for (let at = 0; at < this.geometry.bufferCount * BUFFER_WORDS; at += BUFFER_WORDS) {
        const owner = buffers[at + B_OWNER]!;
        if (owner > 0 && ownerSlot(owner) === slot) counts.sending++;
        if ((buffers[at + B_HOLDERS]! & bit) !== 0) counts.receiving++;
      }
      return counts;
    });
  }

  /** Buffers free in the pool, and those that a slot holds, by the counts of its queues: cheap, and of no one moment. */
  usage(slot: number): { free: number; sending: number; receiving: number } {
    const counts = { free: this.#records.control[C_FREE]!, sending: 0, receiving: 0 };
    for (let queue = 0; queue < this.geometry.queues; queue++) {
      const row = this.#records.queue(slot, queue);
      counts.sending += row[Q_HELD]!;
      counts.receiving += row[Q_OUT]!;
    }
    return counts;
  }

  /** What the slot's client did to break a ring; empty when all is well. */
  broken(slot: number): string {
    return layout.ERRORS[this.#error(slot)] ?? '';
  }

  #error(slot: number): number {
    for (let queue = 0; queue < this.geometry.queues; queue++) {
      const error = Atomics.load(this.#records.queue(slot, queue), Q_BROKEN);
      if (error !== 0) return error;
    }
    return layout.ERROR_NONE;
  }

  /** Generation that the slot's client works with; 0: none. */
  hello(slot: number): number {
    return Atomics.load(this.#words, this.#at(slot, layout.S_HELLO));
  }

  /** The slot's client asks for a new generation. */
  resetWanted(slot: number): boolean {
    const wanted = Atomics.load(this.#words, this.#at(slot, layout.S_RESET));
    return wanted !== 0 && wanted === ((this.#generations[slot]! + 1) | 0);
  }

  /** The client's count of its heart-beats. */
  heartbeat(slot: number): number {
    return Atomics.load(this.#words, this.#at(slot, layout.S_HEARTBEAT));
  }

  /** What the client calls itself: printable characters only. */
  clientName(slot: number): string {
    const at = layout.slotAt(slot) + layout.S_CLIENT_NAME;
    const text = new TextDecoder().decode(this.#bytes.slice(at, at + layout.NAME_BYTES));
    return text.split('\0')[0]!.replace(/[^\p{L}\p{N}\p{P}\p{S} ]/gu, '');
  }

  /** Shows clients that the switch lives. */
  beat(): void {
    Atomics.add(this.#words, layout.H_HEARTBEAT >> 2, 1);
  }

  /** Lets go of the mapping. All slots are shut, no worker has the pool. */
  close(): void {
    release(this.#memory);
  }

  /** Runs `work` while no worker changes who holds what. */
  #under<T>(work: () => T): T {
    const { control } = this.#records;
    lock(control);
    try {
      return work();
    } finally {
      unlock(control);
    }
  }

  #at(slot: number, field: number): number {
    return (layout.slotAt(slot) + field) >> 2;
  }

  #setState(slot: number, state: number): void {
    Atomics.store(this.#words, this.#at(slot, layout.S_STATE), state);
  }

  #name(slot: number, field: number, name: string): void {
    const at = layout.slotAt(slot) + field;
    const bytes = this.#bytes.subarray(at, at + layout.NAME_BYTES);
    bytes.fill(0);
    // Writes whole characters only.
    new TextEncoder().encodeInto(name, bytes);
  }
}
