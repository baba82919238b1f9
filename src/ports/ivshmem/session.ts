/**
 * Main-thread half of an ivshmem port: its socket, its slot in a pool, and what the port says about itself.
 *
 * A slot lives in eras, each with a generation of its own. An era begins when a client connects, or at once where the pool
 * is a file that clients may open without the socket. It ends with the connection, when the client leaves or asks for a
 * reset, or with a fault. Between two eras no worker has the slot, and all that the client held has been taken back. What
 * begins or ends an era runs one after the other.
 */
import { close, eventfdDrain, Watcher } from '#contract/os.ts';
import type { PortConfig, PortHost, PortSession, PortState, PortStatus } from '#ports/port.ts';
import { Endpoint } from '../socket/endpoint.ts';
import { type IvshmemAttachment, KIND } from './attachment.ts';
import { Client } from './client.ts';
import { STATE_BROKEN, STATE_CLOSED, STATE_FREE } from './layout.ts';
import { parseOptions, type Settings } from './options.ts';
import type { Pool } from './pool.ts';
import type { Pools, Seat } from './registry.ts';

/** How often the client's words are looked at: while it is awaited, and later. */
const SOON_MS = 10;
const CHECK_MS = 100;
/** A client without a connection that counted its heart-beats, and stopped for so long, is lost. */
const SILENCE_MS = 10_000;
/** Numbers that change with every packet are told so often, at most. */
const COUNTS_MS = 1000;

export interface IvshmemContext {
  readonly rundir: string;
  readonly pools: Pools;
  readonly silenceMs?: number;
}

