/**
 * A batch: the packets of one burst, as indices into typed arrays. One per worker, made once.
 *
 * Slots 0..BURST-1 take a received burst; slots above are for copies (an edit after an output). Each slot owns SLOT_BYTES
 * of private scratch memory. A frame's header window starts at byte HEADROOM of its slot, so that
 *   - the IP header of an untagged frame is 4-byte aligned (HEADROOM % 4 = 2), tags keep it so;
 *   - a virtio-net header and several tags fit in front of it, and header plus headers leave in one copy.
 * What the window does not hold stays where the sender put it, as segments (absolute address, length).
 *
 * Life of a burst: rx fills slots and segments → parse, caches, actions → outputs collect slot numbers per port → tx lists
 * its copies in `rows` → one native call copies them all → tx publishes → rx gives the source buffers back, `clear()`.
 */
import { KEY_WORDS } from '#contract/flow-key.ts';
import { address, copyContext, copyRun, mapAnonymous } from '#contract/os.ts';

/** Packets of one rx burst, at most (as NETDEV_MAX_BURST of Open vSwitch). */
export const BURST = 32;
/** Slots for packets: the burst and its copies. */
export const SLOTS = 256;
export const SLOT_BYTES = 256;
/** Bytes before the frame in its slot: 12 for the virtio-net header, the rest for pushed tags. */
export const HEADROOM = 66;
/** Frame bytes that are copied into the slot. */
export const WINDOW = SLOT_BYTES - HEADROOM;
/** Segments of all packets of a batch. */
export const MAX_SEGMENTS = 8192;
/** Segments of one packet, at most (a chain of 64 KiB in 1 KiB pieces). */
export const MAX_PACKET_SEGMENTS = 128;
/** Copy rows that may wait for one native call. */
export const MAX_ROWS = 16_384;
/** Longest frame, in bytes, without the virtio-net header (64 KiB of IP and an Ethernet header with two tags). */
export const MAX_FRAME = 65_557;
/** Longest header row of virtio-net (virtio 1.2 section 5.1.6). */
export const VNET_BYTES = 12;

/** virtio-net header flags and GSO types (virtio 1.2 section 5.1.6). */
export const VNET_NEEDS_CSUM = 1;
export const VNET_DATA_VALID = 2;
export const GSO_NONE = 0;
export const GSO_TCPV4 = 1;
export const GSO_UDP = 3;
export const GSO_TCPV6 = 4;
/** Datagrams of one size in one frame, each with its own UDP header in the end (virtio 1.3). */
export const GSO_UDP_L4 = 5;
export const GSO_ECN = 0x80;
/** Inside the switch only: what is to be cut lies in a tunnel, and csum_start is that of the header inside. */
export const GSO_TUNNEL = 0x20;

/** Wants to know what was written where, for instance for a live migration. */
export interface CopyLog {
  /** The rows [destination, source, bytes] 0 .. count - 1 have been copied. */
  copied(rows: Float64Array, count: number): void;
}

/** Makes a burst one step for those of its queues that must not see half of one, whatever ends the process. */
export interface BurstJournal {
  /** All frames are copied, none is shown yet. */
  decide(): void;
  /** All are shown, and the source buffers given back. */
  done(): void;
}

/** Packets on their way to the control plane and back, in memory that may outlive the process: part of the same step. */
export interface UpcallEnds {
  /** Names that memory in the journal. */
  readonly name: number;
  /** Bytes written, as they are shown and as they will be. */
  readonly shownHead: number;
  readonly head: number;
  /** Bytes freed, as they are shown and as they will be. */
  readonly shownFreed: number;
  readonly freed: number;
  /** Shows both. */
  show(): void;
}

export class PacketBatch {
  /** Received packets: slots 0..count-1. */
  count = 0;
  /** Datapath port that the burst came from. */
  inPort = 0;
  /** Next free slot for a copy. */
  nextSlot = BURST;
  /** Next free row of the segment table. */
  nextSegment = 0;
  /** Copy rows waiting in `rows`. */
  rowCount = 0;
  /**
   * The buffer pool that the frames of this burst lie in, where they may be passed on by reference; 0: none. Pools are
   * numbered by the data process and compared only.
   */
  pool = 0;

