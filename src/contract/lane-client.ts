/**
 * The control plane's side of one lane: reads upcalls, writes commands. What does not fit in the command ring waits in
 * order and is written as soon as the worker has taken enough.
 */
import { KEY_WORDS } from './flow-key.ts';
import {
  COMMAND_RING_BYTES,
  H_BARRIER,
  H_COMMAND_HEAD,
  H_COMMAND_TAIL,
  H_CONTROL_ASLEEP,
  H_MAGIC,
  H_UPCALL_HEAD,
  H_UPCALL_READ,
  H_VERSION,
  H_WORKER_ASLEEP,
  LANE_BYTES,
  LANE_COMMAND_AT,
  LANE_MAGIC,
  LANE_UPCALL_AT,
  LANE_VERSION,
  Lane,
  MAX_RECORD_BYTES,
  UPCALL_RING_BYTES,
} from './lane.ts';
import { close, eventfdSignal, fileSize, map, release } from './os.ts';
import {
  RECORD_BARRIER,
  RECORD_EXECUTE,
  RECORD_FLOW_DELETE,
  RECORD_FLOW_FLUSH,
  RECORD_FLOW_PUT,
  RECORD_REPLY,
  RECORD_UPCALL,
  UPCALL_FRAME,
  UPCALL_IN_PORT,
  UPCALL_KEY,
  UPCALL_LENGTH,
  UPCALL_SEQ,
} from './records.ts';
import { RingReader, RingWriter } from './ring.ts';

/** An upcall as it lies in the ring; the arrays are views, good until `release`. */
export interface RingUpcall {
  seq: number;
  inPort: number;
  key: Uint32Array;
  frame: Uint8Array;
}

/** The words behind word 1 of a record, and bytes behind those. */
interface Waiting {
  readonly kind: number;
  readonly words: Uint32Array;
  readonly bytes: Uint8Array | undefined;
}

export class LaneClient {
  readonly lane: Lane;
  readonly #upcalls: RingReader;
  readonly #commands: RingWriter;
  readonly #laneFd: number;
  readonly #wakeFd: number;
  #waiting: Waiting[] = [];
  #written = false;

