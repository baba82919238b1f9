/**
 * Post-copy migration (vhost-user.rst, "Migration"; QEMU, docs/devel/migration.rst): a guest that runs already while pages of
 * its memory are still with the QEMU that it came from. Who touches such a page waits until the front end has brought it.
 *
 * The front end hears of missing pages by addresses of this process, one per region: so all threads share the main thread's
 * mappings (Region.mapped). Workers may wait for a page, as in any back end; the main thread never does. A page that does
 * not come for LIMIT_MS, or a front end that goes, ends that: the guest's memory becomes zeros here, and whoever waits for
 * it goes on.
 */
import { address, close, dup, OsError, userfault } from '#contract/os.ts';

/** The longest wait for a page. Workers are asked every PROBE_MS whether they are still there. */
const LIMIT_MS = 10_000;
const PROBE_MS = 1000;

let available: boolean | undefined;

/** Whether this process may have its page faults served by another. */
export function postcopyAvailable(): boolean {
  if (available === undefined) {
    const fd = userfault.open();
    available = fd >= 0;
    if (fd >= 0) close(fd);
  }
  return available;
}

const check = (what: string, result: number): void => {
  if (result < 0) throw new OsError(what, -result);
};

/** Those under way: a worker that waits for the one cannot answer for the others. */
const underWay = new Set<Postcopy>();

export class Postcopy {
  #fd = -1;
  #listening = false;
  readonly #served = new Set<ArrayBuffer>();
  /** Regions were told and the front end has not said yet that it serves them. */
  awaiting = false;
  #asked = 0;
  #answered = true;
  /** Pages that are waited for in the name of the main thread, and since when. */
  #touching = 0;
  #touched = 0;

  /** The front end serves faults of memory that comes from now on. */
  get listening(): boolean {
    return this.#listening;
  }

  /** Memory was mapped for all threads, since pages were missing. */
  get shared(): boolean {
    return this.#served.size > 0;
  }

  facts(): Record<string, string> {
    return this.#fd >= 0 ? { postcopy: this.#listening ? 'listening' : 'advised' } : {};
  }

  /** @returns a descriptor for the front end, which is the caller's, or -1 when there is none to be had. */
  advise(): number {
    if (this.#fd < 0) this.#fd = userfault.open();
    return this.#fd < 0 ? -1 : dup(this.#fd);
  }

  /** @throws RangeError without an advice. */
  listen(): void {
    if (this.#fd < 0) throw new RangeError('POSTCOPY_LISTEN without POSTCOPY_ADVISE');
    this.#listening = true;
    underWay.add(this);
  }

  /** Missing pages of these mappings are asked for from now on. @throws OsError. */
  serve(buffers: readonly ArrayBuffer[]): void {
    for (const buffer of buffers) {
      if (this.#served.has(buffer)) continue;
      check('UFFDIO_REGISTER', userfault.register(this.#fd, address(buffer)));
      this.#served.add(buffer);
    }
    this.awaiting = true;
  }

  /** A mapping is about to go. */
  release(buffer: ArrayBuffer): void {
    this.#served.delete(buffer);
  }

  /** Resolves when [at, at + length) can be read without waiting, or is given up. */
  async touch(at: number, length: number): Promise<void> {
    if (this.#touching++ === 0) this.#touched = performance.now();
    try {
      await userfault.touch(at, length);
    } finally {
      this.#touching--;
    }
  }

  /** All pages have come. */
  end(): void {
    for (const buffer of this.#served) userfault.unregister(this.#fd, address(buffer));
    this.#finish();
  }

  /** Nobody will bring what is missing. */
  abandon(): void {
    if (this.#listening) for (const buffer of this.#served) userfault.abandon(this.#fd, address(buffer));
    this.#served.clear();
    this.#finish();
  }

  #finish(): void {
    if (this.#fd >= 0) close(this.#fd);
    this.#fd = -1;
    this.#listening = false;
    this.awaiting = false;
    underWay.delete(this);
  }

  /**
   * Looks after workers, now and then. @param barrier resolves when all have answered.
   * @throws Error when one has been waiting for too long.
   */
  tidy(barrier: () => Promise<void>, now = performance.now()): void {
    if (!this.#listening) return;
    const late = !this.#answered && now - this.#asked > LIMIT_MS;
    if (late || (this.#touching > 0 && now - this.#touched > LIMIT_MS)) {
      for (const other of underWay) other.#asked = now;
      throw new Error(`post-copy migration: a page of the guest did not come for ${LIMIT_MS / 1000} s`);
    }
    if (!this.#answered || now - this.#asked < PROBE_MS) return;
    this.#asked = now;
    this.#answered = false;
    const answered = (): void => {
      this.#answered = true;
    };
    barrier().then(answered, answered);
  }
}
