/** The kernel's side of an AF_XDP socket, in memory: gives frames through fill and rx ring, takes them from the tx ring. */
import { address, eventfd, mapAnonymous } from '#contract/os.ts';
import {
  type RingPlace,
  RX_HEADROOM,
  STATE_FREE,
  STATE_FREE_COUNT,
  TX_METADATA_BYTES,
  XDP_PKT_CONTD,
  XDP_TX_METADATA,
  type XskPlace,
} from '#ports/kernel/xdp/layout.ts';

const DESCRIPTORS = 64;

class Ring {
  readonly words: Int32Array;
  readonly place: RingPlace;

  constructor(entries: number, descBytes: number, start: number) {
    const bytes = DESCRIPTORS + entries * descBytes;
    const memory = mapAnonymous(bytes);
    this.words = new Int32Array(memory);
    this.words[0] = start;
    this.words[4] = start;
    this.place = {
      address: address(memory),
      bytes,
      producer: 0,
      consumer: 16,
      flags: 32,
      descriptors: DESCRIPTORS,
      entries,
    };
  }

  get waiting(): number {
    return (this.words[0]! - this.words[4]!) | 0;
  }

  /** First word of entry number `at`. */
  entry(at: number, words: number): number {
    return DESCRIPTORS / 4 + (at & (this.place.entries - 1)) * words;
  }
}

export interface SentFrame {
  readonly frame: Uint8Array;
  /** csum_start and csum_offset of the metadata; undefined without. */
  readonly partial: readonly [number, number] | undefined;
}

export class FakeKernel {
  readonly place: XskPlace;
  readonly umem: Uint8Array;
  readonly rx: Ring;
  readonly tx: Ring;
  readonly fill: Ring;
  readonly completion: Ring;
  readonly sent: SentFrame[] = [];
  /** Frames that found no buffer. */
  lost = 0;
  readonly #frameBytes: number;

  /** @param entries of each ring, and frames of each half; @param start of all counters. */
  constructor(entries: number, frameBytes: number, start: number) {
    const umemBytes = 2 * entries * frameBytes;
    const memory = mapAnonymous(umemBytes);
    this.umem = new Uint8Array(memory);
    this.#frameBytes = frameBytes;
    this.rx = new Ring(entries, 16, start);
    this.tx = new Ring(entries, 16, start);
    this.fill = new Ring(entries, 8, start);
    this.completion = new Ring(entries, 8, start);
    for (let i = 0; i < entries; i++) this.fill.words[this.fill.entry(start + i, 2)] = i * frameBytes;
    this.fill.words[0] = (start + entries) | 0;
    const state = new SharedArrayBuffer((STATE_FREE + entries) * 4);
    const words = new Int32Array(state);
    words[STATE_FREE_COUNT] = entries;
    for (let i = 0; i < entries; i++) words[STATE_FREE + i] = (entries + i) * frameBytes;
    this.place = {
      queue: 0,
      fd: eventfd(),
      frameBytes,
      umem: address(memory),
      umemBytes,
      rx: this.rx.place,
      tx: this.tx.place,
      fill: this.fill.place,
      completion: this.completion.place,
      state,
    };
  }

  /** Frames of the rx half that the kernel owns now. */
  get owned(): number[] {
    const { words } = this.fill;
    return Array.from({ length: this.fill.waiting }, (_, i) => words[this.fill.entry(words[4]! + i, 2)]!);
  }

  /** A frame comes in, in as many buffers as it needs. */
  receive(frame: Uint8Array): void {
    const room = this.#frameBytes - RX_HEADROOM;
    const need = Math.ceil(frame.length / room);
    if (need > this.fill.waiting) {
      this.lost++;
      return;
    }
    for (let i = 0; i < need; i++) {
      const base = this.fill.words[this.fill.entry(this.fill.words[4]!, 2)]!;
      this.fill.words[4] = (this.fill.words[4]! + 1) | 0;
      const piece = frame.subarray(i * room, (i + 1) * room);
      this.umem.set(piece, base + RX_HEADROOM);
      this.describe(base + RX_HEADROOM, piece.length, i < need - 1 ? XDP_PKT_CONTD : 0);
    }
  }

  describe(at: number, length: number, options: number): void {
    const d = this.rx.entry(this.rx.words[0]!, 4);
    this.rx.words.set([at, 0, length, options], d);
    this.rx.words[0] = (this.rx.words[0]! + 1) | 0;
  }

  /** Takes up to `count` descriptors from the tx ring; their frames complete in the order that `pick` chooses. */
  transmit(count: number, pick: (left: number) => number = () => 0): void {
    const done: number[] = [];
    let pieces: Uint8Array[] = [];
    let partial: SentFrame['partial'];
    for (let i = 0; i < count && this.tx.waiting > 0; i++) {
      const d = this.tx.entry(this.tx.words[4]!, 4);
      const [at, high, length, options] = this.tx.words.subarray(d, d + 4) as unknown as [
        number,
        number,
        number,
        number,
      ];
      if (high !== 0 || at % this.#frameBytes > this.#frameBytes - length)
        throw new Error('descriptor crosses a frame');
      if (pieces.length === 0) partial = (options & XDP_TX_METADATA) !== 0 ? this.#metadata(at) : undefined;
      pieces.push(this.umem.slice(at, at + length));
      done.push(at);
      this.tx.words[4] = (this.tx.words[4]! + 1) | 0;
      if ((options & XDP_PKT_CONTD) !== 0) continue;
      this.sent.push({ frame: Buffer.concat(pieces), partial });
      pieces = [];
    }
    while (done.length > 0) {
      const [at] = done.splice(pick(done.length), 1);
      this.completion.words[this.completion.entry(this.completion.words[0]!, 2)] = at!;
      this.completion.words[0] = (this.completion.words[0]! + 1) | 0;
    }
  }

  #metadata(at: number): [number, number] {
    const view = new DataView(this.umem.buffer, at - TX_METADATA_BYTES, TX_METADATA_BYTES);
    if (view.getBigUint64(0, true) !== 2n) throw new Error('metadata asks for something else');
    return [view.getUint16(8, true), view.getUint16(10, true)];
  }
}
