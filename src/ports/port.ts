/**
 * What a port is, to the rest of the data plane.
 *
 * A port has two halves. Its **session** lives in the main thread: sockets, protocol, life cycle. Each PMD worker has an
 * **attachment**: the rx and tx queues it may touch, made from plain data that the session hands over. The session changes
 * what workers see only by `PortHost.attach`, which replaces the whole attachment and resolves when every worker has taken
 * it: after that no worker touches memory or descriptors of the one before.
 */
import type { PacketBatch } from '#datapath/packet/batch.ts';
import type { RxQueue, TxQueue } from '#datapath/packet/queues.ts';

export type { RxQueue, TxQueue };

/** One worker's view of one port. */
export interface WorkerPort {
  readonly portNo: number;
  readonly rx: readonly RxQueue[];
  /** The queue that this worker sends on; undefined while the guest has none enabled. */
  readonly tx: TxQueue | undefined;
  /** Lets go of memory and descriptors. */
  close(): void;
}

/** Where a port counts; a row of the lane of this worker (contract/lane.ts). */
export interface PortCounters {
  readonly slots: Float64Array;
  /** Index of the port's row in `slots`. */
  readonly base: number;
}

/** What a worker tells a port factory about itself. */
export interface WorkerContext {
  /** This worker's number and the number of workers. */
  readonly worker: number;
  readonly workers: number;
  readonly counters: PortCounters;
  /** Scratch of this worker, where tx linearises frames that need software offload. */
  readonly batch: PacketBatch;
}

/** Plain data (structured clone) from which a worker makes its view of a port; `kind` chooses the factory. */
export interface Attachment {
  readonly kind: string;
  readonly portNo: number;
  /** rx queues that exist and are enabled; the assignment of queues to workers names these numbers. */
  readonly rxQueues: readonly number[];
  /** Set where the port's rings outlive the data plane with what is in them (vhost-user's INFLIGHT_SHMFD). */
  readonly kept?: boolean;
}

/** Makes a worker's view. `previous` is this port's view before, for reuse of mappings; the factory closes or absorbs it. */
export type PortFactory = (
  attachment: Attachment,
  context: WorkerContext,
  previous: WorkerPort | undefined,
) => WorkerPort;

export type PortState =
  | 'waiting-socket'
  | 'connecting'
  | 'negotiating'
  | 'no-shared-memory'
  | 'rings-stopped'
  /** A kernel interface that is not there, or down. */
  | 'waiting-interface'
  | 'up'
  | 'error';

/** What a session says about itself; shown by the API and `rw-vsctl`. */
export interface PortStatus {
  readonly state: PortState;
  /** Why the port is not up, or what last went wrong; names the cause and the fix. Empty when all is well. */
  readonly lastError: string;
  readonly linkUp: boolean;
  /** Further facts by name (features=0x…, mtu=1500, mode=client, socket=…), as in ovs-vsctl's Interface `status`. */
  readonly facts: Readonly<Record<string, string>>;
}

/** What a session may ask of the data process. */
export interface PortHost {
  /** Replaces the port's attachment in all workers; undefined takes it away. */
  attach(portNo: number, attachment: Attachment | undefined): Promise<void>;
  /** Resolves when every worker has ended the burst that it is in. */
  barrier?(): Promise<void>;
  /** Says that the status changed. */
  status(portNo: number, status: PortStatus): void;
}

/** Main-thread half of a port. */
export interface PortSession {
  readonly portNo: number;
  /** @throws Error that names the option and the fix when the port cannot be set up. */
  start(): Promise<void>;
  /** Changes options while running, where possible. @returns false when the port must be made anew. */
  reconfigure(options: Readonly<Record<string, string>>): Promise<boolean>;
  /** Changes the MTU while running. @returns false, or absent: the port must be made anew. */
  setMtu?(mtu: number): Promise<boolean>;
  /** The guest took memory away under a worker: close the connection with this reason. */
  fault(reason: string): void;
  status(): PortStatus;
  stop(): Promise<void>;
}

/** Settings of a port as they come over the contract. */
export interface PortConfig {
  readonly portNo: number;
  readonly name: string;
  readonly type: string;
  readonly options: Readonly<Record<string, string>>;
  /** Frames longer than this (Ethernet payload, bytes) are not sent to the port; 0: what the interface has (`system`). */
  readonly mtu: number;
}

/** Makes the session of a port type. @throws Error naming the option at fault. */
export type SessionFactory = (config: PortConfig, host: PortHost) => PortSession;
