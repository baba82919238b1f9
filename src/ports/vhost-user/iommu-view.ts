/** What a worker's view of a port has more where the guest is behind an IOMMU: its address spaces, and queues around its queues. */
import type { RxQueue, TxQueue, WorkerContext } from '#ports/port.ts';
import type { VhostUserAttachment } from './attachment.ts';
import { ChainWalker } from './chain.ts';
import { PackedChainWalker } from './chain-packed.ts';
import type { GuestMemory } from './guest-memory.ts';
import { IommuRx, IommuTx } from './iommu-queues.ts';
import { IotlbShared, MAX_IOTLB_WORKERS } from './iotlb-shared.ts';
import { AskingSpace, IommuWorker, IovaSpace } from './iova-space.ts';
import { type LookAhead, PackedLookAhead, SplitLookAhead } from './look-ahead.ts';
import type { RingWindows } from './ring-windows.ts';
import { DESC_WRITE, type RingPlace, Vring } from './vring.ts';
import { PackedVring } from './vring-packed.ts';
import { IOTLB_READ, IOTLB_WRITE } from './wire.ts';

export class IommuView {
  readonly readable: IovaSpace;
  readonly writable: IovaSpace;
  readonly #worker: IommuWorker;
  readonly #attachment: VhostUserAttachment;
  readonly #context: WorkerContext;
  readonly #memory: GuestMemory;
  readonly #windows: RingWindows;
  #tx: IommuTx | undefined;

  /** @throws RangeError for a worker beyond MAX_IOTLB_WORKERS. */
  constructor(attachment: VhostUserAttachment, context: WorkerContext, memory: GuestMemory, windows: RingWindows) {
    this.#windows = windows;
    const { shared, missFd } = attachment.iommu!;
    if (context.worker >= MAX_IOTLB_WORKERS) {
      throw new RangeError(`a port behind an IOMMU has at most ${MAX_IOTLB_WORKERS} workers`);
    }
    this.#attachment = attachment;
    this.#context = context;
    this.#memory = memory;
    this.#worker = new IommuWorker(new IotlbShared(shared), context.worker, missFd);
    this.readable = new IovaSpace(this.#worker, memory, IOTLB_READ);
    this.writable = new IovaSpace(this.#worker, memory, IOTLB_WRITE);
  }

  /** Before the rx queues. */
  tx(queue: TxQueue, place: RingPlace): TxQueue {
    this.#tx = new IommuTx(queue, this.#worker, place.index, this.#ahead(place, DESC_WRITE), this.#context.counters);
    return this.#tx;
  }

  rx(queue: RxQueue, place: RingPlace): RxQueue {
    return new IommuRx(queue, this.#worker, place.index, this.#ahead(place, 0), this.#tx);
  }

  /** The queues are not used any more. */
  close(): void {
    this.#worker.close();
  }

  #ahead(place: RingPlace, direction: number): LookAhead {
    const asking = new AskingSpace(this.#worker, this.#memory, direction === 0 ? IOTLB_READ : IOTLB_WRITE);
    const { packed, state } = this.#attachment;
    const here = this.#windows.resolve(place);
    const { buffers } = this.#windows;
    if (packed) {
      const vring = new PackedVring(here, buffers, state);
      return new PackedLookAhead(vring, new PackedChainWalker(asking, this.readable), direction);
    }
    const vring = new Vring(here, buffers, state);
    return new SplitLookAhead(vring, new ChainWalker(asking, this.readable), direction);
  }
}
