/** A container's way into a shared pool: packets by reference, through an ivshmem port. See docs/guest.md. */
export type { IvshmemOptions } from './options.ts';
export { IvshmemPort, type IvshmemState, openIvshmemPort } from './port.ts';
export { type IvFrameHandler, IvQueue } from './queue.ts';
export { IV_RX_BURST, type IvRxQueue } from './rx.ts';
export { IV_TX_BURST, type IvTxQueue } from './tx.ts';
