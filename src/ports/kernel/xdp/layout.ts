/**
 * Numbers and structures of AF_XDP: Documentation/networking/af_xdp.rst, <linux/if_xdp.h>.
 *
 * struct xdp_umem_reg, 32 bytes: address u64, length u64, chunk_size u32, headroom u32, flags u32, tx_metadata_len u32.
 * struct xdp_desc, 16 bytes: address u64, length u32, options u32. The fill and completion rings hold addresses, u64.
 * XDP_MMAP_OFFSETS gives for each ring (rx, tx, fill, completion) where in its map producer, consumer, descriptors and
 * flags lie, each a u64.
 */
export const SOL_XDP = 283;
export const XDP_MMAP_OFFSETS = 1;
export const XDP_RX_RING = 2;
export const XDP_TX_RING = 3;
export const XDP_UMEM_REG = 4;
export const XDP_UMEM_FILL_RING = 5;
export const XDP_UMEM_COMPLETION_RING = 6;
export const XDP_STATISTICS = 7;

/** Offsets at which mmap finds the rings. */
export const PGOFF_RX = 0;
export const PGOFF_TX = 0x8000_0000;
export const PGOFF_FILL = 0x1_0000_0000;
export const PGOFF_COMPLETION = 0x1_8000_0000;

/** Flags of bind. */
export const XDP_COPY = 2;
export const XDP_ZEROCOPY = 4;
export const XDP_USE_NEED_WAKEUP = 8;
export const XDP_USE_SG = 16;

/** Flag of struct xdp_umem_reg: tx frames have metadata in front of them (Linux 6.8). */
export const XDP_UMEM_TX_METADATA_LEN = 4;
/** Bit of a descriptor's options: its metadata is to be read. */
export const XDP_TX_METADATA = 2;
/**
 * Bytes of metadata: flags u64, csum_start u16, csum_offset u16, and room for what later kernels add
 * (Documentation/networking/xsk-tx-metadata.rst).
 */
export const TX_METADATA_BYTES = 32;
/** Flag of the metadata: the device completes the checksum. */
export const TXMD_CHECKSUM = 2;

/** Bit of a ring's flags: the kernel sleeps and wants a call. */
export const RING_NEED_WAKEUP = 1;
/** Bit of a descriptor's options: the frame goes on in the next one (Linux 6.6). */
export const XDP_PKT_CONTD = 1;
/** Buffers of one frame that the kernel takes at most: a linear part and MAX_SKB_FRAGS. */
export const MAX_FRAME_BUFFERS = 18;

/** Bytes that the kernel keeps free in front of a received frame (XDP_PACKET_HEADROOM). */
export const RX_HEADROOM = 256;

/** Fields of struct xdp_statistics, each a u64, in order. */
export const STATISTICS = [
  'rx_dropped',
  'rx_invalid_descs',
  'tx_invalid_descs',
  'rx_ring_full',
  'rx_fill_ring_empty_descs',
  'tx_ring_empty_descs',
] as const;

/** Socket options (SOL_SOCKET) of busy polling and of the send buffer (socket(7)). */
export const SOL_SOCKET = 1;
export const SO_SNDBUFFORCE = 32;
export const SO_BUSY_POLL = 46;
export const SO_PREFER_BUSY_POLL = 69;
export const SO_BUSY_POLL_BUDGET = 70;

/** One ring as it lies in memory: plain data. */
export interface RingPlace {
  /** Absolute address and length of the whole map. */
  readonly address: number;
  readonly bytes: number;
  /** Byte offsets in the map. */
  readonly producer: number;
  readonly consumer: number;
  readonly flags: number;
  readonly descriptors: number;
  /** A power of two. */
  readonly entries: number;
}

/**
 * State of a socket that workers share: words of a SharedArrayBuffer. LOST counts the frames lost in the kernel that are in
 * the port's counters, written by who polls the socket. The others are of its tx half: LOCK guards a burst; DOWN is set while the
 * interface takes no frames; the free frames are a stack of FREE_COUNT umem addresses from FREE on, written under the
 * lock.
 */
export const STATE_LOCK = 0;
export const STATE_DOWN = 1;
export const STATE_FREE_COUNT = 2;
export const STATE_LOST = 3;
export const STATE_FREE = 16;

/** One socket, bound to one queue of the interface: plain data. */
export interface XskPlace {
  readonly queue: number;
  /** The descriptor belongs to the session. */
  readonly fd: number;
  readonly frameBytes: number;
  /** Absolute address and length of the umem. */
  readonly umem: number;
  readonly umemBytes: number;
  readonly rx: RingPlace;
  readonly tx: RingPlace;
  readonly fill: RingPlace;
  readonly completion: RingPlace;
  readonly state: SharedArrayBuffer;
}

/** What workers need of an open AF_XDP interface: plain data. */
export interface XdpPiece {
  readonly sockets: readonly XskPlace[];
  /** So many of them, from the first on, have a tx queue of the interface; at least 1. */
  readonly txQueues: number;
  /** Frames longer than this with an untagged Ethernet header are not sent. */
  readonly longest: number;
  readonly needWakeup: boolean;
  readonly busyPoll: boolean;
  /** A frame may lie in several buffers. */
  readonly multiBuffer: boolean;
  /** Partial checksums may be left to the kernel, in metadata of TX_METADATA_BYTES in front of every sent frame. */
  readonly txChecksum: boolean;
  /** Received frames may have checksums that their sender left to its device. */
  readonly partialChecksums: boolean;
}
