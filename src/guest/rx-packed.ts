// hot
/**
 * Frames from the switch over a packed ring (virtio 1.2 section 2.8): as rx.ts, whose calls these are.
 *
 * Buffer i has the id i and the same pieces for good; giving it back writes its chain into the next entries of the ring.
 * Of a burst of chains the flags of the first head are written last. All chains have as many entries, so a wrong id of the
 * switch costs one buffer and not the place in the ring.
 */
import { eventfdDrain, pollFds, eventfdSignal as signalFd } from '#contract/os.ts';
import {
  PACKED_AVAIL as AVAIL_BIT,
  DESC_BYTES,
  DESC_INDIRECT,
  DESC_NEXT,
  DESC_WRITE,
  EVENT_DESC,
  EVENT_DISABLE,
  planShape,
  postBuffers,
  type RingLayout,
  TABLE_ENTRIES,
  PACKED_USED as USED_BIT,
  WRAP_BIT,
} from './layout.ts';
import type { Block } from './memory.ts';
import type { ChainShape } from './options.ts';
import { wantsKick } from './packed.ts';
import { MAX_RX_PIECES, ReceivedFrames, RX_BURST } from './received.ts';

const signal = signalFd;
const wanted = wantsKick;
const INDIRECT = DESC_INDIRECT;
const NEXT = DESC_NEXT;
const WRITE = DESC_WRITE;
const AVAIL = AVAIL_BIT;
const BOTH = AVAIL_BIT | USED_BIT;
const HIGH = 2 ** 32;
const MAX_PIECES = MAX_RX_PIECES;
const TABLE_BYTES = TABLE_ENTRIES * DESC_BYTES;

export class PackedRxQueue extends ReceivedFrames {
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  /** For Atomics, which would make an object of every word of 2^31 and above. */
  readonly #i32: Int32Array;
  readonly #block: Block;
  readonly #layout: RingLayout;
  readonly #frameBytes: number;
  readonly #size: number;
  readonly #desc: number;
  readonly #driverEvent: number;
  readonly #deviceEvent: number;
  /** Per buffer: where its frame begins, and 1 while it is the switch's. */
  #frameAt: readonly number[] = [];
  readonly #out: Uint8Array;
  readonly #held: Uint16Array;
  readonly #waitFds = new Int32Array(1);
  /** Bytes from the frame's first to each piece's first, and each piece's length, or the table. */
  #starts = new Float64Array(1);
  #lengths = new Int32Array(1);
  #pieces = 1;
  #span = 1;
  #tables = false;
  #heldCount = 0;
  /** Entry to write next, and to look at next, with the flags that mean available and used there. */
  #next = 0;
  #available = AVAIL;
  #seen = 0;
  #used = BOTH;
  #headerBytes = 12;
  #mergeable = false;
  #eventIndex = false;
  #open = false;
  #kickFd = -1;
  #callFd = -1;

  /** @param frameBytes longest frame that one buffer holds. */
  constructor(block: Block, layout: RingLayout, frameBytes: number) {
    const file = block.file;
    super(file.u8);
    this.#u16 = file.u16;
    this.#u32 = file.u32;
    this.#i32 = file.i32;
    this.#block = block;
    this.#layout = layout;
    this.#frameBytes = frameBytes;
    this.#size = layout.size;
    this.#desc = (block.ringAt + layout.descAt) / 4;
    this.#driverEvent = (block.ringAt + layout.availAt) / 4;
    this.#deviceEvent = (block.ringAt + layout.usedAt) / 4;
    this.#out = new Uint8Array(layout.buffers);
    this.#held = new Uint16Array(layout.buffers);
  }

  /** Takes up what was negotiated. To be followed by `reset`. */
  configure(headerBytes: number, eventIndex: boolean, mergeable: boolean): void {
    this.#headerBytes = headerBytes;
    this.#eventIndex = eventIndex;
    this.#mergeable = mergeable;
  }

