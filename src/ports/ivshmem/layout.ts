/**
 * The shared memory of an ivshmem pool, version 1, as numbers: docs/ivshmem-layout.md is the same page for readers, with the
 * rules of use. All words are 32-bit little-endian unless said otherwise; offsets are bytes.
 *
 *   header page | slot table | queue pairs (slot-major: slot s, queue q) | buffers
 *
 * Who writes what: header and the first line of a slot row, the switch; the second line of a slot row, that slot's client;
 * a ring's producer line, its producer; a ring's consumer line, its consumer.
 */

/** "RINGWAY\0" as two words; the second is written last, when all else is in place. */
export const MAGIC_LOW = 0x474e4952;
export const MAGIC_HIGH = 0x00594157;
export const VERSION = 1;
/** Feature bits that a client must know to use the pool; none so far. */
export const KNOWN_FEATURES = 0;

export const PAGE = 4096;
export const LINE = 64;

// Header page.
export const H_MAGIC_LOW = 0;
export const H_MAGIC_HIGH = 4;
export const H_VERSION = 8;
export const H_FEATURES = 12;
/** Bytes of the whole object: u64. */
export const H_SIZE = 16;
export const H_SLOT_OFFSET = 24;
export const H_SLOT_STRIDE = 28;
export const H_SLOT_COUNT = 32;
/** Queue pairs that every slot has room for. */
export const H_QUEUE_COUNT = 36;
export const H_QUEUE_OFFSET = 40;
export const H_QUEUE_STRIDE = 44;
/** Entries of every ring, a power of two. */
export const H_RING_ENTRIES = 48;
export const H_BUFFER_OFFSET = 52;
export const H_BUFFER_BYTES = 56;
export const H_BUFFER_COUNT = 60;
/** Bytes that a sender should leave free at the start of a frame's first buffer. */
export const H_HEADROOM = 64;
/** Buffers that a queue pair's client holds for sending, at most. */
export const H_CREDIT = 68;
/** Line of its own: another number at each start of the switch; counts up about once a second. */
export const H_EPOCH = 128;
export const H_HEARTBEAT = 132;

// Slot row: switch line.
export const SLOT_STRIDE = 256;
export const S_STATE = 0;
/** Another number each time the slot is made ready; never 0. */
export const S_GENERATION = 4;
/** Queue pairs in use. */
export const S_QUEUES = 8;
export const S_MTU = 12;
/** Datapath port number. */
export const S_PORT = 16;
export const S_FLAGS = 20;
/** Why the state is BROKEN: ERROR_*. */
export const S_ERROR = 24;
/** Port name: 32 bytes of UTF-8, filled up with zeros. */
export const S_NAME = 32;
// Slot row: client line.
/** The generation that the client works with; 0: it has left. */
export const S_HELLO = 64;
/** The generation that the client waits for: the present one plus 1 asks the switch to make the slot ready anew. */
export const S_RESET = 68;
/** Counts up about once a second while the client lives; 0: the client does not count. */
export const S_HEARTBEAT = 72;
/** Name of the client, for people: 32 bytes of UTF-8, filled up with zeros. */
export const S_CLIENT_NAME = 96;
export const NAME_BYTES = 32;

export const STATE_FREE = 0;
export const STATE_READY = 1;
export const STATE_BROKEN = 2;
export const STATE_CLOSED = 3;
/** S_FLAGS: the client has no doorbell (ivshmem-plain): it polls, and so does the switch. */
export const FLAG_PLAIN = 1;
/** S_FLAGS: the link is up. */
export const FLAG_LINK = 2;

export const ERROR_NONE = 0;
export const ERROR_TX_INDEX = 1;
export const ERROR_RETURN_INDEX = 2;
/** What the client did, by ERROR_ number. */
export const ERRORS: readonly string[] = [
  '',
  'producer of a tx ring ahead of its consumer by more than the ring holds',
  'producer of an rx return ring ahead of its consumer by more than the ring holds',
];

/** Slot 0 and peer 0 are the switch. */
export const SWITCH_SLOT = 0;
/** Slots of a pool, the switch's included: one bit each in a word. */
export const MAX_SLOTS = 32;
export const MAX_QUEUES = 8;

