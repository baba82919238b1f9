/**
 * The receive ring of a packet socket, version TPACKET_V2 (linux/if_packet.h, Documentation/networking/packet_mmap.rst):
 * frames of one size, each a header and the beginning of what was received, with a virtio-net header in front of it.
 *
 * TPACKET_V3 would pack frames of any length, but hands them out by blocks, milliseconds late. A frame that does not fit here,
 * such as a GSO frame of 64 KiB, the kernel keeps whole in the socket's buffer too (PACKET_COPY_THRESH), where it is fetched
 * by recvmmsg: so the ring stays small. The socket's buffer holds them in the order of the ring.
 */

/** Options of level SOL_PACKET. */
export const PACKET_COPY_THRESH = 7;
export const PACKET_VERSION = 10;
export const PACKET_VNET_HDR = 15;
export const PACKET_IGNORE_OUTGOING = 23;
export const TPACKET_V2 = 1;

export const FRAME_BYTES = 2048;
const BLOCK_BYTES = 65_536;
/** Frames of a ring: 2 MiB. */
export const RING_FRAMES = 1024;
export const RING_BYTES = FRAME_BYTES * RING_FRAMES;
export const RING_BLOCK_BYTES = BLOCK_BYTES;
export const RING_BLOCKS = RING_BYTES / BLOCK_BYTES;

/** struct tpacket2_hdr: byte offsets. */
export const TP_STATUS = 0;
export const TP_LEN = 4;
export const TP_SNAPLEN = 8;
export const TP_MAC = 12;
export const TP_VLAN_TCI = 24;
export const TP_VLAN_TPID = 26;

/** Bits of tp_status; 0: the kernel's. */
export const STATUS_KERNEL = 0;
export const STATUS_USER = 1;
/** The whole frame lies in the socket's buffer. */
export const STATUS_COPY = 2;
/** Frames were lost since packetDrops was last asked. */
export const STATUS_LOSING = 4;
export const STATUS_VLAN_VALID = 0x10;
export const STATUS_VLAN_TPID_VALID = 0x40;

/** Shared by the workers, per queue: the frame that comes next. */
export const STATE_WORDS = 1;