  /**
   * Empties the ring and gives all buffers to the switch. Only while the switch does not look.
   * @throws RangeError when the shape does not fit the ring.
   */
  reset(shape: ChainShape, indirectAllowed: boolean): void {
    const plan = planShape(shape, this.#size, indirectAllowed);
    // Leaves the chains of a split ring behind: the places of the frames, and tables, which are turned below.
    const posted = postBuffers(this.#block, this.#layout, plan, this.#headerBytes, this.#frameBytes);
    this.#frameAt = posted;
    const starts = [
      -this.#headerBytes,
      ...(plan.headerAlone ? [0] : []),
      ...plan.cuts.filter((cut) => cut < this.#frameBytes),
    ];
    this.#starts = Float64Array.from(starts);
    this.#lengths = Int32Array.from(starts, (start, k) => (starts[k + 1] ?? this.#frameBytes) - start);
    this.#pieces = starts.length;
    this.#tables = plan.indirect;
    this.#span = plan.indirect ? 1 : starts.length;
    if (plan.indirect) this.#turnTables(posted.length);
    this.#u32.fill(0, this.#desc, this.#desc + 4 * this.#size);
    this.#u32[this.#deviceEvent] = 0;
    this.#next = 0;
    this.#available = AVAIL;
    this.#seen = 0;
    this.#used = BOTH;
    this.count = 0;
    this.#out.fill(0);
    for (let i = 0; i < posted.length; i++) this.#held[i] = i;
    this.#heldCount = posted.length;
    this.disarm();
    this.#post();
  }

  attach(kickFd: number, callFd: number): void {
    this.#kickFd = kickFd;
    this.#callFd = callFd;
    this.#open = true;
  }

  close(): void {
    this.#open = false;
    this.#kickFd = -1;
    this.#callFd = -1;
    this.count = 0;
  }

  /** Where the switch stopped in the ring, entry and wrap counter: where a new connection goes on. */
  get usedIndex(): number {
    let at = this.#seen;
    let used = this.#used;
    for (let i = 0; i < this.#size && this.#flags(at) === used; i += this.#span) {
      at += this.#span;
      if (at >= this.#size) {
        at -= this.#size;
        used ^= BOTH;
      }
    }
    return at | (used !== 0 ? WRAP_BIT : 0);
  }

  /**
   * Looks for frames, at most RX_BURST. Frames of the last poll are released first.
   * @returns number of frames; fields 0 .. n-1 describe them.
   */
  poll(): number {
    if (this.count > 0 || this.#heldCount > 0) this.release();
    if (!this.#open || this.#flags(this.#seen) !== this.#used) return 0;
    const u16 = this.#u16;
    const u32 = this.#u32;
    const desc = this.#desc;
    const size = this.#size;
    const span = this.#span;
    const out = this.#out;
    const frameAt = this.#frameAt;
    const buffers = frameAt.length;
    const mergeable = this.#mergeable;
    const offsets = this.at;
    const lengths = this.length;
    const firstPiece = this.firstPiece;
    const pieceCount = this.pieceCount;
    const flags = this.flags;
    const gsoType = this.gsoType;
    const gsoSize = this.gsoSize;
    const headerLength = this.headerLength;
    const csumStart = this.csumStart;
    const csumOffset = this.csumOffset;
    const held = this.#held;
    const header = this.#headerBytes;
    const frameBytes = this.#frameBytes;
    const pieceAt = this.pieceAt;
    const pieceLength = this.pieceLength;
    let heldCount = this.#heldCount;
    let seen = this.#seen;
    let used = this.#used;
    let pieces = 0;
    let n = 0;
    // Buffers of the frame at hand that have been found, and that it has in all.
    let taken = 0;
    let count = 1;
    let total = 0;
    for (let left = size; left > 0 && n < RX_BURST; left -= span) {
      const word = u32[desc + 4 * seen + 3]!;
      if (((word >>> 16) & BOTH) !== used) break;
      const id = word & 0xffff;
      const written = u32[desc + 4 * seen + 2]!;
      const known = id < buffers && out[id] !== 0;
      if (taken === 0 && n > 0 && mergeable && known) {
        if (pieces + u16[(frameAt[id]! - header) / 2 + 5]! > MAX_PIECES) break;
      }
      seen += span;
      if (seen >= size) {
        seen -= size;
        used ^= BOTH;
      }
      if (!known) {
        this.broken++;
        taken = 0;
        continue;
      }
      out[id] = 0;
      held[heldCount++] = id;
      const at = frameAt[id]!;
      if (taken === 0) {
        const h = (at - header) / 2;
        const bytes = written - header;
        count = mergeable ? u16[h + 5]! : 1;
        if (bytes <= 0 || bytes > frameBytes || count === 0 || count > MAX_PIECES) {
          this.broken++;
          continue;
        }
        offsets[n] = at;
        firstPiece[n] = pieces;
        flags[n] = u16[h]!;
        gsoType[n] = u16[h]! >>> 8;
        headerLength[n] = u16[h + 1]!;
        gsoSize[n] = u16[h + 2]!;
        csumStart[n] = u16[h + 3]!;
        csumOffset[n] = u16[h + 4]!;
        pieceAt[pieces] = at;
        pieceLength[pieces] = bytes;
        total = bytes;
      } else {
        if (written > frameBytes + header) {
          this.broken++;
          taken = 0;
          continue;
        }
        // Buffers after the first hold frame bytes only, from where the header would begin.
        pieceAt[pieces + taken] = at - header;
        pieceLength[pieces + taken] = written;
        total += written;
      }
      taken++;
      if (taken < count) continue;
      pieceCount[n] = count;
      lengths[n] = total;
      pieces += count;
      taken = 0;
      n++;
    }
    // The switch shows a frame's buffers together (section 5.1.6.4): what is left here never becomes a frame.
    if (taken > 0) this.broken++;
    this.#heldCount = heldCount;
    this.#seen = seen;
    this.#used = used;
    this.count = n;
    this.received += n;
    return n;
  }

  /** Gives the buffers of the last poll back to the switch; its frames must not be read after it. */
  release(): void {
    this.count = 0;
    if (this.#heldCount === 0 || !this.#open) return;
    const steps = this.#heldCount * this.#span;
    this.#post();
    const place = this.#next | (this.#available === AVAIL ? WRAP_BIT : 0);
    const word = Atomics.load(this.#i32, this.#deviceEvent);
    if (this.#kickFd >= 0 && wanted(word, place, steps, this.#size, this.#eventIndex)) signal(this.#kickFd);
  }

  /** Asks the switch to call at the next frame. @returns true when frames wait already. */
  arm(): boolean {
    if (!this.#open) return false;
    const place = this.#seen | (this.#used !== 0 ? WRAP_BIT : 0);
    Atomics.store(this.#i32, this.#driverEvent, this.#eventIndex ? place | (EVENT_DESC << 16) : 0);
    return this.#flags(this.#seen) === this.#used;
  }

  /** Asks the switch not to call. */
  disarm(): void {
    Atomics.store(this.#i32, this.#driverEvent, EVENT_DISABLE << 16);
  }

  /**
   * Blocks the calling thread until frames wait, for at most `timeoutMs` (-1: for ever). Releases the frames of the last
   * poll first.
   * @returns true when `poll` will find frames.
   */
  waitReadable(timeoutMs: number): boolean {
    this.release();
    if (!this.#open) return false;
    eventfdDrain(this.#callFd);
    let ready = this.arm();
    if (!ready) {
      this.#waitFds[0] = this.#callFd;
      pollFds(this.#waitFds, 1, timeoutMs < 0 ? -1 : Math.round(timeoutMs * 1000));
      ready = this.#flags(this.#seen) === this.#used;
    }
    this.disarm();
    return ready;
  }

  /** eventfd that the switch signals after `arm`, or -1. */
  get callFd(): number {
    return this.#callFd;
  }

  #flags(entry: number): number {
    return (Atomics.load(this.#i32, this.#desc + 4 * entry + 3) >>> 16) & BOTH;
  }

  /** Writes the chains of the buffers in #held, the first head's flags last. */
  #post(): void {
    const u32 = this.#u32;
    const size = this.#size;
    const count = this.#heldCount;
    const held = this.#held;
    const starts = this.#starts;
    const lengths = this.#lengths;
    const span = this.#span;
    const base = this.#block.file.guestAddress;
    const desc = this.#desc;
    const out = this.#out;
    const frameAt = this.#frameAt;
    const tables = this.#tables;
    const bytes = 16 * this.#pieces;
    const firstTable = base + this.#tableAt(0);
    let firstAt = 0;
    let firstWord = 0;
    let at = this.#next;
    let available = this.#available;
    for (let i = 0; i < count; i++) {
      const id = held[i]!;
      const d = desc + 4 * at;
      out[id] = 1;
      let word = 0;
      for (let k = 0; k < span; k++) {
        const e = desc + 4 * at;
        const from = tables ? firstTable + id * TABLE_BYTES : base + frameAt[id]! + starts[k]!;
        const shape = tables ? INDIRECT : WRITE | (k + 1 < span ? NEXT : 0);
        const full = id | ((shape | available) << 16);
        u32[e] = from;
        u32[e + 1] = from / HIGH;
        u32[e + 2] = tables ? bytes : lengths[k]!;
        if (k === 0) word = full;
        else u32[e + 3] = full;
        at++;
        if (at === size) {
          at = 0;
          available ^= BOTH;
        }
      }
      if (i === 0) {
        firstAt = d + 3;
        firstWord = word;
      } else {
        u32[d + 3] = word;
      }
    }
    this.#heldCount = 0;
    this.#next = at;
    this.#available = available;
    // Publishes, and is the full barrier before the switch's wish is read.
    if (count > 0) Atomics.store(this.#i32, firstAt, firstWord);
  }

  #tableAt(id: number): number {
    return this.#block.ringAt + this.#layout.tablesAt + id * TABLE_BYTES;
  }

  /** Tables of a split ring say flags and next where packed ones say id and flags. */
  #turnTables(buffers: number): void {
    const u32 = this.#u32;
    for (let i = 0; i < buffers; i++) {
      const table = this.#tableAt(i) / 4;
      for (let k = 0; k < this.#pieces; k++) u32[table + 4 * k + 3] = DESC_WRITE << 16;
    }
  }
}
