/**
 * The lanes of a data plane that died, as the control plane has kept them: packets that wait in their upcall rings are asked
 * for again by the workers of this one. What the journal had decided about a ring's ends is done first (ports/vhost-user/journal.ts).
 */
import {
  H_MAGIC,
  H_NAME,
  H_UPCALL_FREED,
  H_UPCALL_HEAD,
  H_VERSION,
  LANE_BYTES,
  LANE_MAGIC,
  LANE_VERSION,
  Lane,
} from '#contract/lane.ts';
import { close, fileSize, map, release } from '#contract/os.ts';
import type { EndStep, Journal } from '#ports/vhost-user/journal-file.ts';
import type { PmdWorker } from './workers.ts';

export class LeftLanes {
  readonly #fds: readonly number[];
  readonly #names: number[] = [];
  readonly #journal: Journal;

  /** Takes the descriptors over. @throws Error when one is no lane of this version; all are closed then. */
  constructor(fds: readonly number[], journal: Journal) {
    this.#fds = fds;
    this.#journal = journal;
    try {
      for (const fd of fds) this.#names.push(this.#redo(fd));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Spreads the packets over these workers; resolves when all have taken their part. */
  async handTo(workers: readonly PmdWorker[]): Promise<void> {
    const parts = workers.map((worker, i) => {
      const upcallsOf = this.#fds.filter((_, from) => from % workers.length === i);
      return worker.ask({ verb: 'inherit', countersOf: [], upcallsOf });
    });
    await Promise.all(parts);
    for (const name of this.#names) this.#journal.forgetLane(name);
  }

  close(): void {
    for (const fd of this.#fds) close(fd);
  }

  /** @returns the lane's name. */
  #redo(fd: number): number {
    const size = fileSize(fd);
    if (size < LANE_BYTES) throw new Error(`lane has ${size} bytes, ${LANE_BYTES} needed`);
    const lane = new Lane(map(fd, 0, LANE_BYTES, { write: true, owner: 0 }));
    const { buffer, header } = lane;
    try {
      if (header[H_MAGIC] !== LANE_MAGIC || header[H_VERSION] !== LANE_VERSION)
        throw new Error(`lane version ${header[H_VERSION]} is not ${LANE_VERSION}`);
      redoEnds(lane, this.#journal);
      return header[H_NAME]!;
    } finally {
      release(buffer);
    }
  }
}

/** The upcall ring of a lane stands as its last burst had decided. */
export function redoEnds({ header }: Lane, journal: Journal): void {
  const { head, freed } = journal.lane(header[H_NAME]!);
  step(header, H_UPCALL_HEAD, head);
  step(header, H_UPCALL_FREED, freed);
}

/** Does what was decided, unless it was done. */
function step(header: Int32Array, at: number, decided: EndStep | undefined): void {
  if (decided && Atomics.load(header, at) === decided.before) Atomics.store(header, at, decided.next);
}