// Queue pair: four ring headers, then the entries of the four rings.
export const RING_TX = 0;
export const RING_FREE = 1;
export const RING_RX = 2;
export const RING_RETURN = 3;
export const RINGS = 4;
export const RING_HEADER_BYTES = 128;
/** Producer line: free-running count of entries produced. */
export const R_PRODUCER = 0;
/** Consumer line: 1 = the consumer sleeps and wants a doorbell; its free-running count of entries consumed, to look at only. */
export const R_WAKE = 64;
export const R_CONSUMER = 68;

/** Entry of tx and rx rings: buffer, offset in it, bytes, flags. */
export const DESC_BYTES = 16;
export const DESC_WORDS = 4;
export const D_BUFFER = 0;
export const D_OFFSET = 1;
export const D_LENGTH = 2;
export const D_FLAGS = 3;
/** The frame goes on in the next entry. All other bits are 0. */
export const DESC_NEXT = 1;
/** Entry of free and return rings: buffer. */
export const FREE_BYTES = 4;

/** Entries of one frame, at most. */
export const MAX_CHAIN = 64;
export const MIN_ENTRIES = 64;
export const MAX_ENTRIES = 32_768;
export const MIN_BUFFER_BYTES = 256;
export const MAX_BUFFER_BYTES = 32_768;

/** Byte offset of ring `ring`'s header in its queue pair. */
export const ringHeaderAt = (ring: number): number => ring * RING_HEADER_BYTES;

/** Byte offset of ring `ring`'s first entry in its queue pair. */
export const ringEntriesAt = (ring: number, entries: number): number => {
  const start = RINGS * RING_HEADER_BYTES;
  if (ring === RING_TX) return start;
  if (ring === RING_RX) return start + DESC_BYTES * entries;
  if (ring === RING_FREE) return start + 2 * DESC_BYTES * entries;
  return start + (2 * DESC_BYTES + FREE_BYTES) * entries;
};

/** Bytes of a queue pair. */
export const queueStride = (entries: number): number =>
  RINGS * RING_HEADER_BYTES + (2 * DESC_BYTES + 2 * FREE_BYTES) * entries;

/** Where everything lies: the header page as numbers. */
export interface PoolGeometry {
  readonly size: number;
  readonly slots: number;
  readonly queues: number;
  readonly entries: number;
  readonly queueOffset: number;
  readonly queueStride: number;
  readonly bufferOffset: number;
  readonly bufferBytes: number;
  readonly bufferCount: number;
  readonly headroom: number;
  readonly credit: number;
}

/** Byte offset of a slot's row. */
export const slotAt = (slot: number): number => PAGE + slot * SLOT_STRIDE;

/** Byte offset of a queue pair. */
export const queueAt = (g: PoolGeometry, slot: number, queue: number): number =>
  g.queueOffset + (slot * g.queues + queue) * g.queueStride;

/** Byte offset of a buffer. */
export const bufferAt = (g: PoolGeometry, buffer: number): number => g.bufferOffset + buffer * g.bufferBytes;

const powerOfTwo = (n: number): boolean => n > 0 && Number.isInteger(Math.log2(n));

/** What a pool is made from. */
export interface PoolShape {
  /** Bytes of the object: a power of two, since a PCI BAR is one. */
  readonly size: number;
  /** Slots, the switch's included: 2 to MAX_SLOTS. */
  readonly slots: number;
  readonly queues: number;
  readonly entries: number;
  readonly bufferBytes: number;
  readonly headroom: number;
  readonly credit: number;
}