  /** Takes over both descriptors. @throws Error when the memory is no lane of this version. */
  constructor(laneFd: number, wakeFd: number) {
    try {
      const size = fileSize(laneFd);
      if (size < LANE_BYTES) throw new Error(`lane has ${size} bytes, ${LANE_BYTES} needed`);
      this.lane = new Lane(map(laneFd, 0, LANE_BYTES, { write: true, owner: 0 }));
    } catch (error) {
      close(laneFd);
      throw error;
    }
    const { header, buffer } = this.lane;
    if (header[H_MAGIC] !== LANE_MAGIC || header[H_VERSION] !== LANE_VERSION) {
      close(laneFd);
      throw new Error(`lane version ${header[H_VERSION]} is not ${LANE_VERSION}`);
    }
    this.#laneFd = laneFd;
    this.#wakeFd = wakeFd;
    this.#upcalls = new RingReader(buffer, header, LANE_UPCALL_AT, UPCALL_RING_BYTES, H_UPCALL_HEAD, H_UPCALL_READ);
    this.#commands = new RingWriter(
      buffer,
      header,
      LANE_COMMAND_AT,
      COMMAND_RING_BYTES,
      H_COMMAND_HEAD,
      H_COMMAND_TAIL,
    );
  }

  /** Takes the next upcall, or undefined when there is none. Each one taken must be answered by `reply`, in order. */
  next(): RingUpcall | undefined {
    const at = this.#upcalls.next();
    if (at < 0) return undefined;
    const { words, bytes } = this.#upcalls;
    if (words[at + 1] !== RECORD_UPCALL) throw new Error(`upcall ring holds a record of kind ${words[at + 1]}`);
    const frameAt = (at + UPCALL_FRAME) * 4;
    return {
      seq: words[at + UPCALL_SEQ]!,
      inPort: words[at + UPCALL_IN_PORT]!,
      key: words.subarray(at + UPCALL_KEY, at + UPCALL_KEY + KEY_WORDS),
      frame: bytes.subarray(frameAt, frameAt + words[at + UPCALL_LENGTH]!),
    };
  }

  /** The upcalls taken so far are no longer looked at. */
  release(): void {
    this.#upcalls.release();
  }

  /** Says that the worker shall ring at its next upcall. @returns false when one is there already. */
  sleep(): boolean {
    const { header } = this.lane;
    Atomics.store(header, H_CONTROL_ASLEEP, 1);
    if (Atomics.load(header, H_UPCALL_HEAD) === Atomics.load(header, H_UPCALL_READ)) return true;
    Atomics.store(header, H_CONTROL_ASLEEP, 0);
    return false;
  }

  /** @param actions undefined: the packet is lost, reason `upcall_unanswered`. */
  reply(seq: number, actions: Uint32Array | undefined): void {
    const words = new Uint32Array(2 + (actions?.length ?? 0));
    words[0] = seq;
    words[1] = actions ? actions.length : 0xffffffff;
    if (actions) words.set(actions, 2);
    this.#write(RECORD_REPLY, words);
  }

  /** @param key, mask KEY_WORDS words; @param actions a program. */
  putFlow(id: number, key: Uint32Array, mask: Uint32Array, actions: Uint32Array): void {
    let n = 0;
    for (let w = 0; w < KEY_WORDS; w++) if (mask[w] !== 0) n++;
    const words = new Uint32Array(3 + n * 3 + actions.length);
    words[0] = id;
    words[1] = n;
    words[2] = actions.length;
    let at = 3;
    for (let w = 0; w < KEY_WORDS; w++) {
      if (mask[w] === 0) continue;
      words[at++] = w;
      words[at++] = key[w]!;
      words[at++] = mask[w]!;
    }
    words.set(actions, at);
    this.#write(RECORD_FLOW_PUT, words);
  }

  deleteFlow(id: number): void {
    this.#write(RECORD_FLOW_DELETE, Uint32Array.of(id, 0));
  }

  flushFlows(): void {
    this.#write(RECORD_FLOW_FLUSH, new Uint32Array(2));
  }

  /** @throws RangeError for a frame and program that no record holds. */
  execute(inPort: number, frame: Uint8Array, actions: Uint32Array): void {
    const bytes = 24 + actions.length * 4 + frame.length;
    if (bytes > MAX_RECORD_BYTES) {
      throw new RangeError(`a frame and program of ${bytes} bytes; at most ${MAX_RECORD_BYTES} fit a record`);
    }
    const words = new Uint32Array(4 + actions.length);
    words[0] = inPort;
    words[1] = frame.length;
    words[2] = actions.length;
    words.set(actions, 4);
    this.#write(RECORD_EXECUTE, words, frame);
  }

  barrier(seq: number): void {
    this.#write(RECORD_BARRIER, Uint32Array.of(seq, 0));
  }

  /** True when the worker has passed barrier `seq`. */
  passed(seq: number): boolean {
    return ((Atomics.load(this.lane.header, H_BARRIER) - seq) | 0) >= 0;
  }

  /** Shows what was written to the worker, and wakes it if it sleeps. @returns false while commands wait for room. */
  flush(): boolean {
    while (this.#waiting.length > 0) {
      const count = Math.min(this.#waiting.length, 4096);
      let done = 0;
      while (done < count && this.#put(this.#waiting[done]!)) done++;
      this.#waiting.splice(0, done);
      if (done < count) break;
    }
    if (this.#written) {
      this.#written = false;
      this.#commands.publish();
      if (Atomics.load(this.lane.header, H_WORKER_ASLEEP) === 1) eventfdSignal(this.#wakeFd);
    }
    return this.#waiting.length === 0;
  }

  /** Frames of `execute` that the worker, which has stopped, has not taken. */
  left(): { inPort: number; frame: Uint8Array; actions: Uint32Array }[] {
    this.#commands.publish();
    const { header, buffer } = this.lane;
    const ring = new RingReader(buffer, header, LANE_COMMAND_AT, COMMAND_RING_BYTES, H_COMMAND_HEAD, H_COMMAND_TAIL);
    const left: { inPort: number; frame: Uint8Array; actions: Uint32Array }[] = [];
    for (let at = ring.next(); at >= 0; at = ring.next()) {
      if (ring.words[at + 1] !== RECORD_EXECUTE) continue;
      const [inPort, length, count] = ring.words.subarray(at + 2, at + 5) as unknown as [number, number, number];
      const frameAt = (at + 6 + count) * 4;
      const actions = ring.words.slice(at + 6, at + 6 + count);
      left.push({ inPort, frame: ring.bytes.slice(frameAt, frameAt + length), actions });
    }
    for (const { kind, words, bytes } of this.#waiting)
      if (kind === RECORD_EXECUTE) left.push({ inPort: words[0]!, frame: bytes!, actions: words.slice(4) });
    return left;
  }

  close(): void {
    close(this.leave());
  }

  /** Lets go of everything but the lane's descriptor, which is the caller's. */
  leave(): number {
    release(this.lane.buffer);
    close(this.#wakeFd);
    return this.#laneFd;
  }

  #write(kind: number, words: Uint32Array, bytes?: Uint8Array): void {
    const record = { kind, words, bytes };
    if (this.#waiting.length > 0 || !this.#put(record)) this.#waiting.push(record);
  }

  #put({ kind, words, bytes }: Waiting): boolean {
    const ring = this.#commands;
    const at = ring.reserve(kind, 8 + words.length * 4 + (bytes?.length ?? 0));
    if (at < 0) return false;
    ring.words.set(words, at + 2);
    if (bytes) ring.bytes.set(bytes, (at + 2 + words.length) * 4);
    this.#written = true;
    return true;
  }
}
