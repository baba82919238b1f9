/**
 * What a worker gets of an ivshmem port: plain data, and the view made from it.
 *
 * Descriptors in an attachment belong to the session, which keeps them open for as long as the attachment stands. A worker
 * maps a pool once for all ports of it.
 */
import type { Attachment, PortFactory, RxQueue, TxQueue, WorkerContext, WorkerPort } from '#ports/port.ts';
import { queueAt } from './layout.ts';
import { ReturnRing } from './returns.ts';
import { IvshmemRxQueue } from './rx.ts';
import { IvshmemTxQueue } from './tx.ts';
import { type PoolPlace, PoolView } from './view.ts';

export const KIND = 'ivshmem';

export interface QueuePlace {
  readonly queue: number;
  /** eventfd that the client rings for this queue pair (peer 0, vector q); -1: none. */
  readonly kickFd: number;
  /** eventfd that calls the client (vector q); -1: none. */
  readonly callFd: number;
}

export interface IvshmemAttachment extends Attachment {
  readonly kind: typeof KIND;
  readonly pool: PoolPlace;
  /** The client's slot, 1 to 31: it was added to the pool before. */
  readonly slot: number;
  /** Queue pairs 0..n-1. */
  readonly queues: readonly QueuePlace[];
  /** Bytes of an Ethernet payload. */
  readonly mtu: number;
}

/** The pools of this thread, by number. */
const views = new Map<number, PoolView>();

function openView(place: PoolPlace, context: WorkerContext): PoolView {
  const view = views.get(place.number) ?? new PoolView(place, context.workers === 1);
  views.set(place.number, view);
  view.users++;
  return view;
}

function closeView(view: PoolView): void {
  if (--view.users > 0) return;
  views.delete(view.number);
  view.close();
}

class IvshmemWorkerPort implements WorkerPort {
  readonly portNo: number;
  readonly rx: readonly RxQueue[];
  readonly tx: TxQueue | undefined;
  readonly #view: PoolView;
  readonly #tx: IvshmemTxQueue | undefined;
  readonly #returns: ReturnRing[] = [];

  constructor(attachment: IvshmemAttachment, context: WorkerContext, view: PoolView) {
    const { portNo, slot, queues, mtu } = attachment;
    const { geometry, records } = view;
    const { worker, workers, counters } = context;
    const at = (queue: number): number => queueAt(geometry, slot, queue);
    this.portNo = portNo;
    this.#view = view;
    this.rx = queues.map(
      (place) =>
        new IvshmemRxQueue(
          portNo,
          place.queue,
          view,
          slot,
          at(place.queue),
          records.queue(slot, place.queue),
          place,
          counters,
        ),
    );
    const place = queues[worker % queues.length];
    const shared = queues.length < workers;
    if (place) {
      const { queue, callFd } = place;
      const row = records.queue(slot, queue);
      this.#tx = new IvshmemTxQueue(portNo, queue, shared, view, slot, at(queue), row, { callFd, mtu }, counters);
    }
    this.tx = this.#tx;
    // Queues that nobody sends on now may have been sent on before: their returns count as well.
    for (let queue = worker + workers; queue < queues.length; queue += workers) {
      const row = records.queue(slot, queue);
      const ring = new ReturnRing(view, slot, at(queue), row, false, counters);
      this.#returns.push(ring);
      view.returns.push(ring);
    }
  }

  close(): void {
    this.#tx?.close();
    const { returns } = this.#view;
    for (const ring of this.#returns) returns.splice(returns.indexOf(ring), 1);
    closeView(this.#view);
  }
}

/** Makes a worker's view of an ivshmem port. @throws OsError when the pool cannot be mapped. */
export const ivshmemPort: PortFactory = (attachment, context, previous) => {
  const wanted = attachment as IvshmemAttachment;
  // Opened before the one before is closed: the mapping is kept.
  const view = openView(wanted.pool, context);
  previous?.close();
  return new IvshmemWorkerPort(wanted, context, view);
};
