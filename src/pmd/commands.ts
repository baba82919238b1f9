/** Carries out what the control plane writes into a worker's command ring (contract/records.ts). */
import { checkProgram, MAX_ACTION_WORDS } from '#contract/actions.ts';
import { KEY_WORDS } from '#contract/flow-key.ts';
import {
  COMMAND_RING_BYTES,
  H_BARRIER,
  H_COMMAND_HEAD,
  H_COMMAND_TAIL,
  LANE_COMMAND_AT,
  type Lane,
} from '#contract/lane.ts';
import { address } from '#contract/os.ts';
import {
  RECORD_BARRIER,
  RECORD_EXECUTE,
  RECORD_FLOW_DELETE,
  RECORD_FLOW_FLUSH,
  RECORD_FLOW_PUT,
  RECORD_REPLY,
  UPCALL_FRAME,
  UPCALL_IN_PORT,
  UPCALL_LENGTH,
  UPCALL_VNET,
} from '#contract/records.ts';
import { RingReader } from '#contract/ring.ts';
import { BURST, MAX_FRAME, type PacketBatch } from '#datapath/packet/batch.ts';
import { placeFrame } from '#datapath/packet/place.ts';
import type { Pipeline } from '#datapath/pipeline.ts';
import type { UpcallPath } from './upcall.ts';

/** Records taken between two looks at the rx queues. */
export const RECORDS_PER_TURN = 64;
/** Length of a REPLY's program that says: lose the packet. */
const UNANSWERED = 0xffffffff;

export class Commands {
  readonly #lane: Lane;
  readonly #ring: RingReader;
  readonly #ringAddress: number;
  readonly #batch: PacketBatch;
  readonly #pipeline: Pipeline;
  readonly #upcalls: UpcallPath;

  constructor(lane: Lane, batch: PacketBatch, pipeline: Pipeline, upcalls: UpcallPath) {
    const { buffer, header } = lane;
    this.#lane = lane;
    this.#ring = new RingReader(buffer, header, LANE_COMMAND_AT, COMMAND_RING_BYTES, H_COMMAND_HEAD, H_COMMAND_TAIL);
    this.#ringAddress = address(buffer) + LANE_COMMAND_AT;
    this.#batch = batch;
    this.#pipeline = pipeline;
    this.#upcalls = upcalls;
  }

  /** Whether the ring holds something. */
  get waiting(): boolean {
    const { header } = this.#lane;
    return Atomics.load(header, H_COMMAND_HEAD) !== header[H_COMMAND_TAIL];
  }

