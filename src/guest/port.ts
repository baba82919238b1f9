/**
 * A virtio-net port of a container or a test: memory, rings and queues on this side, a vhost-user back end (the switch) on
 * the other.
 *
 * The port owns a conversation that starts anew whenever the switch goes away: client ports connect again, server ports
 * wait for the next connection. Memory, rings and event descriptors live as long as the port, so frames that were under
 * way go on where the used rings stand (`reconnect: 'continue'`). The conversation needs the event loop of the thread that
 * opened the port; the queues need it only for `readable`.
 */
import {
  accept,
  close as closeFd,
  EAGAIN,
  errnoName,
  eventfd,
  eventfdSignal,
  unixConnect,
  unixListen,
  unlinkIfSocket,
  Watcher,
} from '#contract/os.ts';
import { packedBase } from '#ports/vhost-user/wire.ts';
import { Connection } from './connection.ts';
import { type Feature, featureNames, hasFeature, headerBytes } from './features.ts';
import {
  type InflightArea,
  type Negotiated,
  negotiate,
  type RingPlan,
  sendEnable,
  shareInflight,
  startRings,
  stopRings,
} from './handshake.ts';
import { type RingLayout, ringLayout } from './layout.ts';
import { GuestMemory } from './memory.ts';
import { checkOptions, type PortOptions, type Settings } from './options.ts';
import { Queue } from './queue.ts';
import { RxQueue } from './rx.ts';
import { PackedRxQueue } from './rx-packed.ts';
import { TxQueue } from './tx.ts';
import { PackedTxQueue } from './tx-packed.ts';

export type PortState = 'waiting' | 'negotiating' | 'up' | 'closed';

export class VirtioPort {
  readonly settings: Settings;
  /** Called at every change of `state`. */
  onState: (state: PortState, reason: string) => void = () => {};
  /** Connections that came up so far. */
  connections = 0;

  readonly #queues: Queue[] = [];
  readonly #memory: GuestMemory;
  readonly #layouts: RingLayout[] = [];
  readonly #kickFds: number[] = [];
  readonly #callFds: number[] = [];
  readonly #errorFd = eventfd();
  #state: PortState = 'waiting';
  #lastError = '';
  #agreed: Negotiated | undefined;
  #connection: Connection | undefined;
  #inflight: InflightArea | undefined;
  #listener = -1;
  #listenWatcher: Watcher | undefined;
  #retry: NodeJS.Timeout | undefined;
  #enabled: number;
  #waiters: { resolve(): void; reject(error: Error): void }[] = [];

