/**
 * The ports of the data process: their sessions, what workers see of them, and which worker polls which queue.
 *
 * Changes run one at a time. An attachment is replaced in three steps, each answered by every worker: nobody polls the
 * port; everybody takes the new attachment; polling starts again. So no worker ever touches the one before afterwards.
 */
import { MAX_PORTS } from '#contract/lane.ts';
import type { PortMessage } from '#contract/messages.ts';
import { takeFaults } from '#contract/os.ts';
import type { Attachment, PortConfig, PortHost, PortSession, PortStatus, SessionFactory } from '#ports/port.ts';
import { type AssignMode, type Assignment, type AssignQueue, assign, parseAffinity } from './assign.ts';
import type { UsageResult } from './verbs.ts';
import type { PmdWorker } from './workers.ts';

interface Entry {
  config: PortConfig;
  session: PortSession;
  attachment: Attachment | undefined;
  status: PortStatus;
}

export interface RxqUsage extends Assignment {
  readonly usage: number;
}

const WAITING: PortStatus = { state: 'waiting-socket', lastError: '', linkUp: false, facts: {} };
/** Share of the new minute in the moving average of loads, at one sample a second. */
const AVERAGE_WEIGHT = 1 / 15;

export class Ports implements PortHost {
  readonly #entries = new Map<number, Entry>();
  readonly #types: ReadonlyMap<string, SessionFactory>;
  readonly #onStatus: (port: PortMessage) => void;
  #workers: readonly PmdWorker[] = [];
  #assignments: Assignment[] = [];
  #isolated: ReadonlySet<number> = new Set();
  #mode: AssignMode = 'cycles';
  /** Moving average of cycles per second, and of the share of the worker's cycles, by "port/queue". */
  readonly #load = new Map<string, { cycles: number; share: number }>();
  #turn: Promise<unknown> = Promise.resolve();
  /** Names of ports whose front ends are still to come back, and what is done when they have. */
  readonly #awaited = new Set<string>();
  #gathered: (() => void) | undefined;

  constructor(types: ReadonlyMap<string, SessionFactory>, onStatus: (port: PortMessage) => void) {
    this.#types = types;
    this.#onStatus = onStatus;
  }

  /** One change after the other. */
  #serial<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  list(): PortMessage[] {
    return [...this.#entries.values()].map((entry) => message(entry));
  }

