/**
 * Memory that a worker has let go of, and that is still mapped.
 *
 * An ArrayBuffer over a mapping is unmapped by its finalizer: after a collection, and in a turn of the event loop. A worker
 * makes no garbage to speak of, has a heap without a limit, and never returns to its event loop; so mappings of guests that
 * are gone would pile up until the system's limit (vm.max_map_count). Once enough of them wait, the worker leaves its poll
 * loop for a collection and one turn of the event loop: some milliseconds, at most once in PAUSE_MS.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { releasedMaps } from '#contract/os.ts';

/** Mappings that may wait; a guest with one region leaves about five. */
const ENOUGH = 64;
/** A guest that connects without end costs its neighbours no more than some milliseconds in this time. */
const PAUSE_MS = 1000;

export class Tidy {
  #seen = releasedMaps();
  #last = 0;
  #collect: (() => void) | undefined;

  /** Whether the worker should pause now. @param now milliseconds on any clock that does not go back. */
  due(now: number): boolean {
    return releasedMaps() - this.#seen >= ENOUGH && now - this.#last >= PAUSE_MS;
  }

  /** Collects garbage; finalizers run in the turns of the event loop that follow. */
  collect(now: number): void {
    this.#last = now;
    this.#seen = releasedMaps();
    if (!this.#collect) {
      setFlagsFromString('--expose-gc');
      this.#collect = runInNewContext('gc') as () => void;
    }
    this.#collect();
  }
}
