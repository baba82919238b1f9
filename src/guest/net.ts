// hot
/**
 * A small IPv4 host on a queue pair: answers ARP and ICMP echo, pings, sends and receives a measured UDP stream.
 *
 * Enough network for demos and tests, not a stack: no fragments, no options, no retransmission, one peer. Frames are read
 * and written in port memory. The stream carries a sequence number and the sender's time stamp counter, which all cores of
 * a machine share, so the receiver knows loss, order and one-way latency. It acknowledges every burst, and the sender keeps
 * at most `window` frames under way: the stream runs as fast as both ends and the switch allow without flooding a queue.
 * While nobody acknowledges, a few frames every STALL_MS probe whether the way is open again.
 *
 * Counters are float64 slots, in shared memory where the caller wants that; this host is their only writer.
 */
import { sampleTsc as sample, tscSample as sampled, tscHz } from '#contract/os.ts';
import {
  get16 as _get16,
  get32 as _get32,
  kindOf as _kindOf,
  put32 as _put32,
  turnEcho as _turnEcho,
  KIND_ARP_REPLY as ARP_REPLY,
  KIND_ARP_REQUEST as ARP_REQUEST,
  KIND_ECHO_REPLY as ECHO_REPLY,
  KIND_ECHO_REQUEST as ECHO_REQUEST,
  ICMP_PAYLOAD_AT,
  L4_AT as L4,
  UDP_PAYLOAD_AT as PAYLOAD,
  KIND_UDP as UDP,
  writeArp,
  writeEcho,
  writeUdp,
} from './frames.ts';
import { countLatency as _countLatency, HISTOGRAM_SLOTS } from './histogram.ts';
import type { Queue } from './queue.ts';

// Re-bound: an imported binding costs about 2 ns at each use in a loop (Node 26.10).
const get16 = _get16;
const get32 = _get32;
const put32 = _put32;
const kindOf = _kindOf;
const turnEcho = _turnEcho;
const countLatency = _countLatency;
const sampleTsc = sample;
const tscSample = sampled;
const KIND_ARP_REQUEST = ARP_REQUEST;
const KIND_ARP_REPLY = ARP_REPLY;
const KIND_ECHO_REQUEST = ECHO_REQUEST;
const KIND_ECHO_REPLY = ECHO_REPLY;
const KIND_UDP = UDP;
const L4_AT = L4;
const UDP_PAYLOAD_AT = PAYLOAD;
const TWO32 = 2 ** 32;

/** Port number of the measured stream. */
export const STREAM_PORT = 5001;
/** Port number of its acknowledgements: the sequence number expected next. */
export const STREAM_ACK_PORT = 5002;
const STALL_MS = 10;
const PROBE_FRAMES = 16;
const ACK_BYTES = 60;
/** Shortest stream frame: headers, sequence number, time stamp. */
export const STREAM_MIN_BYTES = UDP_PAYLOAD_AT + 16;

/** Slots of a host's counters. */
export const HOST_COUNTERS = [
  'rx_packets',
  'rx_bytes',
  'tx_packets',
  'tx_bytes',
  /** Turns in which the stream found the ring full. */
  'tx_full',
  'stream_received',
  /** Sequence numbers left out, and those that came late (they are taken off the lost ones again). */
  'stream_lost',
  'stream_late',
  'pings_sent',
  'pings_answered',
  'arp_answered',
  'echo_answered',
] as const;
export type HostCounter = (typeof HOST_COUNTERS)[number];
export const hostCounter = (name: HostCounter): number => HOST_COUNTERS.indexOf(name);

/** Where the histograms of round trips and of one-way stream latency begin; slots in all. */
export const PING_HISTOGRAM_AT = 16;
export const STREAM_HISTOGRAM_AT = PING_HISTOGRAM_AT + HISTOGRAM_SLOTS;
export const HOST_SLOTS = STREAM_HISTOGRAM_AT + HISTOGRAM_SLOTS;

