/** What a worker gets of a TAP device: the descriptors of its queues, which the session owns, and the view made from them. */
import type { Attachment, PortFactory, RxQueue, TxQueue, WorkerContext, WorkerPort } from '../port.ts';
import { landingOf } from './landing.ts';
import { TapRxQueue } from './tap-rx.ts';
import { KernelTxQueue } from './tx.ts';

export const TAP_KIND = 'tap';

export interface TapAttachment extends Attachment {
  readonly kind: typeof TAP_KIND;
  /** One per queue. */
  readonly fds: readonly number[];
  readonly mtu: number;
}

class TapWorkerPort implements WorkerPort {
  readonly portNo: number;
  readonly rx: readonly RxQueue[];
  readonly tx: TxQueue;
  readonly #tx: KernelTxQueue;

  constructor({ portNo, fds, mtu }: TapAttachment, { worker, counters, batch }: WorkerContext) {
    this.portNo = portNo;
    this.rx = fds.map((fd, queue) => new TapRxQueue(portNo, queue, fd, landingOf(batch), counters));
    const queue = worker % fds.length;
    this.#tx = new KernelTxQueue(portNo, queue, fds[queue]!, false, counters, mtu);
    this.tx = this.#tx;
  }

  close(): void {
    this.#tx.close();
  }
}

/** Makes a worker's view of a TAP device. */
export const tapPort: PortFactory = (attachment, context, previous) => {
  previous?.close();
  return new TapWorkerPort(attachment as TapAttachment, context);
};
