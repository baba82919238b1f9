/**
 * The switch's end of one ivshmem slot, for tests of the guest's end: a pool, a server socket, and rings that the test moves
 * by hand, also in ways in which no switch would.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { accept, close, eventfd, eventfdDrain, memfd, unixListen, Watcher } from '#contract/os.ts';
import { GuestPool } from '#guest/ivshmem/pool.ts';
import { queuePlace } from '#guest/ivshmem/ring.ts';
import { S_HELLO, S_RESET, STATE_FREE, slotAt } from '#ports/ivshmem/layout.ts';
import { Pool } from '#ports/ivshmem/pool.ts';
import { ClientConnection } from '#ports/ivshmem/server.ts';
import { SWITCH_ID } from '#ports/ivshmem/wire.ts';

export const SHAPE = { size: 1 << 20, slots: 3, queues: 2, entries: 64, bufferBytes: 512, headroom: 64, credit: 16 };
export const SLOT = 1;

export interface StubFrame {
  /** Pieces: buffer and the bytes in it. */
  readonly pieces: { buffer: number; bytes: Uint8Array }[];
}

export class IvshmemStub {
  readonly memoryFd = memfd('ivshmem-stub', SHAPE.size, { seal: true });
  readonly pool = new Pool(this.memoryFd, SHAPE, 0);
  /** The same memory through the guest's eyes, to look at and to spoil. */
  readonly view = new GuestPool(this.memoryFd);
  readonly queues: number;
  generation = 0;
  /** Vectors: of the guest, of the switch. */
  readonly calls: number[];
  readonly bells: number[];
  client: ClientConnection | undefined;
  connections = 0;
  /** Reasons for which clients ended. */
  readonly ends: string[] = [];
  readonly #taken = new Map<number, number>();
  #nextBuffer = 0;
  #listener = -1;
  #watcher: Watcher | undefined;

  constructor(queues = 1, vectors = queues) {
    this.queues = queues;
    this.calls = Array.from({ length: vectors }, eventfd);
    this.bells = Array.from({ length: vectors }, eventfd);
  }

  /** Makes the slot ready anew. */
  open(plain = false): void {
    this.#taken.clear();
    this.generation = this.pool.open(SLOT, { queues: this.queues, mtu: 1500, portNo: 7, name: 'p1', plain });
  }

  shut(state: number = STATE_FREE): void {
    this.pool.shut(SLOT, state);
  }

  /** Words of the slot's row that the client writes. */
  get hello(): number {
    return this.view.u32[(slotAt(SLOT) + S_HELLO) / 4]!;
  }
  get reset(): number {
    return this.view.u32[(slotAt(SLOT) + S_RESET) / 4]!;
  }

  place(queue = 0) {
    return queuePlace(this.view, SLOT, queue, this.generation, {
      callFd: this.calls[queue] ?? -1,
      kickFd: this.bells[queue] ?? -1,
    });
  }

  /** Serves a socket in `dir`. @returns its path. */
  listen(dir: string): string {
    const path = join(dir, 'iv.sock');
    if (existsSync(path)) throw new Error(`${path} is taken`);
    this.#listener = unixListen(path);
    this.#watcher = new Watcher(() => {
      const fd = accept(this.#listener);
      if (fd < 0) return;
      this.connections++;
      this.open();
      const self = { id: SLOT, vectors: this.calls };
      const others = [
        { id: SWITCH_ID, vectors: this.bells },
        { id: 2, vectors: this.calls },
      ];
      this.client = new ClientConnection(fd, { memoryFd: this.memoryFd, self, others }, (reason) =>
        this.ends.push(reason),
      );
    });
    this.#watcher.add(this.#listener);
    return path;
  }

  /** Stops listening and hangs up. */
  vanish(): void {
    this.#watcher?.close();
    if (this.#listener >= 0) close(this.#listener);
    this.#listener = -1;
    this.client?.end('');
  }

  /** Entries of a ring that the client has produced since the last call. */
  #take(producer: number, key: number): number[] {
    const from = this.#taken.get(key) ?? 0;
    const to = this.view.u32[producer]!;
    this.#taken.set(key, to);
    return Array.from({ length: (to - from) >>> 0 }, (_, i) => (from + i) & (SHAPE.entries - 1));
  }

  /** Frames that the client has sent since the last call; with `refill` their buffers go back to it. */
  sent(queue = 0, refill = true): StubFrame[] {
    const { u32, u8 } = this.view;
    const { tx, free } = this.place(queue);
    const g = this.pool.geometry;
    const frames: StubFrame[] = [];
    let pieces: StubFrame['pieces'] = [];
    for (const entry of this.#take(tx.producer, 2 * queue)) {
      const [buffer, offset, length, flags] = u32.subarray(tx.entries + 4 * entry, tx.entries + 4 * entry + 4);
      const at = g.bufferOffset + buffer! * g.bufferBytes + offset!;
      pieces.push({ buffer: buffer!, bytes: u8.slice(at, at + length!) });
      if (refill) {
        const index = u32[free.producer]!;
        u32[free.entries + (index & (SHAPE.entries - 1))] = buffer!;
        u32[free.producer] = index + 1;
      }
      if (flags === 0) {
        frames.push({ pieces });
        pieces = [];
      }
    }
    u32[tx.consumer] = u32[tx.producer]!;
    return frames;
  }

  /** Gives the client a frame in these pieces. @returns their buffers. */
  deliver(pieces: readonly Uint8Array[], queue = 0, offset = 20): number[] {
    const { u32, u8 } = this.view;
    const { rx } = this.place(queue);
    const g = this.pool.geometry;
    const first = u32[rx.producer]!;
    const buffers = pieces.map((bytes, i) => {
      const buffer = 1000 + (this.#nextBuffer++ % 800);
      const at = rx.entries + 4 * ((first + i) & (SHAPE.entries - 1));
      u8.set(bytes, g.bufferOffset + buffer * g.bufferBytes + offset);
      u32.set([buffer, offset, bytes.length, i < pieces.length - 1 ? 1 : 0], at);
      return buffer;
    });
    u32[rx.producer] = first + pieces.length;
    return buffers;
  }

  /** Writes one entry of the rx ring as it is. */
  deliverRaw(words: readonly number[], queue = 0): void {
    const { u32 } = this.view;
    const { rx } = this.place(queue);
    const index = u32[rx.producer]!;
    u32.set(words, rx.entries + 4 * (index & (SHAPE.entries - 1)));
    u32[rx.producer] = index + 1;
  }

  /** Buffers that the client has returned since the last call. */
  returned(queue = 0): number[] {
    const { back } = this.place(queue);
    return this.#take(back.producer, 2 * queue + 1).map((entry) => this.view.u32[back.entries + entry]!);
  }

  /** Whether vector `vector` of the switch was rung since the last call. */
  rung(vector = 0): boolean {
    return eventfdDrain(this.bells[vector]!) > 0;
  }

  close(): void {
    this.vanish();
    this.view.close();
    this.pool.close();
    for (const fd of [this.memoryFd, ...this.calls, ...this.bells]) close(fd);
  }
}