const RX_PACKETS = hostCounter('rx_packets');
const RX_BYTES = hostCounter('rx_bytes');
const TX_PACKETS = hostCounter('tx_packets');
const TX_BYTES = hostCounter('tx_bytes');
const TX_FULL = hostCounter('tx_full');
const STREAM_RECEIVED = hostCounter('stream_received');
const STREAM_LOST = hostCounter('stream_lost');
const STREAM_LATE = hostCounter('stream_late');
const PINGS_SENT = hostCounter('pings_sent');
const PINGS_ANSWERED = hostCounter('pings_answered');
const ARP_ANSWERED = hostCounter('arp_answered');
const ECHO_ANSWERED = hostCounter('echo_answered');

/** Pings under way, at most; a power of two. */
const PING_WINDOW = 1024;

export interface HostOptions {
  /** `02:00:00:00:00:01` */
  mac: string;
  /** `10.0.0.1` */
  ip: string;
  /** Whom to ping and stream to. */
  peer: string;
  /** Stream frames under way, at most; 0 = no limit, acknowledged or not. Default 256. */
  window?: number;
  /** HOST_SLOTS counters; own ones by default. */
  slots?: Float64Array;
}

const parseMac = (text: string): Uint8Array => {
  const bytes = Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16));
  if (bytes.length !== 6) throw new RangeError(`${text} is not an Ethernet address`);
  return bytes;
};

const parseIp = (text: string): number => {
  const bytes = text.split('.').map(Number);
  if (bytes.length !== 4 || bytes.some((byte) => !(byte >= 0 && byte < 256)))
    throw new RangeError(`${text} is not an IPv4 address`);
  return get32(Uint8Array.from(bytes), 0);
};

export class Host {
  readonly slots: Float64Array;
  readonly #queue: Queue;
  readonly #mac: Uint8Array;
  readonly #ip: number;
  readonly #peer: number;
  readonly #peerMac = new Uint8Array(6);
  readonly #pingSent = new Float64Array(PING_WINDOW);
  readonly #cyclesPerMicro: number;
  #template = new Uint8Array(0);
  #resolved = false;
  #pingSequence = 0;
  #sequence = 0;
  #expected = 0;
  #synced = false;
  #acknowledged = 0;
  #progressAt = 0;
  readonly #window: number;

  /** @throws RangeError for an address that is none. */
  constructor(queue: Queue, options: HostOptions) {
    this.#queue = queue;
    this.#mac = parseMac(options.mac);
    this.#ip = parseIp(options.ip);
    this.#peer = parseIp(options.peer);
    this.slots = options.slots ?? new Float64Array(HOST_SLOTS);
    if (this.slots.length < HOST_SLOTS)
      throw new RangeError(`slots has ${this.slots.length} counters, ${HOST_SLOTS} are needed`);
    this.#window = options.window ?? 256;
    this.#cyclesPerMicro = tscHz() / 1e6;
  }

  /** True when ARP has told the peer's Ethernet address. */
  get resolved(): boolean {
    return this.#resolved;
  }

