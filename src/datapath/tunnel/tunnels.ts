// hot
/** The tunnel actions of one worker, and the packets that came out of tunnels and wait for their second lookup. */
import { dropReason, PORT_ROW, portCounter } from '#contract/catalogue.ts';
import { MAX_PORTS } from '#contract/lane.ts';
import { runProgram } from '../actions/run.ts';
import type { Outputs } from '../outputs.ts';
import { type PacketBatch, SLOTS } from '../packet/batch.ts';
import { Decapsulation } from './decapsulate.ts';
import { Encapsulation } from './encapsulate.ts';
import type { Finisher } from './finisher.ts';

const ROW = PORT_ROW;
const PORTS = MAX_PORTS;
const RX_PACKETS = portCounter('rx_packets');
const RX_BYTES = portCounter('rx_bytes');
const TX_PACKETS = portCounter('tx_packets');
const TX_BYTES = portCounter('tx_bytes');
const BAD_HEADER = dropReason('tunnel_bad_header');
const FLOW_DROP = dropReason('flow_drop');

export class Tunnels {
  /** Packets that wait: their slots, and the tunnel ports that they came in at. */
  waiting = 0;
  readonly slots = new Int32Array(SLOTS);
  readonly ports = new Int32Array(SLOTS);
  readonly #batch: PacketBatch;
  readonly #counters: Float64Array;
  readonly #encapsulation: Encapsulation;
  readonly #decapsulation: Decapsulation;

  /** @param counters port rows of the lane. */
  constructor(batch: PacketBatch, finisher: Finisher, counters: Float64Array) {
    this.#batch = batch;
    this.#counters = counters;
    this.#encapsulation = new Encapsulation(batch, finisher);
    this.#decapsulation = new Decapsulation(batch, finisher);
  }

  /**
   * TNL_PUSH at words[at..]: wraps the packet and runs the rest of the program, up to `to`, on what this makes.
   * @returns 0, or the drop reason.
   */
  push(slot: number, words: Uint32Array, at: number, to: number, outputs: Outputs): number {
    const batch = this.#batch;
    const encapsulation = this.#encapsulation;
    const counters = this.#counters;
    const port = words[at + 1]!;
    const row = (port < PORTS ? port : 0) * ROW;
    const rest = at + (words[at]! & 0xffff);
    if (encapsulation.isPlain(slot, words, at)) {
      const made = encapsulation.wrap(slot, words, at);
      if (made < 0) return -made;
      counters[row + TX_PACKETS] = counters[row + TX_PACKETS]! + 1;
      counters[row + TX_BYTES] = counters[row + TX_BYTES]! + batch.length[made]!;
      return runProgram(batch, made, words, rest, to, outputs, this);
    }
    const frames = encapsulation.begin(slot, words, at);
    if (frames < 0) return -frames;
    const slots = batch.nextSlot;
    const segments = batch.nextSegment;
    let lost = 0;
    for (let k = 0; k < frames; k++) {
      let made = encapsulation.frame(slot, k, words, at);
      if (made < 0 && batch.nextSlot > slots) {
        // Those made so far leave, for the next to have their slots.
        outputs.part();
        batch.nextSlot = slots;
        batch.nextSegment = segments;
        made = encapsulation.frame(slot, k, words, at);
      }
      if (made < 0) {
        lost = -made;
        break;
      }
      counters[row + TX_PACKETS] = counters[row + TX_PACKETS]! + 1;
      counters[row + TX_BYTES] = counters[row + TX_BYTES]! + batch.length[made]!;
      const reason = runProgram(batch, made, words, rest, to, outputs, this);
      if (reason !== 0) lost = reason;
    }
    // The finished frames lie in memory that the next one takes.
    outputs.part();
    if (this.waiting === 0) {
      batch.nextSlot = slots;
      batch.nextSegment = segments;
    }
    return lost;
  }

  /** TNL_POP: unwraps the packet, which then waits. @returns 0, or the drop reason. */
  pop(slot: number, port: number, kind: number): number {
    const batch = this.#batch;
    if (this.waiting >= SLOTS) return FLOW_DROP;
    batch.edited[slot] = 1;
    if (!this.#decapsulation.unwrap(slot, kind)) return BAD_HEADER;
    const counters = this.#counters;
    const row = (port < PORTS ? port : 0) * ROW;
    counters[row + RX_PACKETS] = counters[row + RX_PACKETS]! + 1;
    counters[row + RX_BYTES] = counters[row + RX_BYTES]! + batch.length[slot]!;
    this.slots[this.waiting] = slot;
    this.ports[this.waiting] = port;
    this.waiting++;
    return 0;
  }
}
