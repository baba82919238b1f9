/** A container's way into the switch: virtio-net over vhost-user. See docs/guest.md. */
export {
  DEFAULT_FEATURES,
  DEFAULT_PROTOCOL,
  type Feature,
  OFFLOAD_FEATURES,
  type ProtocolFeature,
} from './features.ts';
export type { ChainShape, MemoryOptions, PortOptions } from './options.ts';
export { openVirtioPort, type PortState, VirtioPort } from './port.ts';
export { type FrameHandler, type Offload, Queue, type ReceivedFrame } from './queue.ts';
export { RX_BURST } from './received.ts';
export type { RxQueue } from './rx.ts';
export type { PackedRxQueue } from './rx-packed.ts';
export { TX_BURST } from './to-send.ts';
export type { TxQueue } from './tx.ts';
export type { PackedTxQueue } from './tx-packed.ts';