  /** Asks for the peer's Ethernet address. @returns false when the ring is full. */
  resolve(): boolean {
    const { tx } = this.#queue;
    if (tx.reserve(1) === 0) return false;
    tx.length[0] = writeArp(tx.u8, tx.at[0]!, 1, this.#mac, this.#ip, new Uint8Array(6), this.#peer);
    this.#count(tx.send(1), 60);
    return true;
  }

  /**
   * Sends one echo request, in a frame of `bytes` (60 to 1514); asks for the address first where it is not known.
   * @returns false when nothing was pinged.
   */
  ping(bytes = 98): boolean {
    if (!this.#resolved) {
      this.resolve();
      return false;
    }
    const { tx } = this.#queue;
    if (tx.reserve(1) === 0) return false;
    const at = tx.at[0]!;
    const sequence = this.#pingSequence++ & 0xffff;
    tx.u8.fill(0x61, at + ICMP_PAYLOAD_AT, at + bytes);
    writeEcho(tx.u8, at, this.#mac, this.#peerMac, this.#ip, this.#peer, 0x5257, sequence, bytes);
    tx.length[0] = bytes;
    sampleTsc();
    this.#pingSent[sequence & (PING_WINDOW - 1)] = tscSample[0]!;
    this.slots[PINGS_SENT]! += 1;
    this.#count(tx.send(1), bytes);
    return true;
  }

  /**
   * Sends up to `max` stream frames of `bytes` each (STREAM_MIN_BYTES to 1514), UDP without a checksum.
   * @returns frames sent: 0 while the peer's address is not known, and while the window or the ring is full.
   */
  stream(max: number, bytes: number): number {
    if (!this.#resolved) return 0;
    if (this.#window > 0) {
      const left = this.#window - ((this.#sequence - this.#acknowledged) >>> 0);
      if (left <= 0) {
        this.#checkStall();
        return 0;
      }
      if (max > left) max = left;
    }
    const { tx } = this.#queue;
    const n = tx.reserve(max);
    if (n === 0) {
      this.slots[TX_FULL]! += 1;
      return 0;
    }
    if (this.#template.length !== bytes) this.#prepare(bytes);
    const template = this.#template;
    const u8 = tx.u8;
    sampleTsc();
    const stamp = tscSample[0]!;
    const high = Math.floor(stamp / TWO32);
    for (let i = 0; i < n; i++) {
      const at = tx.at[i]!;
      for (let k = 0; k < UDP_PAYLOAD_AT; k++) u8[at + k] = template[k]!;
      const sequence = this.#sequence;
      this.#sequence = (sequence + 1) >>> 0;
      put32(u8, at + UDP_PAYLOAD_AT, 0x52570001);
      put32(u8, at + UDP_PAYLOAD_AT + 4, sequence);
      put32(u8, at + UDP_PAYLOAD_AT + 8, high);
      put32(u8, at + UDP_PAYLOAD_AT + 12, stamp >>> 0);
      tx.length[i] = bytes;
    }
    const sent = tx.send(n);
    this.#count(sent, sent * bytes);
    return sent;
  }

  /** Takes one burst from the ring and answers what asks for an answer. @returns frames taken. */
  poll(): number {
    const { rx } = this.#queue;
    const n = rx.poll();
    if (n === 0) return 0;
    const u8 = rx.u8;
    const slots = this.slots;
    let bytes = 0;
    let now = 0;
    let streamed = 0;
    for (let i = 0; i < n; i++) {
      const at = rx.at[i]!;
      const length = rx.length[i]!;
      bytes += length;
      if (rx.pieceCount[i] !== 1) continue;
      const kind = kindOf(u8, at, length);
      if (kind === KIND_UDP) {
        const port = get16(u8, at + L4_AT + 2);
        if (port === STREAM_PORT && length >= UDP_PAYLOAD_AT + 16) {
          if (now === 0) {
            sampleTsc();
            now = tscSample[0]!;
          }
          this.#streamed(u8, at, now, streamed === 0);
          streamed++;
        } else if (port === STREAM_ACK_PORT) {
          this.#progress(get32(u8, at + UDP_PAYLOAD_AT + 4));
        }
      } else if (kind === KIND_ECHO_REQUEST) {
        this.#answerEcho(u8, at, length);
      } else if (kind === KIND_ECHO_REPLY) {
        this.#answered(u8, at);
      } else if (kind === KIND_ARP_REQUEST) {
        this.#answerArp(u8, at);
      } else if (kind === KIND_ARP_REPLY) {
        this.#learn(u8, at);
      }
    }
    slots[RX_PACKETS]! += n;
    slots[RX_BYTES]! += bytes;
    rx.release();
    if (streamed > 0 && this.#window > 0) this.#acknowledge();
    return n;
  }

  #count(frames: number, bytes: number): void {
    this.slots[TX_PACKETS]! += frames;
    this.slots[TX_BYTES]! += bytes;
  }

  #prepare(bytes: number): void {
    const length = Math.max(STREAM_MIN_BYTES, bytes);
    this.#template = new Uint8Array(length);
    writeUdp(this.#template, 0, this.#mac, this.#peerMac, this.#ip, this.#peer, 5000, STREAM_PORT, length);
    // No checksum (RFC 768): sequence and time stamp differ in every frame.
    this.#template[L4_AT + 6] = 0;
    this.#template[L4_AT + 7] = 0;
  }

  /** The peer expects `next`: what lies before it has arrived or is lost. */
  #progress(next: number): void {
    const ahead = (next - this.#acknowledged) | 0;
    if (ahead <= 0 || ((this.#sequence - next) | 0) < 0) return;
    this.#acknowledged = next;
    sampleTsc();
    this.#progressAt = tscSample[0]!;
  }

  #checkStall(): void {
    sampleTsc();
    if (tscSample[0]! - this.#progressAt < STALL_MS * 1000 * this.#cyclesPerMicro) return;
    this.#acknowledged = (this.#sequence - Math.max(0, this.#window - PROBE_FRAMES)) >>> 0;
    this.#progressAt = tscSample[0]!;
  }

  #acknowledge(): void {
    const { tx } = this.#queue;
    if (!this.#resolved || tx.reserve(1) === 0) return;
    const at = tx.at[0]!;
    put32(tx.u8, at + UDP_PAYLOAD_AT, 0x52570002);
    put32(tx.u8, at + UDP_PAYLOAD_AT + 4, this.#expected);
    tx.u8.fill(0, at + UDP_PAYLOAD_AT + 8, at + ACK_BYTES);
    writeUdp(tx.u8, at, this.#mac, this.#peerMac, this.#ip, this.#peer, STREAM_PORT, STREAM_ACK_PORT, ACK_BYTES);
    tx.length[0] = ACK_BYTES;
    this.#count(tx.send(1), ACK_BYTES);
  }

  /** One frame of the peer's stream; the first of a burst, which waited longest, gives the latency. */
  #streamed(u8: Uint8Array, at: number, now: number, timed: boolean): void {
    const slots = this.slots;
    const sequence = get32(u8, at + UDP_PAYLOAD_AT + 4);
    slots[STREAM_RECEIVED]! += 1;
    const ahead = (sequence - this.#expected) | 0;
    if (!this.#synced) {
      this.#synced = true;
      this.#expected = (sequence + 1) >>> 0;
    } else if (ahead >= 0) {
      slots[STREAM_LOST]! += ahead;
      this.#expected = (sequence + 1) >>> 0;
    } else {
      slots[STREAM_LATE]! += 1;
      slots[STREAM_LOST]! -= 1;
    }
    if (!timed) return;
    const sent = get32(u8, at + UDP_PAYLOAD_AT + 8) * TWO32 + get32(u8, at + UDP_PAYLOAD_AT + 12);
    countLatency(slots, STREAM_HISTOGRAM_AT, (now - sent) / this.#cyclesPerMicro);
  }

  #answerEcho(u8: Uint8Array, at: number, length: number): void {
    const { tx } = this.#queue;
    if (get32(u8, at + 30) !== this.#ip || length > tx.frameBytes || tx.reserve(1) === 0) return;
    const to = tx.at[0]!;
    for (let i = 0; i < length; i++) tx.u8[to + i] = u8[at + i]!;
    if (!turnEcho(tx.u8, to, length)) return;
    tx.length[0] = length;
    this.slots[ECHO_ANSWERED]! += 1;
    this.#count(tx.send(1), length);
  }

  #answered(u8: Uint8Array, at: number): void {
    const slot = get16(u8, at + L4_AT + 6) & (PING_WINDOW - 1);
    const sent = this.#pingSent[slot]!;
    if (sent === 0 || get16(u8, at + L4_AT + 4) !== 0x5257) return;
    sampleTsc();
    this.#pingSent[slot] = 0;
    this.slots[PINGS_ANSWERED]! += 1;
    countLatency(this.slots, PING_HISTOGRAM_AT, (tscSample[0]! - sent) / this.#cyclesPerMicro);
  }

  #answerArp(u8: Uint8Array, at: number): void {
    const { tx } = this.#queue;
    this.#learn(u8, at);
    if (get32(u8, at + 38) !== this.#ip || tx.reserve(1) === 0) return;
    const sha = u8.subarray(at + 22, at + 28);
    tx.length[0] = writeArp(tx.u8, tx.at[0]!, 2, this.#mac, this.#ip, sha, get32(u8, at + 28));
    this.slots[ARP_ANSWERED]! += 1;
    this.#count(tx.send(1), 60);
  }

  #learn(u8: Uint8Array, at: number): void {
    if (get32(u8, at + 28) !== this.#peer) return;
    for (let i = 0; i < 6; i++) this.#peerMac[i] = u8[at + 22 + i]!;
    this.#template = new Uint8Array(0);
    this.#resolved = true;
  }
}