  /** Another control plane: the ring starts at 0. */
  reset(): void {
    Atomics.store(this.#lane.header, H_COMMAND_HEAD, 0);
    Atomics.store(this.#lane.header, H_BARRIER, 0);
    this.#ring.reset();
  }

  /**
   * Takes a bounded number of records. Packets answered together leave together; their bytes stay in the rings until then.
   * @throws Error when the ring holds nonsense: the control plane is not to be trusted any more.
   */
  run(): void {
    try {
      this.#take();
    } finally {
      // Also before a control plane is cut off: what it answered so far leaves.
      this.#send();
    }
    this.#ring.release();
  }

  #take(): void {
    const { words } = this.#ring;
    let flows = false;
    let barrier = 0;
    for (let i = 0; i < RECORDS_PER_TURN; i++) {
      const at = this.#ring.next();
      if (at < 0) break;
      switch (words[at + 1]) {
        case RECORD_FLOW_PUT:
          this.#put(at);
          flows = true;
          break;
        case RECORD_FLOW_DELETE:
          this.#pipeline.flows.delete(words[at + 2]!);
          flows = true;
          break;
        case RECORD_FLOW_FLUSH:
          this.#pipeline.flows.flush();
          flows = true;
          break;
        case RECORD_REPLY:
          this.#reply(at);
          break;
        case RECORD_EXECUTE:
          this.#execute(at);
          break;
        case RECORD_BARRIER:
          barrier = words[at + 2]!;
          break;
        default:
          throw new Error(`command ring holds a record of kind ${words[at + 1]}`);
      }
    }
    if (this.#ring.broken) throw new Error('command ring holds a record of impossible length');
    if (flows) this.#pipeline.flowsChanged();
    if (barrier !== 0) {
      // A barrier covers the packets answered before it.
      this.#send();
      Atomics.store(this.#lane.header, H_BARRIER, barrier);
    }
  }

  /** Everything placed in the batch leaves; the upcalls' bytes are free again. */
  #send(): void {
    if (this.#batch.count > 0) this.#pipeline.flush();
    this.#upcalls.release();
  }

  #put(at: number): void {
    const { words } = this.#ring;
    const n = words[at + 3]!;
    const m = words[at + 4]!;
    if (m > MAX_ACTION_WORDS || 20 + n * 12 + m * 4 > words[at]!) throw new Error('FLOW_PUT is longer than its record');
    this.#pipeline.flows.put(words[at + 2]!, words, at + 5, n, m);
  }

  #reply(at: number): void {
    const { words } = this.#ring;
    const upcall = this.#upcalls.answer(words[at + 2]!);
    if (upcall < 0) throw new Error(`answer ${words[at + 2]} fits no upcall`);
    const record = this.#upcalls.words;
    const inPort = record[upcall + UPCALL_IN_PORT]!;
    const count = words[at + 3]!;
    if (count === UNANSWERED) return this.#unanswered(inPort);
    if (count > MAX_ACTION_WORDS || 16 + count * 4 > words[at]!) throw new Error('REPLY is longer than its record');
    this.#check(at + 4, count);
    const bytes = this.#upcalls.bytes;
    const frame = (upcall + UPCALL_FRAME) * 4;
    const slot = this.#place(inPort, bytes, frame, this.#upcalls.ringAddress, record[upcall + UPCALL_LENGTH]!);
    if (slot < 0) return this.#unanswered(inPort);
    const batch = this.#batch;
    const vnet = record[upcall + UPCALL_VNET]!;
    batch.vnetFlags[slot] = vnet & 0xff;
    batch.gsoType[slot] = (vnet >>> 8) & 0xff;
    batch.gsoSize[slot] = vnet >>> 16;
    batch.vnetHeaderLength[slot] = record[upcall + UPCALL_VNET + 1]! & 0xffff;
    batch.csumStart[slot] = record[upcall + UPCALL_VNET + 1]! >>> 16;
    batch.csumOffset[slot] = record[upcall + UPCALL_VNET + 2]!;
    this.#pipeline.execute(slot, words, at + 4, count);
    this.#upcalls.settle();
  }

  #unanswered(inPort: number): void {
    this.#pipeline.unanswered(inPort);
    this.#upcalls.settle();
  }

  #execute(at: number): void {
    const { words, bytes } = this.#ring;
    const length = words[at + 3]!;
    const count = words[at + 4]!;
    if (length > MAX_FRAME || 24 + count * 4 + length > words[at]!) {
      throw new Error('EXECUTE is longer than its record or than a frame may be');
    }
    this.#check(at + 6, count);
    const slot = this.#place(words[at + 2]!, bytes, (at + 6 + count) * 4, this.#ringAddress, length);
    if (slot >= 0) this.#pipeline.execute(slot, words, at + 6, count);
  }

  #check(at: number, count: number): void {
    const fault = checkProgram(this.#ring.words.subarray(at, at + count), KEY_WORDS);
    if (fault !== undefined) throw new Error(fault);
  }

  /** A batch holds packets of one in_port. */
  #place(inPort: number, bytes: Uint8Array, at: number, base: number, length: number): number {
    const batch = this.#batch;
    if (batch.count > 0 && (batch.inPort !== inPort || batch.count === BURST)) this.#pipeline.flush();
    batch.inPort = inPort;
    return placeFrame(batch, bytes, at, base, length);
  }
}
