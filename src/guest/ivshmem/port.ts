/**
 * A port of a container or a test in a shared pool: attached through the switch's ivshmem server, or through the file
 * behind the pool.
 *
 * The port joins its slot, and joins again whenever the switch gives the slot another generation; when the server, or the
 * file's slot, goes away, it attaches anew. What was under way is lost then, and the buffers go back to the switch. Joining
 * needs the event loop of the thread that opened the port; bursts do not.
 */
import { closeSync, openSync } from 'node:fs';
import { eventfdSignal } from '#contract/os.ts';
import { ServerConnection } from './connection.ts';
import { checkIvshmemOptions, type IvshmemOptions, type IvshmemSettings } from './options.ts';
import { GuestPool, type Slot } from './pool.ts';
import { IvQueue } from './queue.ts';
import { queuePlace } from './ring.ts';

export type IvshmemState = 'waiting' | 'joining' | 'up' | 'closed';

/** How often the slot is looked at, while it is joined and later. */
const JOIN_MS = 2;
const LOOK_MS = 50;
const BEAT_MS = 1000;
/** The server does not say how many vectors there are: so long may pass between two of them. */
const VECTORS_MS = 200;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export class IvshmemPort {
  readonly settings: IvshmemSettings;
  /** Called at every change of `state`. */
  onState: (state: IvshmemState, reason: string) => void = () => {};
  /** Times that a slot was joined so far. */
  joins = 0;

  readonly #queues: IvQueue[] = [];
  #state: IvshmemState = 'waiting';
  #lastError = '';
  #connection: ServerConnection | undefined;
  #pool: GuestPool | undefined;
  #slot: Slot | undefined;
  #generation = 0;
  #retry: NodeJS.Timeout | undefined;
  #look: NodeJS.Timeout | undefined;
  #beatAt = 0;
  #waiters: { resolve(): void; reject(error: Error): void }[] = [];

  /** Use `openIvshmemPort`. */
  constructor(settings: IvshmemSettings) {
    this.settings = settings;
  }

  /** Queue pairs of the slot; none before the port was up first. */
  get queues(): readonly IvQueue[] {
    return this.#queues;
  }

  /** @throws RangeError when there is no such queue pair. */
  queue(index: number): IvQueue {
    const queue = this.#queues[index];
    if (!queue) throw new RangeError(`port has ${this.#queues.length} queue pairs, no number ${index}`);
    return queue;
  }

  get state(): IvshmemState {
    return this.#state;
  }

  /** Why the port is not up, or what last went wrong. */
  get lastError(): string {
    return this.#lastError;
  }

  /** This guest's id on the server, which is its slot; 0 before it has one. */
  get id(): number {
    return this.#slot?.number ?? 0;
  }

  /** The pool while the port is attached. */
  get pool(): GuestPool | undefined {
    return this.#pool;
  }

  /** True when the switch can call this guest: otherwise it must look. */
  get hasDoorbell(): boolean {
    return this.#connection !== undefined && this.#connection.own.length > 0;
  }

  /** Starts attaching. */
  start(): void {
    this.#attach().catch((error: Error) => this.#lost(error.message));
  }

  /** Resolves when the port is up. @throws Error with the last cause after `timeoutMs`, or when the port is closed. */
  async whenUp(timeoutMs = this.settings.timeoutMs): Promise<void> {
    if (this.#state === 'up') return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter = { resolve, reject };
    this.#waiters.push(waiter);
    const timer = setTimeout(() => {
      const where = this.settings.path ?? this.settings.file;
      reject(new Error(`ivshmem port at ${where} did not come up within ${timeoutMs} ms: ${this.#lastError}`));
    }, timeoutMs);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      this.#waiters = this.#waiters.filter((other) => other !== waiter);
    }
  }

  /** Drops everything as a crash would, without leaving the slot; the port attaches again as its options say. */
  disconnect(): void {
    this.#lost('dropped by the guest');
  }

  /** Leaves the slot (unless `abrupt`) and gives the memory back. */
  close(options: { abrupt?: boolean } = {}): void {
    if (this.#state === 'closed') return;
    if (!options.abrupt && this.#slot?.holds(this.#generation)) this.#slot.bye();
    this.#change('closed', 'closed by the guest');
    this.#letGo();
    clearTimeout(this.#retry);
    for (const waiter of this.#waiters) waiter.reject(new Error('port was closed'));
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #change(state: IvshmemState, reason: string): void {
    if (this.#state === 'closed') return;
    this.#state = state;
    if (reason) this.#lastError = reason;
    this.onState(state, reason);
    if (state === 'up') for (const waiter of this.#waiters) waiter.resolve();
  }

  async #attach(): Promise<void> {
    if (this.settings.path !== undefined) await this.#attachServer(this.settings.path);
    else this.#attachFile(this.settings.file!);
    if (this.#pool) await this.#join();
  }

  async #attachServer(path: string): Promise<void> {
    const connection = new ServerConnection(path);
    this.#connection = connection;
    connection.onClose = (reason) => {
      if (this.#connection === connection) this.#lost(reason);
    };
    this.#change('joining', '');
    const { promise, resolve } = Promise.withResolvers<void>();
    let timer: NodeJS.Timeout | undefined;
    connection.onNews = () => {
      if (connection.memoryFd < 0 || this.#connection !== connection) return;
      clearTimeout(timer);
      timer = setTimeout(resolve, VECTORS_MS);
      try {
        this.#pool ??= new GuestPool(connection.memoryFd);
        this.#slot ??= this.#pool.slot(connection.id);
        if (connection.own.length >= this.#slot.queues) resolve();
      } catch (error) {
        connection.close((error as Error).message);
      }
    };
    const late = setTimeout(() => connection.close('the switch did not show the shared memory'), this.settings.replyMs);
    const ended = connection.onClose;
    connection.onClose = (reason) => {
      resolve();
      ended(reason);
    };
    await promise;
    clearTimeout(timer);
    clearTimeout(late);
  }

  #attachFile(file: string): void {
    this.#change('joining', '');
    const fd = openSync(file, 'r+');
    try {
      this.#pool = new GuestPool(fd);
    } finally {
      closeSync(fd);
    }
    this.#slot = this.#pool.findSlot(this.settings.port);
  }

  /** Takes the slot up, of whatever generation it is by then. */
  async #join(): Promise<void> {
    const [pool, slot] = [this.#pool!, this.#slot!];
    const gone = () => this.#pool !== pool || this.#state === 'closed';
    const end = performance.now() + this.settings.replyMs;
    let not = 0;
    if (slot.used) {
      not = slot.generation;
      slot.askReset(not);
      this.#ring();
    }
    while (!gone() && !(slot.generation !== not && slot.holds(slot.generation) && !slot.used)) {
      if (performance.now() > end) throw new Error(`the switch did not make slot ${slot.number} ready`);
      await sleep(JOIN_MS);
    }
    if (gone()) return;
    this.#generation = slot.generation;
    slot.hello(this.#generation, this.settings.name);
    this.#ring();
    this.#attachQueues(pool, slot);
    this.joins++;
    this.#beatAt = performance.now();
    this.#schedule();
    this.#change('up', '');
  }

  #ring(): void {
    const fd = this.#connection?.ofSwitch[0];
    if (fd !== undefined) eventfdSignal(fd);
  }

  #attachQueues(pool: GuestPool, slot: Slot): void {
    const { own = [], ofSwitch = [] } = slot.plain ? {} : (this.#connection ?? {});
    while (this.#queues.length < slot.queues) this.#queues.push(new IvQueue(this.#queues.length));
    for (const queue of this.#queues.splice(slot.queues)) queue.detach();
    for (const queue of this.#queues) {
      // Queues beyond the vectors share those of the switch, but look for themselves: one queue's sleep must not eat another's call.
      const fds = { callFd: own[queue.index] ?? -1, kickFd: ofSwitch[queue.index % ofSwitch.length] ?? -1 };
      queue.attach(queuePlace(pool, slot.number, queue.index, this.#generation, fds));
    }
  }

  #schedule(): void {
    clearTimeout(this.#look);
    this.#look = setTimeout(() => this.#lookAtSlot(), LOOK_MS);
  }

  /** Is the slot still ours, and does the other side know that we live? */
  #lookAtSlot(): void {
    const slot = this.#slot;
    if (this.#state !== 'up' || !slot) return;
    const stale = this.#queues.some((queue) => queue.stale);
    if (stale || !slot.holds(this.#generation)) {
      // A file's slot says nothing about the next pool of that name.
      if (!this.#connection) return this.#lost('the switch took the slot away');
      this.#detachQueues();
      this.#change('joining', 'the switch took the slot away');
      this.#join().catch((error: Error) => this.#lost(error.message));
      return;
    }
    if (performance.now() - this.#beatAt >= BEAT_MS) {
      this.#beatAt = performance.now();
      slot.beat();
    }
    this.#schedule();
  }

  #detachQueues(): void {
    for (const queue of this.#queues) queue.detach();
  }

  #letGo(): void {
    clearTimeout(this.#look);
    this.#detachQueues();
    const [connection, pool] = [this.#connection, this.#pool];
    this.#connection = undefined;
    this.#pool = undefined;
    this.#slot = undefined;
    connection?.close();
    pool?.close();
  }

  #lost(reason: string): void {
    if (this.#state === 'closed') return;
    this.#letGo();
    clearTimeout(this.#retry);
    this.#change('waiting', reason);
    if (this.settings.reconnect === 'never' && this.joins > 0) return;
    this.#retry = setTimeout(() => this.start(), this.settings.retryMs);
  }
}

/**
 * Opens a port in a pool and waits until frames can pass.
 * @throws RangeError for an option that cannot be; Error with the cause when the port is not up within `timeoutMs`.
 */
export async function openIvshmemPort(options: IvshmemOptions): Promise<IvshmemPort> {
  const port = new IvshmemPort(checkIvshmemOptions(options));
  try {
    port.start();
    await port.whenUp();
    return port;
  } catch (error) {
    port.close({ abrupt: true });
    throw error;
  }
}