export class IvshmemSession implements PortSession {
  readonly portNo: number;
  readonly #config: PortConfig;
  readonly #host: PortHost;
  readonly #context: IvshmemContext;
  readonly #settings: Settings;
  readonly #doorbell = new Watcher((fd) => {
    eventfdDrain(fd);
    this.check();
  });
  #seat: Seat | undefined;
  #endpoint: Endpoint | undefined;
  #client: Client | undefined;
  /** Of the era; 0 between two. */
  #generation = 0;
  /** Workers have the slot. */
  #up = false;
  /** The client broke its rings, and has not asked for a reset. */
  #broken = false;
  #error = '';
  #faulted = false;
  #stopped = false;
  #timer: NodeJS.Timeout | undefined;
  /** What is under way, and whether that is anything. */
  #turn: Promise<void> = Promise.resolve();
  #busy = 0;
  #beat = 0;
  #beatAt = 0;
  #told = '';
  #toldCounts = '';
  #toldAt = 0;

  /** @throws Error naming the option at fault. */
  constructor(config: PortConfig, host: PortHost, context: IvshmemContext) {
    this.portNo = config.portNo;
    this.#config = config;
    this.#host = host;
    this.#context = context;
    this.#settings = parseOptions(config, context.rundir);
    context.pools.check(config.name, this.#settings.pool, config.portNo);
  }

  async start(): Promise<void> {
    const { pools } = this.#context;
    const endpoint = new Endpoint(
      this.#settings,
      (fd) => this.#connected(fd),
      (reason) => this.#trouble(reason),
    );
    this.#seat = pools.join(this.#config.name, this.#settings.pool, this.portNo, (reason) => this.#lost(reason));
    endpoint.start();
    this.#endpoint = endpoint;
    await this.#serial(async () => this.#ready());
    this.#schedule();
  }

  async reconfigure(options: Readonly<Record<string, string>>): Promise<boolean> {
    const next = parseOptions({ ...this.#config, options }, this.#context.rundir);
    return JSON.stringify(next) === JSON.stringify(this.#settings);
  }

  /** The memory was taken away: that concerns all ports of the pool. */
  fault(reason: string): void {
    this.#seat?.shared.fault(reason);
  }

  /** The pool while the port is started. */
  get pool(): Pool | undefined {
    return this.#seat?.shared.pool;
  }

  status(): PortStatus {
    return this.#status({ ...this.#facts(), ...this.#counts() });
  }

  #status(facts: Record<string, string>): PortStatus {
    const state = this.#state();
    return { state, lastError: state === 'up' ? '' : this.#error, linkUp: state === 'up', facts };
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#endpoint?.stop();
    this.#endpoint = undefined;
    this.#client?.end('');
    await this.#serial(() => this.#end(STATE_CLOSED));
    this.#seat?.leave();
    this.#seat = undefined;
  }

  /** Looks at what the client wrote into its slot. Runs by itself. */
  check(): void {
    const seat = this.#seat;
    if (this.#busy > 0 || !seat) return;
    const { backing, error, pool } = seat.shared;
    const { slot } = seat;
    if (backing.present() < backing.size) this.fault(`${backing.where} was truncated`);
    else if (error !== '') this.fault(error);
    else if (this.#generation === 0) return;
    else if (pool.resetWanted(slot)) void this.#serial(() => this.#again());
    else if (this.#broken) return;
    else if (this.#up) this.#checkUp(seat);
    else if (pool.hello(slot) === this.#generation) void this.#serial(() => this.#begin());
  }

  #checkUp({ shared: { pool }, slot }: Seat): void {
    const reason = pool.broken(slot);
    if (reason !== '') {
      this.#fail(`the client broke a ring: ${reason}`);
      void this.#serial(() => this.#break());
    } else if (pool.hello(slot) !== this.#generation) {
      void this.#serial(() => this.#again());
    } else if (!this.#client && this.#silent()) {
      this.#error = 'the client stopped counting its heart-beats';
      void this.#serial(() => this.#again());
    }
  }

  /** A client that counts heart-beats has stopped. */
  #silent(): boolean {
    const beat = this.#seat!.shared.pool.heartbeat(this.#seat!.slot);
    const now = performance.now();
    if (beat !== this.#beat) {
      this.#beat = beat;
      this.#beatAt = now;
    }
    return beat !== 0 && now - this.#beatAt > (this.#context.silenceMs ?? SILENCE_MS);
  }

  // What begins and ends an era. Each runs alone.

  /** Makes the slot ready for a client that is connected, or that may come without a connection. */
  #ready(): void {
    const { shared, slot } = this.#seat!;
    if (this.#stopped || shared.renewed || (!this.#client && shared.backing.where === 'memfd')) return;
    if (shared.error) throw new Error(shared.error);
    const { name, mtu } = this.#config;
    const plain = !this.#client;
    this.#generation = shared.pool.open(slot, {
      queues: this.#settings.queuePairs,
      mtu,
      portNo: this.portNo,
      name,
      plain,
    });
    this.#beatAt = performance.now();
    if (this.#client) this.#doorbell.add(this.#client.bells[0]!);
    this.#schedule();
  }

  /** The client said hello: workers get the slot. */
  async #begin(): Promise<void> {
    const { shared, slot } = this.#seat!;
    if (this.#up || this.#generation === 0 || this.#broken || shared.pool.hello(slot) !== this.#generation) return;
    this.#doorbell.close();
    try {
      await this.#host.attach(this.portNo, this.#attachment());
    } catch (error) {
      this.#broken = true;
      throw error;
    }
    this.#up = true;
    this.#faulted = false;
    this.#error = '';
  }

  /** Takes the slot from the workers, and from the client all that it held. */
  async #end(state: number): Promise<void> {
    this.#doorbell.close();
    if (this.#up) {
      this.#up = false;
      await this.#host.attach(this.portNo, undefined);
    }
    if (this.#generation > 0) this.#seat!.shared.pool.shut(this.#seat!.slot, state);
    this.#broken = state === STATE_BROKEN;
    if (!this.#broken) this.#generation = 0;
  }

  /** The slot stays broken until the client asks for another: it may be a guest that cannot connect again. */
  async #break(): Promise<void> {
    await this.#end(STATE_BROKEN);
    this.#client?.wake();
  }

  /** The same client starts anew. */
  async #again(): Promise<void> {
    await this.#end(STATE_FREE);
    this.#ready();
  }

  // Connections

  #connected(fd: number): void {
    void this.#serial(async () => {
      if (this.#stopped) {
        close(fd);
        return;
      }
      // A client without a connection may have had the slot.
      await this.#end(STATE_FREE);
      try {
        const client = new Client(fd, this.#seat!, this.#settings.vectors, (reason) => this.#hungUp(client, reason));
        this.#client = client;
      } catch (error) {
        this.#error = (error as Error).message;
        this.#endpoint?.released();
      }
      if (this.#client && !this.#faulted) this.#error = '';
      this.#ready();
    });
  }

  #hungUp(client: Client, reason: string): void {
    if (reason) this.#fail(reason);
    // The others hear of it at once.
    this.#seat?.departed();
    void this.#serial(async () => {
      await this.#end(STATE_FREE);
      client.close();
      this.#client = undefined;
      this.#ready();
      this.#endpoint?.released(reason !== '');
    });
  }

  /** The pool's memory was taken away. Resolves when nothing of the old one is in use. */
  async #lost(reason: string): Promise<void> {
    this.#fail(reason);
    this.#client?.end(reason);
    await this.#serial(() => this.#end(STATE_FREE));
    void this.#seat?.shared.renewed?.then(() => this.#serial(async () => this.#ready()));
  }

  #fail(reason: string): void {
    this.#faulted = true;
    this.#error = reason;
  }

  #trouble(reason: string): void {
    if (!this.#faulted) this.#error = reason;
    this.#tell();
  }

  /** One after the other; what fails is told. */
  #serial(work: () => Promise<void>): Promise<void> {
    this.#busy++;
    this.#turn = this.#turn
      .then(work)
      .catch((error: Error) => this.#fail(error.message))
      .then(() => {
        this.#busy--;
        this.#tell();
      });
    return this.#turn;
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    if (this.#stopped) return;
    const soon = this.#client !== undefined && !this.#up;
    const turn = (): void => {
      this.check();
      this.#tell();
      this.#schedule();
    };
    this.#timer = setTimeout(turn, soon ? SOON_MS : CHECK_MS).unref();
  }

  // What workers and management get

  #attachment(): IvshmemAttachment {
    const { shared, slot } = this.#seat!;
    const { queuePairs, vectors } = this.#settings;
    const queues = Array.from({ length: queuePairs }, (_, queue) => ({
      queue,
      kickFd: this.#client?.bells[queue % vectors] ?? -1,
      callFd: this.#client?.calls[queue % vectors] ?? -1,
    }));
    return {
      kind: KIND,
      portNo: this.portNo,
      rxQueues: queues.map(({ queue }) => queue),
      pool: shared.pool.place,
      slot,
      queues,
      mtu: this.#config.mtu,
    };
  }

  #state(): PortState {
    if (this.#up) return 'up';
    if (this.#faulted) return 'error';
    return this.#client ? 'negotiating' : 'waiting-socket';
  }

  #facts(): Record<string, string> {
    const { path, vectors, queuePairs, pool } = this.#settings;
    const facts: Record<string, string> = {
      mode: 'server',
      status: this.#client || this.#up ? 'connected' : 'disconnected',
      socket: path,
      mtu: String(this.#config.mtu),
      isolation: pool.isolated ? 'copy' : 'none',
      vectors: String(vectors),
      queues: String(queuePairs),
    };
    const seat = this.#seat;
    if (!seat) return facts;
    const { shared, slot } = seat;
    if (!pool.isolated) facts['pool'] = pool.name;
    facts['peer_id'] = String(slot);
    facts['pool_size'] = String(shared.backing.size);
    facts['backing'] = shared.backing.where;
    facts['generation'] = String(this.#generation);
    facts['peers'] = seat
      .others()
      .map(({ id }) => id)
      .join(' ');
    if (this.#client?.pid) facts['peer_pid'] = this.#client.pid;
    if (this.#up) {
      facts['client'] = shared.pool.clientName(slot);
      facts['attached_by'] = this.#client ? 'socket' : 'file';
    }
    return facts;
  }

  /** Buffers, as of now: those that the pool has free, and those that this client holds. */
  #counts(): Record<string, string> {
    if (!this.#seat) return {};
    const { shared, slot } = this.#seat;
    const { free, sending, receiving } = shared.pool.usage(slot);
    return {
      buffers: String(shared.pool.geometry.bufferCount),
      buffers_free: String(free),
      buffers_held: String(this.#generation > 0 && !this.#broken ? sending + receiving : 0),
    };
  }

  /** Tells what changed: at once, but for mere counts, which change with every packet. */
  #tell(): void {
    const status = this.#status(this.#facts());
    const text = JSON.stringify(status);
    const counts = this.#counts();
    const countsText = JSON.stringify(counts);
    const now = performance.now();
    if (text === this.#told && (countsText === this.#toldCounts || now - this.#toldAt < COUNTS_MS)) return;
    this.#told = text;
    this.#toldCounts = countsText;
    this.#toldAt = now;
    this.#host.status(this.portNo, { ...status, facts: { ...status.facts, ...counts } });
  }
}
