/** A worker's view of an AF_XDP socket: typed arrays over the rings that the main thread mapped. */
import { alias } from '#contract/os.ts';
import type { RingPlace, XskPlace } from './layout.ts';

/**
 * A ring of one producer and one consumer. Counters run freely; an entry is counter modulo size. The producer publishes its
 * counter after the entries, the consumer after it has read them.
 */
export class XskRing {
  /** Indices of the counters and flags in `words`. */
  readonly producer: number;
  readonly consumer: number;
  readonly flags: number;
  /** Index of the first descriptor's first word. */
  readonly first: number;
  readonly mask: number;
  /** The whole map; signed, as Atomics like them best. Addresses in a umem are below 2^31. */
  readonly words: Int32Array;

  constructor(words: Int32Array, place: RingPlace) {
    this.words = words;
    this.producer = place.producer >>> 2;
    this.consumer = place.consumer >>> 2;
    this.flags = place.flags >>> 2;
    this.first = place.descriptors >>> 2;
    this.mask = place.entries - 1;
  }
}

const ringOf = (place: RingPlace): XskRing =>
  new XskRing(new Int32Array(alias(place.address, place.bytes), 0, place.bytes >>> 2), place);

export class XskRings {
  readonly queue: number;
  readonly fd: number;
  readonly rx: XskRing;
  readonly tx: XskRing;
  readonly fill: XskRing;
  readonly completion: XskRing;
  /** Absolute address of the umem, its bytes, and the bytes of each of its frames, a power of two. */
  readonly umem: number;
  readonly bytes: Uint8Array;
  /** The same memory. */
  readonly words: Uint32Array;
  readonly frameBytes: number;
  /** Words STATE_* (layout.ts). */
  readonly state: Int32Array;

  /** @throws OsError when the session has closed the socket already. */
  constructor(place: XskPlace) {
    this.queue = place.queue;
    this.fd = place.fd;
    this.rx = ringOf(place.rx);
    this.tx = ringOf(place.tx);
    this.fill = ringOf(place.fill);
    this.completion = ringOf(place.completion);
    this.umem = place.umem;
    this.bytes = new Uint8Array(alias(place.umem, place.umemBytes));
    this.words = new Uint32Array(this.bytes.buffer);
    this.frameBytes = place.frameBytes;
    this.state = new Int32Array(place.state);
  }
}
