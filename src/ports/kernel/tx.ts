// hot
/**
 * Transmit half of a kernel interface: a burst over a TAP queue or a packet socket, each frame behind a virtio-net header.
 *
 * `push` lists pieces: header, window in the scratch, payload where the sender left it. `publish` has the kernel take the
 * burst, which copies each frame once, from the sender's memory into its own. So there is no transmit ring: its frames
 * would be written by us and copied again by the kernel wherever they stay on this host. The kernel takes partial checksums
 * and GSO frames as they are, but for those in tunnels, which its header cannot tell of, and those of datagrams before Linux
 * 6.2: they are cut here. It takes frames of several workers at a time.
 */
import { DROP_BASE, dropReason } from '#contract/catalogue.ts';
import { address, mapAnonymous, release, sendFrames } from '#contract/os.ts';
import { GSO_TUNNEL, GSO_UDP_L4, MAX_PACKET_SEGMENTS, type PacketBatch, VNET_BYTES } from '#datapath/packet/batch.ts';
import type { PortCounters, TxQueue } from '#ports/port.ts';
import { fitsMtu } from '../frame/mtu.ts';
import { putHeader } from '../frame/net-header.ts';
import { SoftwareOffload } from '../frame/offload.ts';
import { MTU, PORT_DOWN, SEGMENTED, TX_BURSTS, TX_BYTES, TX_PACKETS } from '../tx-counters.ts';
import { VNET_HEADER } from './rx-slot.ts';
import { takesDatagrams } from './version.ts';

const HEADER = VNET_HEADER;
const VNET = VNET_BYTES;
const SEGMENTS = MAX_PACKET_SEGMENTS;
const ETHERNET = 14;
/** Frames and pieces that one native call takes. */
const MAX_FRAMES = 64;
const MAX_PIECES = 4096;
/** Each header has room for 12 bytes; number 0 stays all zeros, for plain frames. */
const STRIDE = 16;
const fits = fitsMtu;
const header = putHeader;
const send = sendFrames;

const EIO = 5;
const ENXIO = 6;
const EAGAIN = 11;
const ENOMEM = 12;
const ENODEV = 19;
const EBADFD = 77;
const ENETDOWN = 100;
const ENOBUFS = 105;

const OFFLOAD = DROP_BASE + dropReason('tx_offload');
const FULL = DROP_BASE + dropReason('tx_kernel_full');
const REFUSED = DROP_BASE + dropReason('tx_kernel_refused');

/** By gso_type: 1 when the kernel does not take such a frame. */
const CUT = Uint8Array.from({ length: 256 }, (_, type) =>
  (type & GSO_TUNNEL) !== 0 || (type === GSO_UDP_L4 && !takesDatagrams()) ? 1 : 0,
);

const reasonOf = (errno: number): number => {
  if (errno === EAGAIN || errno === ENOBUFS || errno === ENOMEM) return FULL;
  // A TAP device that is down says EIO, one that was deleted EBADFD.
  if (errno === EIO || errno === ENXIO || errno === ENODEV || errno === ENETDOWN || errno === EBADFD) return PORT_DOWN;
  return REFUSED;
};

export class KernelTxQueue implements TxQueue {
  readonly portNo: number;
  readonly queue: number;
  readonly shared = false;
  readonly #fd: number;
  readonly #socket: boolean;
  readonly #counters: PortCounters;
  readonly #longest: number;
  readonly #headers: Uint16Array;
  readonly #headersAddress: number;
  readonly #pieces = new Float64Array(MAX_PIECES * 2);
  readonly #counts = new Int32Array(MAX_FRAMES);
  readonly #lengths = new Int32Array(MAX_FRAMES);
  readonly #results = new Int32Array(MAX_FRAMES);
  readonly #offload = new SoftwareOffload();
  #frames = 0;
  #used = 0;

  /** @param mtu longest Ethernet payload. */
  constructor(portNo: number, queue: number, fd: number, socket: boolean, counters: PortCounters, mtu: number) {
    this.portNo = portNo;
    this.queue = queue;
    this.#fd = fd;
    this.#socket = socket;
    this.#counters = counters;
    this.#longest = mtu + ETHERNET;
    const memory = mapAnonymous((MAX_FRAMES + 1) * STRIDE);
    this.#headers = new Uint16Array(memory);
    this.#headersAddress = address(memory);
  }