  /** What can be said against a port before anything changes; a session that is only made does nothing yet. */
  #check(wanted: PortConfig): SessionFactory {
    const factory = this.#types.get(wanted.type);
    if (!factory) {
      throw coded(
        'no_such_type',
        `unknown port type "${wanted.type}"; known are ${[...this.#types.keys()].join(', ')}`,
      );
    }
    for (const { config } of this.#entries.values()) {
      if (config.name === wanted.name && config.portNo !== wanted.portNo)
        throw coded('exists', `a port named ${wanted.name} exists`);
    }
    const affinity = wanted.options['pmd-rxq-affinity'];
    if (affinity !== undefined) parseAffinity(affinity);
    factory(wanted, this);
    return factory;
  }

  /** @throws Error with code `exists`, `no_such_type` or the session's own. @returns the port's number. */
  async add(wanted: PortConfig): Promise<number> {
    const factory = this.#check(wanted);
    const config = { ...wanted, portNo: wanted.portNo || this.#freeNumber() };
    if (config.portNo >= MAX_PORTS) throw coded('bad_port', `port number ${config.portNo} is not below ${MAX_PORTS}`);
    if (this.#entries.has(config.portNo)) throw coded('exists', `port number ${config.portNo} is taken`);
    const entry: Entry = { config, session: factory(config, this), attachment: undefined, status: WAITING };
    this.#entries.set(config.portNo, entry);
    try {
      await this.attach(config.portNo, undefined);
      await entry.session.start();
    } catch (error) {
      await this.delete(config.portNo);
      throw error;
    }
    this.status(config.portNo, entry.session.status());
    return config.portNo;
  }

  async set(wanted: PortConfig): Promise<void> {
    const entry = this.#entry(wanted.portNo);
    this.#check(wanted);
    const sameMtu = async (): Promise<boolean> =>
      entry.config.mtu === wanted.mtu || (await entry.session.setMtu?.(wanted.mtu)) === true;
    const same = entry.config.type === wanted.type && (await entry.session.reconfigure(wanted.options));
    if (same && (await sameMtu())) {
      entry.config = { ...wanted };
      await this.#serial(() => this.#reassign());
      return;
    }
    const before = entry.config;
    await this.delete(wanted.portNo);
    try {
      await this.add(wanted);
    } catch (error) {
      await this.add(before);
      throw error;
    }
  }

  async delete(portNo: number): Promise<void> {
    const entry = this.#entry(portNo);
    await entry.session.stop();
    this.#entries.delete(portNo);
    await this.attach(portNo, undefined);
    this.#arrived(entry.config.name);
  }

  attach(portNo: number, attachment: Attachment | undefined): Promise<void> {
    return this.#serial(async () => {
      const entry = this.#entries.get(portNo);
      if (entry) entry.attachment = attachment;
      await this.#poll((a) => a.portNo !== portNo);
      const known = entry !== undefined;
      await Promise.all(this.#workers.map((w) => w.ask({ verb: 'attach', portNo, attachment, known })));
      await this.#reassign();
    });
  }

  async barrier(): Promise<void> {
    await Promise.all(this.#workers.map((w) => w.ask({ verb: 'barrier' })));
  }

  status(portNo: number, status: PortStatus): void {
    const entry = this.#entries.get(portNo);
    if (!entry) return;
    entry.status = status;
    this.#onStatus(message(entry));
    if (status.linkUp) this.#arrived(entry.config.name);
  }

  /**
   * Until these ports are up, or the time is over, rings that outlive a data plane are not polled: what they hold is for guests
   * that are about to come back too.
   */
  gather(names: readonly string[], ms: number): Promise<void> {
    this.#gathered?.();
    return new Promise((resolve) => {
      const limit = setTimeout(() => this.#gathered?.(), ms);
      this.#gathered = () => {
        clearTimeout(limit);
        this.#gathered = undefined;
        this.#awaited.clear();
        this.#serial(() => this.#reassign()).then(resolve, resolve);
      };
      for (const name of names) this.#awaited.add(name);
      if (names.length === 0) this.#gathered();
    });
  }

  #arrived(name: string): void {
    if (this.#awaited.delete(name) && this.#awaited.size === 0) this.#gathered?.();
  }

  /**
   * Stops the workers so far, then gives all ports to these and spreads the queues anew. The first of them goes on with the
   * counters of those that stopped, all of them with the frames that waited for an answer.
   */
  useWorkers(workers: readonly PmdWorker[]): Promise<void> {
    return this.#serial(async () => {
      const old = this.#workers;
      await Promise.all(old.map((w) => w.stop()));
      const lanes = old.map((w) => w.laneFd);
      await Promise.all(
        workers.map((w, i) => {
          const upcallsOf = lanes.filter((_, from) => from % workers.length === i);
          return w.ask({ verb: 'inherit', countersOf: i === 0 ? lanes : [], upcallsOf });
        }),
      );
      this.#workers = workers;
      this.#assignments = [];
      for (const { config, attachment } of this.#entries.values()) {
        const { portNo } = config;
        await Promise.all(workers.map((w) => w.ask({ verb: 'attach', portNo, attachment, known: true })));
      }
      await this.#reassign();
    });
  }

  /** Places every queue anew, by what was measured. */
  rebalance(mode: AssignMode): Promise<void> {
    return this.#serial(async () => {
      this.#mode = mode;
      this.#assignments = [];
      await this.#reassign();
    });
  }

  /** A worker touched memory that is gone: close the ports that own it. */
  faults(): void {
    for (const { owner } of takeFaults()) this.#entries.get(owner)?.session.fault('guest memory was truncated');
  }

  /** Asks all workers where their cycles went since the last call, and updates the averages. */
  async sample(seconds: number): Promise<void> {
    for (const worker of this.#workers) {
      const usage = (await worker.ask({ verb: 'usage' })) as UsageResult;
      for (const { portNo, queue, cycles } of usage.queues) {
        const now = { cycles: cycles / seconds, share: usage.total > 0 ? cycles / usage.total : 0 };
        const key = `${portNo}/${queue}`;
        const old = this.#load.get(key);
        this.#load.set(
          key,
          old
            ? {
                cycles: old.cycles + (now.cycles - old.cycles) * AVERAGE_WEIGHT,
                share: old.share + (now.share - old.share) * AVERAGE_WEIGHT,
              }
            : now,
        );
      }
    }
  }

  usage(worker: number): { isolated: boolean; rxqs: RxqUsage[] } {
    const rxqs = this.#assignments
      .filter((a) => a.worker === worker)
      .map((a) => ({ ...a, usage: this.#load.get(`${a.portNo}/${a.queue}`)?.share ?? Number.NaN }));
    return { isolated: this.#isolated.has(worker), rxqs };
  }

  async stop(): Promise<void> {
    for (const portNo of [...this.#entries.keys()]) await this.delete(portNo);
  }

  #entry(portNo: number): Entry {
    const entry = this.#entries.get(portNo);
    if (!entry) throw coded('no_such_port', `no port has the number ${portNo}`);
    return entry;
  }

  #freeNumber(): number {
    for (let no = 1; no < MAX_PORTS; no++) if (!this.#entries.has(no)) return no;
    throw coded('full', `all ${MAX_PORTS - 1} port numbers are taken`);
  }

  #queues(): AssignQueue[] {
    const queues: AssignQueue[] = [];
    for (const { config, attachment } of this.#entries.values()) {
      if (this.#awaited.size > 0 && attachment?.kept) continue;
      const affinity = parseAffinity(config.options['pmd-rxq-affinity'] ?? '');
      for (const queue of attachment?.rxQueues ?? []) {
        const load = this.#load.get(`${config.portNo}/${queue}`)?.cycles ?? 0;
        queues.push({ portNo: config.portNo, queue, load, affinity: affinity.get(queue) ?? -1 });
      }
    }
    return queues;
  }

  /** A queue changes hands only after its old worker has let go of it. */
  async #reassign(): Promise<void> {
    const next = assign(this.#workers, this.#queues(), this.#mode, this.#assignments);
    const stays = new Set(this.#assignments.map((a) => `${a.portNo}/${a.queue}/${a.worker}`));
    this.#isolated = next.isolated;
    this.#assignments = next.assignments;
    await this.#poll((a) => stays.has(`${a.portNo}/${a.queue}/${a.worker}`));
    await this.#poll(() => true);
  }

  async #poll(which: (a: Assignment) => boolean): Promise<void> {
    const chosen = this.#assignments.filter(which);
    await Promise.all(
      this.#workers.map((w) => {
        const queues = chosen.filter((a) => a.worker === w.worker).map((a) => [a.portNo, a.queue] as const);
        return w.ask({ verb: 'poll', queues });
      }),
    );
  }
}

const coded = (code: string, text: string): Error => Object.assign(new Error(text), { code });

const message = (entry: Entry): PortMessage => ({
  config: { ...entry.config, options: { ...entry.config.options } },
  state: entry.status.state,
  lastError: entry.status.lastError,
  linkUp: entry.status.linkUp,
  facts: { ...entry.status.facts },
});
