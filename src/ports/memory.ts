/** Memory that a peer shares as files: sizes and seals looked at, mapped all or none. */
import { fileSize, map, release, SEAL_SHRINK, seals } from '#contract/os.ts';

/** A part of a file; numbers are exact integers. */
export interface FilePart {
  readonly fd: number;
  /** Offset of the part in its file, and its length, in bytes. */
  readonly mmapOffset: number;
  readonly size: number;
}

/** @throws RangeError when a file is too short for its part: the memory is not shared, or was truncated. */
export function checkFiles(parts: readonly FilePart[]): void {
  parts.forEach((part, i) => {
    const size = fileSize(part.fd);
    if (part.mmapOffset + part.size > size) {
      throw new RangeError(`memory region ${i} ends at byte ${part.mmapOffset + part.size} of a file of ${size} bytes`);
    }
  });
}

/** Whether the peer cannot shrink any of the files. */
export const sealed = (parts: readonly FilePart[]): boolean =>
  parts.every(({ fd }) => {
    const mask = seals(fd);
    return mask >= 0 && (mask & SEAL_SHRINK) !== 0;
  });

/**
 * Maps every part, shared and writable. @param owner port number for the SIGBUS guard.
 * @throws OsError when one cannot be mapped; nothing stays mapped then.
 */
export function mapFiles(parts: readonly FilePart[], owner: number): ArrayBuffer[] {
  const buffers: ArrayBuffer[] = [];
  try {
    for (const part of parts) buffers.push(map(part.fd, part.mmapOffset, part.size, { write: true, owner }));
  } catch (error) {
    for (const buffer of buffers) release(buffer);
    throw error;
  }
  return buffers;
}