  lock(): boolean {
    return true;
  }

  unlock(): void {}

  push(batch: PacketBatch, list: Int32Array, n: number): number {
    const length = batch.length;
    const gsoType = batch.gsoType;
    const cut = CUT;
    const longest = this.#longest;
    let late = 0;
    for (let i = 0; i < n; i++) {
      const slot = list[i]!;
      if (length[slot]! > longest && !fits(batch, slot, longest)) {
        late++;
        continue;
      }
      if (this.#frames === MAX_FRAMES || this.#used + SEGMENTS + 2 > MAX_PIECES) this.publish();
      if (cut[gsoType[slot]!] === 0) this.#list(batch, slot);
      else this.#cut(batch, slot);
    }
    if (late > 0) this.#counters.slots[this.#counters.base + MTU]! += late;
    return n - late;
  }

  #list(batch: PacketBatch, slot: number): void {
    const pieces = this.#pieces;
    const frame = this.#frames;
    const used = this.#used;
    let at = used * 2;
    let number = 0;
    if ((batch.vnetFlags[slot]! | batch.gsoType[slot]!) !== 0) {
      number = frame + 1;
      header(batch, slot, this.#headers, number * STRIDE);
    }
    pieces[at] = this.#headersAddress + number * STRIDE;
    pieces[at + 1] = HEADER;
    at += 2;
    const head = batch.headLength[slot]!;
    if (head > 0) {
      pieces[at] = batch.scratchAddress + batch.start[slot]!;
      pieces[at + 1] = head;
      at += 2;
    }
    const count = batch.segmentCount[slot]!;
    const first = batch.segmentFirst[slot]!;
    for (let s = 0; s < count; s++) {
      pieces[at] = batch.segmentAddress[first + s]!;
      pieces[at + 1] = batch.segmentLength[first + s]!;
      at += 2;
    }
    this.#counts[frame] = (at >>> 1) - used;
    this.#lengths[frame] = batch.length[slot]!;
    this.#used = at >>> 1;
    this.#frames = frame + 1;
  }

  /** Sends the segments of a GSO frame in a tunnel at once: they lie in memory that the next such frame takes. */
  #cut(batch: PacketBatch, slot: number): void {
    const { slots, base } = this.#counters;
    const offload = this.#offload;
    const pieces = this.#pieces;
    this.publish();
    offload.linearise(batch, slot);
    if (!offload.prepare(batch.gsoType[slot]!, batch.gsoSize[slot]!, batch.csumStart[slot]!)) {
      slots[base + OFFLOAD]! += 1;
      return;
    }
    const segments = offload.segments;
    for (let k = 0; k < segments; k++) {
      const payload = offload.payload(k);
      const frame = this.#frames;
      const at = this.#used * 2;
      pieces[at] = this.#headersAddress;
      pieces[at + 1] = HEADER;
      pieces[at + 2] = offload.address + offload.segmentHeaders(batch, k) + VNET;
      pieces[at + 3] = offload.headers;
      pieces[at + 4] = offload.address + offload.payloadFrom(k);
      pieces[at + 5] = payload;
      this.#counts[frame] = 3;
      this.#lengths[frame] = offload.headers + payload;
      this.#used += 3;
      this.#frames = frame + 1;
      if (this.#frames === MAX_FRAMES) this.publish();
    }
    this.publish();
    slots[base + SEGMENTED]! += 1;
  }

  publish(): void {
    const frames = this.#frames;
    if (frames === 0) return;
    const results = this.#results;
    const lengths = this.#lengths;
    this.#frames = 0;
    this.#used = 0;
    const sent = send(this.#fd, this.#socket, this.#pieces, this.#counts, frames, results);
    const slots = this.#counters.slots;
    const base = this.#counters.base;
    let bytes = 0;
    for (let i = 0; i < frames; i++) {
      if (results[i] === 0) bytes += lengths[i]!;
      else slots[base + reasonOf(results[i]!)]! += 1;
    }
    if (sent <= 0) return;
    slots[base + TX_PACKETS]! += sent;
    slots[base + TX_BYTES]! += bytes;
    slots[base + TX_BURSTS]! += 1;
  }

  /** Lets go of private memory. */
  close(): void {
    release(this.#headers.buffer as ArrayBuffer);
    this.#offload.close();
  }
}