  /** Use `openVirtioPort`. */
  constructor(settings: Settings) {
    this.settings = settings;
    this.#enabled = settings.enabled;
    const indirect = hasFeature(settings.wanted, 'INDIRECT_DESC');
    const rx = ringLayout(settings.ringSize, settings.rxBuffers, settings.rxFrameBytes, indirect, settings.packed);
    const tx = ringLayout(settings.ringSize, settings.txBuffers, settings.txFrameBytes, indirect, settings.packed);
    for (let i = 0; i < settings.queues; i++) this.#layouts.push(rx, tx);
    const sizes = this.#layouts.map(({ bytes, buffers, stride }) => ({
      ringBytes: bytes,
      bufferBytes: buffers * stride,
    }));
    this.#memory = new GuestMemory('virtio-port', sizes, settings.memory);
    for (let i = 0; i < settings.queues; i++) {
      const [rxBlock, txBlock] = [this.#memory.blocks[2 * i]!, this.#memory.blocks[2 * i + 1]!];
      const queue = settings.packed
        ? new Queue(
            i,
            new PackedRxQueue(rxBlock, rx, settings.rxFrameBytes),
            new PackedTxQueue(txBlock, tx, settings.txFrameBytes),
          )
        : new Queue(
            i,
            new RxQueue(rxBlock, rx, settings.rxFrameBytes),
            new TxQueue(txBlock, tx, settings.txFrameBytes),
          );
      this.#queues.push(queue);
      for (let k = 0; k < 2; k++) {
        this.#kickFds.push(eventfd());
        this.#callFds.push(eventfd());
      }
    }
  }

  /** Queue pairs of the port, enabled or not. */
  get queues(): readonly Queue[] {
    return this.#queues;
  }

  /** @throws RangeError when there is no such queue pair. */
  queue(index: number): Queue {
    const queue = this.#queues[index];
    if (!queue) throw new RangeError(`port has ${this.#queues.length} queue pairs, no number ${index}`);
    return queue;
  }

  get state(): PortState {
    return this.#state;
  }

  /** Why the port is not up, or what last went wrong. */
  get lastError(): string {
    return this.#lastError;
  }

  /** Features agreed on with the switch; empty before the first connection. */
  get features(): readonly Feature[] {
    return this.#agreed ? featureNames(this.#agreed.features) : [];
  }

  /** What both sides agreed on; undefined before the first connection. */
  get negotiated(): Negotiated | undefined {
    return this.#agreed;
  }

  get memory(): GuestMemory {
    return this.#memory;
  }

  /** Starts connecting or listening. @throws OsError when the path cannot be listened at. */
  start(): void {
    if (this.settings.role === 'server') this.#listen();
    else this.#connect();
  }

  /** Resolves when the port is up. @throws Error with the last cause after `timeoutMs`, or when the port is closed. */
  async whenUp(timeoutMs = this.settings.timeoutMs): Promise<void> {
    if (this.#state === 'up') return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter = { resolve, reject };
    this.#waiters.push(waiter);
    const timer = setTimeout(() => {
      const cause = this.#lastError || `nothing connected to ${this.settings.path}`;
      reject(new Error(`port at ${this.settings.path} did not come up within ${timeoutMs} ms: ${cause}`));
    }, timeoutMs);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      this.#waiters = this.#waiters.filter((other) => other !== waiter);
    }
  }

  /**
   * Enables the first `count` queue pairs and disables the others; the switch spreads its frames over those enabled.
   * @throws RangeError for a count that the port does not have.
   */
  setQueues(count: number): void {
    if (!Number.isInteger(count) || count < 1 || count > this.#queues.length) {
      throw new RangeError(`cannot enable ${count} queue pairs of ${this.#queues.length}`);
    }
    this.#enabled = count;
    if (this.#state !== 'up' || !hasFeature(this.#agreed!.features, 'PROTOCOL_FEATURES')) return;
    for (let ring = 0; ring < this.#layouts.length; ring++) {
      sendEnable(this.#connection!, ring, ring >> 1 < count);
    }
  }

  /** Drops the connection as a crash would, without stopping the rings; the port connects again as its options say. */
  disconnect(): void {
    this.#connection?.close('dropped by the guest');
  }

  /** Stops the rings in order (unless `abrupt`), closes the connection and gives the memory back. */
  async close(options: { abrupt?: boolean } = {}): Promise<void> {
    if (this.#state === 'closed') return;
    const connection = this.#connection;
    if (connection && this.#state === 'up' && !options.abrupt) {
      const rings = this.#layouts.map((_, ring) => ring);
      // A switch that is gone or silent must not keep a guest from leaving.
      await stopRings(connection, this.#agreed!, rings).catch(() => undefined);
    }
    this.#change('closed', 'closed by the guest');
    this.#connection = undefined;
    connection?.close();
    clearTimeout(this.#retry);
    this.#listenWatcher?.close();
    if (this.#listener >= 0) {
      closeFd(this.#listener);
      unlinkIfSocket(this.settings.path);
    }
    for (const { rx, tx } of this.#queues) {
      rx.close();
      tx.close();
    }
    for (const fd of [...this.#kickFds, ...this.#callFds, this.#errorFd]) closeFd(fd);
    if (this.#inflight) closeFd(this.#inflight.fd);
    this.#memory.close();
    for (const waiter of this.#waiters) waiter.reject(new Error('port was closed'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #change(state: PortState, reason: string): void {
    if (this.#state === 'closed') return;
    this.#state = state;
    if (reason) this.#lastError = reason;
    this.onState(state, reason);
    if (state === 'up') for (const waiter of this.#waiters) waiter.resolve();
  }

  #connect(): void {
    if (this.#state === 'closed') return;
    try {
      this.#begin(unixConnect(this.settings.path));
    } catch (error) {
      this.#lost((error as Error).message);
    }
  }

  #listen(): void {
    unlinkIfSocket(this.settings.path);
    this.#listener = unixListen(this.settings.path);
    this.#listenWatcher = new Watcher(() => {
      const fd = accept(this.#listener);
      if (fd === -EAGAIN) return;
      if (fd < 0) this.#lastError = `accept failed: ${errnoName(fd)}`;
      else if (this.#connection) closeFd(fd);
      else this.#begin(fd);
    });
    this.#listenWatcher.add(this.#listener);
  }

  #begin(fd: number): void {
    const connection = new Connection(fd, this.settings.replyMs);
    this.#connection = connection;
    connection.onClose = (reason) => {
      if (this.#connection !== connection) return;
      this.#connection = undefined;
      this.#lost(reason);
    };
    this.#change('negotiating', '');
    this.#converse(connection).catch((error: Error) => {
      connection.close(error.message);
    });
  }

  async #converse(connection: Connection): Promise<void> {
    const agreed = await negotiate(connection, this.settings);
    const fresh = this.#agreed?.features !== agreed.features || this.settings.reconnect === 'reset';
    this.#agreed = agreed;
    if (fresh) this.#resetRings(agreed.features);
    this.#inflight = await shareInflight(connection, this.settings, agreed, this.#inflight);
    await startRings(connection, this.settings, agreed, this.#memory.regions, this.#ringPlans(), this.#enabled);
    for (let i = 0; i < this.#queues.length; i++) {
      const { rx, tx } = this.#queues[i]!;
      rx.attach(this.#kickFds[2 * i]!, this.#callFds[2 * i]!);
      tx.attach(this.#kickFds[2 * i + 1]!);
    }
    // Whatever notifications got lost with the last connection: the switch looks, and so do we.
    for (const fd of this.#kickFds) eventfdSignal(fd);
    for (const fd of this.#callFds) eventfdSignal(fd);
    this.connections++;
    this.#change('up', '');
  }

  #resetRings(features: bigint): void {
    const header = headerBytes(features);
    const eventIndex = hasFeature(features, 'EVENT_IDX');
    const indirect = hasFeature(features, 'INDIRECT_DESC');
    // Without these the header must lie in a descriptor of its own (virtio 1.2 section 2.7.4.3, legacy).
    const legacyFraming = !hasFeature(features, 'VERSION_1') && !hasFeature(features, 'ANY_LAYOUT');
    for (const { rx, tx } of this.#queues) {
      rx.configure(header, eventIndex, hasFeature(features, 'MRG_RXBUF'));
      rx.reset(this.settings.rxShape ?? { headerAlone: legacyFraming && !hasFeature(features, 'MRG_RXBUF') }, indirect);
      tx.configure(header, eventIndex, indirect, legacyFraming);
      tx.reset();
    }
  }

  #ringPlans(): RingPlan[] {
    return this.#layouts.map((layout, index) => {
      const block = this.#memory.blocks[index]!;
      const queue = this.#queues[index >> 1]!;
      const at = block.file.userAddress + block.ringAt;
      const place = index % 2 === 0 ? queue.rx.usedIndex : queue.tx.usedIndex;
      return {
        index,
        size: layout.size,
        base: this.settings.packed ? packedBase(place) : place,
        address: { descriptors: at + layout.descAt, available: at + layout.availAt, used: at + layout.usedAt },
        kickFd: this.#kickFds[index]!,
        callFd: this.#callFds[index]!,
        errorFd: this.#errorFd,
      };
    });
  }

  #lost(reason: string): void {
    this.#change('waiting', reason);
    if (this.#state === 'closed' || this.settings.role === 'server') return;
    if (this.settings.reconnect === 'never' && this.connections > 0) return;
    this.#retry = setTimeout(() => this.#connect(), this.settings.retryMs);
  }
}

/**
 * Opens a port and waits until frames can pass.
 * @throws RangeError for an option that cannot be; Error with the cause when the port is not up within `timeoutMs`.
 */
export async function openVirtioPort(options: PortOptions): Promise<VirtioPort> {
  const port = new VirtioPort(checkOptions(options));
  try {
    port.start();
    await port.whenUp();
    return port;
  } catch (error) {
    await port.close({ abrupt: true });
    throw error;
  }
}
