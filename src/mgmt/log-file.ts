/**
 * One file of Avro records that survives a crash at any byte.
 *
 * ```
 * magic "RWLOG1\r\n" | frame 0: the Avro schema of the records, as JSON | frame 1, 2, …: one record each
 * frame = length u32 | CRC-32 of the payload u32 | payload          (little endian)
 * ```
 * The writer's schema travels in the file, so a later version with another schema reads it by Avro's resolution rules.
 * A frame of length 0 marks a finished file (a snapshot is worth nothing without it). A frame that is cut short, or whose
 * sum is wrong, ends the file: what is behind was never acknowledged, because a frame is acknowledged after its fsync.
 */
import { open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { crc32 } from 'node:zlib';
import avro from 'avsc';

const MAGIC = Buffer.from('RWLOG1\r\n', 'latin1');
const HEAD = 8;

/** @returns `payload` with its length and its sum before it. */
export function frame(payload: Buffer): Buffer {
  const out = Buffer.allocUnsafe(HEAD + payload.length);
  out.writeUInt32LE(payload.length, 0);
  out.writeUInt32LE(crc32(payload), 4);
  payload.copy(out, HEAD);
  return out;
}

/** Magic and schema: what every file begins with. */
export const fileHeader = (type: avro.Type): Buffer =>
  Buffer.concat([MAGIC, frame(Buffer.from(JSON.stringify(type.schema({ exportAttrs: true }))))]);

/** The mark of a finished file. */
export const END_FRAME: Buffer = frame(Buffer.alloc(0));

export interface ReadResult<T> {
  readonly records: T[];
  /** Bytes up to the end of the last whole frame; 0 when not even the header is. */
  readonly goodBytes: number;
  readonly bytes: number;
  /** The end mark was reached. */
  readonly finished: boolean;
  /** The header is bad, or a sound frame follows a bad one: the file was damaged later, not cut by a crash. */
  readonly damaged: boolean;
}

interface Frame {
  readonly payload: Buffer;
  readonly next: number;
}

function frameAt(bytes: Buffer, at: number): Frame | undefined {
  if (at + HEAD > bytes.length) return undefined;
  const length = bytes.readUInt32LE(at);
  const next = at + HEAD + length;
  if (next > bytes.length) return undefined;
  const payload = bytes.subarray(at + HEAD, next);
  return crc32(payload) === bytes.readUInt32LE(at + 4) ? { payload, next } : undefined;
}

/** A frame that is broken in its payload only still says where the next one is; anything else is a torn write. */
function soundFrameBehind(bytes: Buffer, from: number): boolean {
  if (from + HEAD > bytes.length) return false;
  const next = from + HEAD + bytes.readUInt32LE(from);
  const found = next < bytes.length ? frameAt(bytes, next) : undefined;
  return found !== undefined && found.payload.length > 0;
}

/**
 * Reads what is whole. @throws Error when the file's schema cannot be resolved to `type`: a later version that changed it
 * incompatibly wrote the file.
 */
export async function readLog<T>(path: string, type: avro.Type): Promise<ReadResult<T>> {
  const bytes = await readFile(path);
  const header = bytes.subarray(0, MAGIC.length).equals(MAGIC) ? frameAt(bytes, MAGIC.length) : undefined;
  // Files get their header before their name, so one without was damaged later.
  if (!header) return { records: [], goodBytes: 0, bytes: bytes.length, finished: false, damaged: true };
  const resolver = resolverFor(path, header.payload.toString(), type);
  const records: T[] = [];
  let at = header.next;
  for (let found = frameAt(bytes, at); found; found = frameAt(bytes, at)) {
    at = found.next;
    if (found.payload.length === 0)
      return { records, goodBytes: at, bytes: bytes.length, finished: true, damaged: false };
    records.push(type.fromBuffer(found.payload, resolver) as T);
  }
  const damaged = at < bytes.length && soundFrameBehind(bytes, at);
  return { records, goodBytes: at, bytes: bytes.length, finished: false, damaged };
}

function resolverFor(
  path: string,
  schema: string,
  type: avro.Type,
): ReturnType<avro.Type['createResolver']> | undefined {
  try {
    const writer = avro.Type.forSchema(JSON.parse(schema), { wrapUnions: true });
    return writer.fingerprint().equals(type.fingerprint()) ? undefined : type.createResolver(writer);
  } catch (error) {
    throw new Error(
      `${path} was written with a schema that this version cannot read (${(error as Error).message}); ` +
        'start the version that wrote it, or move the file away',
    );
  }
}

/** Makes the names in a folder durable. */
export async function syncDirectory(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Writes a whole file so that `path` is either as before or complete: temporary file, fsync, rename, fsync of the folder. */
export async function writeWhole(path: string, parts: Iterable<Buffer>): Promise<void> {
  const file = await open(`${path}.tmp`, 'w', 0o600);
  try {
    for (const part of parts) await file.writeFile(part);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.tmp`, path);
  await syncDirectory(dirname(path));
}
