/** What the two kinds of queue must know of the negotiation and of the port's settings. */

export interface RxOptions {
  /** Bytes of the virtio-net header: 12 or 10. */
  readonly headerBytes: number;
  readonly eventIdx: boolean;
  readonly notifyOnEmpty: boolean;
  /** The guest negotiated no offload, so its virtio-net headers say nothing (virtio 1.2 section 5.1.6.2). */
  readonly headersEmpty: boolean;
  /** gso_type of frames that the guest may send, each with ECN where it may. */
  readonly gso: readonly number[];
}

export interface TxOptions {
  readonly headerBytes: number;
  readonly eventIdx: boolean;
  readonly mergeable: boolean;
  /** The guest takes partial checksums (GUEST_CSUM), and GSO frames of these types. */
  readonly checksum: boolean;
  readonly gso: readonly number[];
  /** Bytes of an Ethernet payload. */
  readonly mtu: number;
  /** Looks at a full ring again, at most (tx-retries-max). */
  readonly retries: number;
  /** Every write to guest memory is logged: all of them must be copies of the batch. */
  readonly logged?: boolean;
}
