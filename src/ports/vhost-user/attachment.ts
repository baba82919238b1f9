/**
 * What a worker gets of a vhost-user port: plain data, and the view made from it.
 *
 * Descriptors in an attachment belong to the session, which keeps them open for as long as the attachment stands. Every
 * worker maps the guest's memory for itself; a new attachment of the same memory table takes the mappings over.
 */
import { setFlagsFromString } from 'node:v8';
import type { Attachment, PortFactory, RxQueue, TxQueue, WorkerContext, WorkerPort } from '#ports/port.ts';
import { ChainWalker } from './chain.ts';
import { PackedChainWalker } from './chain-packed.ts';
import { Extras } from './extras.ts';
import { type AddressSpace, GuestMemory, type Region } from './guest-memory.ts';
import type { IommuParts } from './iommu.ts';
import { IommuView } from './iommu-view.ts';
import type { RxOptions, TxOptions } from './queue-options.ts';
import { RingWindows } from './ring-windows.ts';
import { VhostRxQueue } from './rx.ts';
import { PackedRxQueue } from './rx-packed.ts';
import type { ServiceParts } from './services.ts';
import { VhostTxQueue } from './tx.ts';
import { PackedTxQueue } from './tx-packed.ts';
import { type RingPlace, Vring } from './vring.ts';
import { PackedVring } from './vring-packed.ts';

// With this feedback on, V8 14 does the sums of addresses, which are doubles, in 64-bit integers with range checks and a
// conversion on either side. It concerns speed only.
setFlagsFromString('--no-additive-safe-int-feedback');

export const KIND = 'vhost-user';

export interface VhostUserAttachment extends Attachment, ServiceParts, IommuParts {
  readonly kind: typeof KIND;
  /** Number of the memory table, never used twice in a process. */
  readonly generation: number;
  readonly regions: readonly Region[];
  /** Rings that are started and enabled. */
  readonly rings: readonly RingPlace[];
  /** The rings are packed, not split. */
  readonly packed: boolean;
  /** Every write to guest memory is logged, not those to rings only. */
  readonly logAll?: boolean;
  /** STATE_WORDS words per virtqueue (vring.ts). */
  readonly state: SharedArrayBuffer;
  readonly rx: RxOptions;
  readonly tx: TxOptions;
}

class VhostWorkerPort implements WorkerPort {
  readonly portNo: number;
  readonly rx: readonly RxQueue[];
  readonly tx: TxQueue | undefined;
  readonly generation: number;
  readonly memory: GuestMemory;
  readonly #tx: VhostTxQueue | PackedTxQueue | undefined;
  readonly #extras: Extras;
  readonly #iommu: IommuView | undefined;
  readonly #windows: RingWindows;

  constructor(attachment: VhostUserAttachment, context: WorkerContext, memory: GuestMemory) {
    const { portNo, rings, state, rx } = attachment;
    const tx = attachment.logAll ? { ...attachment.tx, logged: true } : attachment.tx;
    const { counters, worker, workers } = context;
    this.portNo = portNo;
    this.generation = attachment.generation;
    this.memory = memory;
    const receiving = rings.filter(({ index }) => index % 2 === 1);
    const sending = rings.filter(({ index }) => index % 2 === 0);
    const place = sending[worker % sending.length];
    const shared = sending.length < workers;
    const extras = new Extras(attachment, context, memory);
    this.#extras = extras;
    const windows = new RingWindows(memory.buffers, portNo);
    this.#windows = windows;
    const iommu = attachment.iommu && new IommuView(attachment, context, memory, windows);
    this.#iommu = iommu;
    // Frames of the guest are read, buffers for it written; indirect tables are read in either case.
    const readable: AddressSpace = iommu?.readable ?? memory;
    const writable: AddressSpace = iommu?.writable ?? memory;
    let inner: RxQueue[];
    if (attachment.packed) {
      const vring = (ring: RingPlace) => new PackedVring(windows.resolve(ring), windows.buffers, state);
      const walker = new PackedChainWalker(readable);
      const filling = iommu ? new PackedChainWalker(writable, readable) : walker;
      inner = receiving.map((r) => new PackedRxQueue(portNo, r.index >> 1, vring(r), walker, counters, rx));
      this.#tx = place && new PackedTxQueue(portNo, place.index >> 1, shared, vring(place), filling, counters, tx);
    } else {
      const vring = (ring: RingPlace) => new Vring(windows.resolve(ring), windows.buffers, state);
      const walker = new ChainWalker(readable);
      const filling = iommu ? new ChainWalker(writable, readable) : walker;
      inner = receiving.map((r) => new VhostRxQueue(portNo, r.index >> 1, vring(r), walker, counters, rx));
      this.#tx = place && new VhostTxQueue(portNo, place.index >> 1, shared, vring(place), filling, counters, tx);
    }
    const outer = this.#tx && extras.tx(this.#tx, place!);
    this.tx = outer && iommu ? iommu.tx(outer, place!) : outer;
    this.rx = inner.map((queue, i) => {
      const extra = extras.rx(queue, receiving[i]!);
      return iommu ? iommu.rx(extra, receiving[i]!) : extra;
    });
  }

  /** Takes the view apart but leaves the mappings to another one. */
  handOver(): GuestMemory {
    this.#iommu?.close();
    this.#extras.close();
    this.#tx?.close();
    this.#windows.close();
    return this.memory;
  }

  close(): void {
    this.handOver().close();
  }
}

/** Makes a worker's view of a vhost-user port. @throws OsError when guest memory cannot be mapped. */
export const attachVhostUser: PortFactory = (attachment, context, previous) => {
  const wanted = attachment as VhostUserAttachment;
  if (!(previous instanceof VhostWorkerPort)) {
    previous?.close();
    return new VhostWorkerPort(wanted, context, new GuestMemory(wanted.regions, wanted.portNo));
  }
  const before = previous.handOver();
  if (previous.generation === wanted.generation) return new VhostWorkerPort(wanted, context, before);
  try {
    // Regions that stay keep their mappings, so that adding one costs no more than its own.
    return new VhostWorkerPort(wanted, context, new GuestMemory(wanted.regions, wanted.portNo, before));
  } finally {
    before.close();
  }
};