/** @throws RangeError that names the value at fault. */
export function geometry(shape: PoolShape): PoolGeometry {
  const { size, slots, queues, entries, bufferBytes, headroom, credit } = shape;
  const need = (good: boolean, what: string): void => {
    if (!good) throw new RangeError(`ivshmem pool: ${what}`);
  };
  need(powerOfTwo(size), `size ${size} is not a power of two`);
  need(Number.isInteger(slots) && slots >= 2 && slots <= MAX_SLOTS, `${slots} slots; 2 to ${MAX_SLOTS} are possible`);
  need(Number.isInteger(queues) && queues >= 1 && queues <= MAX_QUEUES, `${queues} queues; 1 to ${MAX_QUEUES}`);
  need(
    powerOfTwo(entries) && entries >= MIN_ENTRIES && entries <= MAX_ENTRIES,
    `rings of ${entries}; a power of two from ${MIN_ENTRIES} to ${MAX_ENTRIES}`,
  );
  need(
    bufferBytes % LINE === 0 && bufferBytes >= MIN_BUFFER_BYTES && bufferBytes <= MAX_BUFFER_BYTES,
    `buffers of ${bufferBytes} bytes; a multiple of ${LINE} from ${MIN_BUFFER_BYTES} to ${MAX_BUFFER_BYTES}`,
  );
  need(
    Number.isInteger(headroom) && headroom >= 0 && headroom <= bufferBytes / 2,
    `head-room of ${headroom} bytes; at most half a buffer`,
  );
  need(Number.isInteger(credit) && credit >= 1 && credit <= entries, `credit of ${credit} buffers; 1 to ${entries}`);
  const stride = queueStride(entries);
  const queueOffset = PAGE + Math.ceil((slots * SLOT_STRIDE) / PAGE) * PAGE;
  const bufferOffset = Math.ceil((queueOffset + slots * queues * stride) / PAGE) * PAGE;
  const bufferCount = Math.floor((size - bufferOffset) / bufferBytes);
  need(
    bufferCount >= entries,
    `size ${size} leaves room for ${Math.max(0, bufferCount)} buffers; at least ${entries} are wanted`,
  );
  return {
    size,
    slots,
    queues,
    entries,
    queueOffset,
    queueStride: stride,
    bufferOffset,
    bufferBytes,
    bufferCount,
    headroom,
    credit,
  };
}

/**
 * Reads and checks the header page, as a client does: every offset and count is judged against `mapped`, the bytes that the
 * reader has mapped. @throws RangeError that says what does not fit.
 */
export function readGeometry(header: ArrayBufferLike, mapped: number): PoolGeometry {
  const view = new DataView(header);
  const word = (at: number): number => view.getUint32(at, true);
  if (header.byteLength < PAGE) throw new RangeError(`an ivshmem pool has at least ${PAGE} bytes`);
  if (word(H_MAGIC_LOW) !== MAGIC_LOW || word(H_MAGIC_HIGH) !== MAGIC_HIGH) {
    throw new RangeError('not an ivshmem pool of Ringway: its magic is missing');
  }
  if (word(H_VERSION) !== VERSION) throw new RangeError(`ivshmem pool of version ${word(H_VERSION)}, not ${VERSION}`);
  const unknown = word(H_FEATURES) & ~KNOWN_FEATURES;
  if (unknown !== 0) throw new RangeError(`ivshmem pool asks for unknown features 0x${(unknown >>> 0).toString(16)}`);
  const size = word(H_SIZE) + word(H_SIZE + 4) * 2 ** 32;
  const found = geometry({
    size,
    slots: word(H_SLOT_COUNT),
    queues: word(H_QUEUE_COUNT),
    entries: word(H_RING_ENTRIES),
    bufferBytes: word(H_BUFFER_BYTES),
    headroom: word(H_HEADROOM),
    credit: word(H_CREDIT),
  });
  const same =
    size <= mapped &&
    word(H_SLOT_OFFSET) === PAGE &&
    word(H_SLOT_STRIDE) === SLOT_STRIDE &&
    word(H_QUEUE_OFFSET) === found.queueOffset &&
    word(H_QUEUE_STRIDE) === found.queueStride &&
    word(H_BUFFER_OFFSET) === found.bufferOffset &&
    word(H_BUFFER_COUNT) === found.bufferCount;
  if (!same) throw new RangeError('ivshmem pool: offsets of the header page contradict its counts');
  return found;
}

const assert = (name: string, is: number, wanted: number): void => {
  if (is !== wanted) throw new RangeError(`ivshmem layout: ${name} is ${is}, not ${wanted}`);
};
assert('slot row', S_CLIENT_NAME + NAME_BYTES, 2 * LINE);
assert('switch line of a slot', S_NAME + NAME_BYTES, S_HELLO);
assert('ring header', RING_HEADER_BYTES, 2 * LINE);
assert('consumer line of a ring', R_WAKE % LINE, 0);
assert('queue pair of 64 entries', queueStride(64), 3072);
assert('return ring of 64 entries', ringEntriesAt(RING_RETURN, 64) + 64 * FREE_BYTES, queueStride(64));
assert('alignment of queue pairs', queueStride(MIN_ENTRIES) % LINE, 0);
