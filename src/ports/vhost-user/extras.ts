/**
 * What stands around the queues of one worker's view while the front end wants more than frames: a dirty log, an
 * announcement, a journal of rings in flight. Without those, queues are used as they are.
 */
import { map, release } from '#contract/os.ts';
import type { RxQueue, TxQueue, WorkerContext } from '#ports/port.ts';
import { AnnouncingRx } from './announce.ts';
import type { VhostUserAttachment } from './attachment.ts';
import { DirtyLog, type PageLog } from './dirty-log.ts';
import type { GuestMemory } from './guest-memory.ts';
import {
  CARRIED_SECTIONS,
  type JournalQueue,
  type JournalRing,
  MAX_SECTIONS,
  SECTION_WORDS,
  WorkerJournal,
} from './journal.ts';
import { type LoggedRing, LoggedRx, LoggedTx } from './logged.ts';
import { PiecewiseLog } from './ring-windows.ts';
import { type RingPlace, STATE_WORDS } from './vring.ts';

/** A queue that knows where its ring will stand. */
const isTracked = (queue: object): queue is JournalQueue => 'next' in queue;

export class Extras {
  readonly #attachment: VhostUserAttachment;
  readonly #context: WorkerContext;
  readonly #log: DirtyLog | undefined;
  readonly #logBuffer: ArrayBuffer | undefined;
  readonly #journal: WorkerJournal | undefined;
  readonly #tracked: JournalRing[] = [];

  /** @throws OsError when the log or the journal cannot be mapped. */
  constructor(attachment: VhostUserAttachment, context: WorkerContext, memory: GuestMemory) {
    this.#attachment = attachment;
    this.#context = context;
    const { log, inflight, portNo } = attachment;
    if (log) {
      this.#logBuffer = map(log.fd, log.offset, log.size, { write: true, owner: portNo });
      this.#log = new DirtyLog(this.#logBuffer, memory);
      if (attachment.logAll) context.batch.copyLogs.push(this.#log);
    }
    if (inflight && context.worker < MAX_SECTIONS) this.#journal = this.#workerJournal(inflight.fd);
  }

  rx(queue: RxQueue, place: RingPlace): RxQueue {
    this.#track(queue, place);
    const log = this.#ringLog(place);
    const logged = log ? new LoggedRx(queue, log, this.#loggedRing(place)) : queue;
    const { announce } = this.#attachment;
    if (!announce || place.index !== 1) return logged;
    return new AnnouncingRx(logged, announce, this.#state(place), this.#context.counters);
  }

  tx(queue: TxQueue & { journaled: boolean }, place: RingPlace): TxQueue {
    queue.journaled = this.#track(queue, place);
    const log = this.#ringLog(place);
    return log ? new LoggedTx(queue, log, this.#loggedRing(place)) : queue;
  }

  /** The queues are not used any more. */
  close(): void {
    const { batch } = this.#context;
    if (this.#log && batch.copyLogs.includes(this.#log)) batch.copyLogs.splice(batch.copyLogs.indexOf(this.#log), 1);
    if (this.#logBuffer) release(this.#logBuffer);
    for (const ring of this.#tracked.splice(0)) this.#journal!.remove(ring);
    if (this.#journal?.empty) batch.journal = undefined;
  }

  #ringLog({ log, windows }: RingPlace): PageLog | undefined {
    if (!this.#log || !log) return undefined;
    const pieces = windows?.flat() ?? [];
    return pieces.length > 0 ? new PiecewiseLog(this.#log, pieces) : this.#log;
  }

  #state(place: RingPlace): Int32Array {
    return new Int32Array(this.#attachment.state, place.index * STATE_WORDS * 4, STATE_WORDS);
  }

  #loggedRing(place: RingPlace): LoggedRing {
    const { packed, rx } = this.#attachment;
    return { packed, size: place.size, eventIdx: rx.eventIdx, ...place.log!, state: this.#state(place) };
  }

  /** One journal serves all ports of a worker. */
  #workerJournal(fd: number): WorkerJournal {
    const { batch, worker } = this.#context;
    if (batch.journal instanceof WorkerJournal) return batch.journal;
    const bytes = SECTION_WORDS * 4;
    const journal = new WorkerJournal(
      new Int32Array(map(fd, (CARRIED_SECTIONS + worker) * bytes, bytes, { write: true, owner: 0 })),
      batch.upcalls,
    );
    batch.journal = journal;
    return journal;
  }

  /** @returns whether the queue takes part in the journal. */
  #track(queue: object, place: RingPlace): boolean {
    if (!this.#journal || !isTracked(queue)) return false;
    const { low, high } = this.#attachment.inflight!;
    const ring = { low, high, ring: place.index, state: this.#state(place), queue };
    this.#journal.add(ring);
    this.#tracked.push(ring);
    return true;
  }
}
