/**
 * The ivshmem client-server protocol (QEMU docs/specs/ivshmem-spec.rst), both directions, pure: numbers to bytes and back.
 *
 * A message is one signed 64-bit little-endian number, with or without one descriptor; all go from server to client:
 *
 *   number               descriptor   meaning
 *   PROTOCOL_VERSION     –            first message
 *   client's id          –            second message
 *   SHARED_MEMORY (-1)   the object   third message
 *   another peer's id    eventfd      that peer is there; the n-th such message is its vector n
 *   client's id          eventfd      as above: the client's own vectors, to be waited on
 *   another peer's id    –            that peer has gone
 *
 * Import rule: the client in src/guest uses this file too.
 */

export const MESSAGE_BYTES = 8;
export const PROTOCOL_VERSION = 0;
export const SHARED_MEMORY = -1;
/** The doorbell register has 16 bits for a peer, and 16 for a vector. */
export const MAX_PEER_ID = 0xffff;
/** Vectors of one peer, at most, that this switch serves. */
export const MAX_VECTORS = 64;
/** The peer that stands for the switch. */
export const SWITCH_ID = 0;

/** What a guest writes to the doorbell register to interrupt `peer`. */
export const doorbellValue = (peer: number, vector: number): number => ((peer << 16) | vector) >>> 0;

/** @throws RangeError for a number that no message has. */
export function encodeMessage(value: number): Uint8Array {
  if (!Number.isInteger(value) || value < SHARED_MEMORY || value > MAX_PEER_ID) {
    throw new RangeError(`${value} is no ivshmem message; -1 to ${MAX_PEER_ID} are`);
  }
  const bytes = new Uint8Array(MESSAGE_BYTES);
  new DataView(bytes.buffer).setBigInt64(0, BigInt(value), true);
  return bytes;
}

/** What a client is told. */
export type ServerMessage =
  | { readonly kind: 'version' }
  | { readonly kind: 'id'; readonly id: number }
  | { readonly kind: 'memory'; readonly fd: number }
  /** Vector `vector` of peer `id`, which may be the client itself. */
  | { readonly kind: 'vector'; readonly id: number; readonly vector: number; readonly fd: number }
  | { readonly kind: 'gone'; readonly id: number };

/**
 * The client's end: puts bytes together to messages, whatever pieces they come in, and holds them against the order of the
 * protocol. Descriptors are the caller's, also after an error.
 */
export class ServerMessages {
  readonly #bytes = new Uint8Array(MESSAGE_BYTES);
  #have = 0;
  #fd = -1;
  #step: 'version' | 'id' | 'memory' | 'peers' = 'version';
  #id = -1;
  readonly #vectors = new Map<number, number>();

  /** Bytes to read next, at most: a read never goes beyond one message, so that descriptors keep to theirs. */
  get want(): number {
    return MESSAGE_BYTES - this.#have;
  }

  /**
   * Takes at most `want` bytes, and the descriptor that came with them, or -1.
   * @returns the message that they complete, if they do. @throws Error for what a server does not say.
   */
  push(bytes: Uint8Array, fd = -1): ServerMessage | undefined {
    if (fd >= 0) {
      if (this.#fd >= 0) throw new Error('two descriptors came with one message');
      this.#fd = fd;
    }
    this.#bytes.set(bytes, this.#have);
    this.#have += bytes.length;
    if (this.#have < MESSAGE_BYTES) return undefined;
    const value = Number(new DataView(this.#bytes.buffer).getBigInt64(0, true));
    const given = this.#fd;
    this.#have = 0;
    this.#fd = -1;
    return this.#message(value, given);
  }

  #message(value: number, fd: number): ServerMessage {
    const step = this.#step;
    if (step === 'version') {
      if (value !== PROTOCOL_VERSION)
        throw new Error(`protocol version ${value}; version ${PROTOCOL_VERSION} is known`);
      this.#step = 'id';
      return { kind: 'version' };
    }
    if (step === 'memory') {
      if (value !== SHARED_MEMORY || fd < 0) throw new Error(`message ${value} in place of the shared memory`);
      this.#step = 'peers';
      return { kind: 'memory', fd };
    }
    if (value < 0 || value > MAX_PEER_ID) throw new Error(`peer id ${value}; 0 to ${MAX_PEER_ID} are possible`);
    if (step === 'id') {
      this.#step = 'memory';
      this.#id = value;
      return { kind: 'id', id: value };
    }
    if (fd < 0) {
      if (value === this.#id) throw new Error('the client itself is said to be gone');
      this.#vectors.delete(value);
      return { kind: 'gone', id: value };
    }
    const vector = this.#vectors.get(value) ?? 0;
    this.#vectors.set(value, vector + 1);
    return { kind: 'vector', id: value, vector, fd };
  }
}