  /** The scratch memory of all slots; slot s is bytes s * SLOT_BYTES on. */
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  /** The same memory for big-endian reads (V8 makes one load and a byte swap of them). */
  readonly view: DataView;
  /** Absolute address of the scratch memory. */
  readonly scratchAddress: number;

  /** Byte offset in the scratch of the frame's first byte; odd multiples of 2. Pushes lower it, pops raise it. */
  readonly start = new Int32Array(SLOTS);
  /** Frame bytes that lie in the scratch. */
  readonly headLength = new Int32Array(SLOTS);
  /** Frame bytes in all. */
  readonly length = new Int32Array(SLOTS);
  /** Payload segments: rows segmentFirst .. segmentFirst + segmentCount - 1. */
  readonly segmentFirst = new Int32Array(SLOTS);
  readonly segmentCount = new Int32Array(SLOTS);
  readonly segmentAddress = new Float64Array(MAX_SEGMENTS);
  readonly segmentLength = new Int32Array(MAX_SEGMENTS);

  /** Buffer of `pool` in which the frame begins, -1: none; read only while `pool` is not 0. */
  readonly buffer = new Int32Array(SLOTS);
  /** 1: the header window was edited, and is no longer what lies in `buffer`. Kept only while `pool` is not 0. */
  readonly edited = new Uint8Array(SLOTS);

  /** virtio-net header fields as received and checked; all 0 for a plain frame. */
  readonly vnetFlags = new Uint8Array(SLOTS);
  readonly gsoType = new Uint8Array(SLOTS);
  readonly gsoSize = new Uint16Array(SLOTS);
  readonly vnetHeaderLength = new Uint16Array(SLOTS);
  readonly csumStart = new Uint16Array(SLOTS);
  readonly csumOffset = new Uint16Array(SLOTS);

  /** Offset from `start` of the network and the transport header, written by parse; 0 = none or not parsed. */
  readonly l3 = new Int32Array(SLOTS);
  readonly l4 = new Int32Array(SLOTS);
  /** Flow keys of received packets, a row of KEY_WORDS each. */
  readonly keys = new Uint32Array(SLOTS * KEY_WORDS);

  /** Bytes of the run that a slot leads (parse/runs.ts): `length` itself where each packet leads itself, else `sums`. */
  runBytes: Int32Array;
  readonly sums = new Int32Array(BURST);

  /** Copies to do: rows of absolute destination address, source address, bytes. */
  readonly rows: Float64Array;
  readonly #rowsHandle: number;
  /** Told of every copy; nearly always empty. */
  readonly copyLogs: CopyLog[] = [];
  journal: BurstJournal | undefined = undefined;
  /** What the journal keeps of upcalls. */
  upcalls: UpcallEnds | undefined = undefined;

  constructor() {
    this.runBytes = this.length;
    const scratch = mapAnonymous(SLOTS * SLOT_BYTES);
    this.u8 = new Uint8Array(scratch);
    this.u16 = new Uint16Array(scratch);
    this.u32 = new Uint32Array(scratch);
    this.view = new DataView(scratch);
    this.scratchAddress = address(scratch);
    this.rows = new Float64Array(mapAnonymous(MAX_ROWS * 3 * 8));
    this.#rowsHandle = copyContext(this.rows);
  }

  /** Runs the copies of `rows` in one native call and empties the table. */
  copy(): void {
    if (this.rowCount > 0) {
      copyRun(this.#rowsHandle, this.rowCount);
      if (this.copyLogs.length !== 0) this.#log();
      this.rowCount = 0;
    }
  }

  #log(): void {
    const logs = this.copyLogs;
    for (let i = 0; i < logs.length; i++) logs[i]!.copied(this.rows, this.rowCount);
  }

  /** Makes the batch empty for the next burst. */
  clear(): void {
    this.count = 0;
    this.nextSlot = BURST;
    this.nextSegment = 0;
    this.pool = 0;
  }
}
