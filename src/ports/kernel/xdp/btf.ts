/**
 * Finds a function of the running kernel by its name in the kernel's type information (Documentation/bpf/btf.rst), whose
 * number a BPF program calls it by.
 *
 * Types are numbered from 1 in the order in which they lie; each is name u32, info u32 (kind in bits 24-28, count in bits
 * 0-15), size or type u32, and what its kind appends.
 */
import { readFileSync } from 'node:fs';

const KERNEL_BTF = '/sys/kernel/btf/vmlinux';
const MAGIC = 0xeb9f;
const KIND_FUNC = 12;
/** Bytes after the three words, by kind: fixed, and per counted member. */
const FIXED = [0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0];
const COUNTED = [0, 0, 0, 0, 12, 12, 8, 0, 0, 0, 0, 0, 0, 8, 0, 12, 0, 0, 0, 12];

const known = new Map<string, number>();

/** Number of a kernel function, or 0 when this kernel has none of that name or tells nothing of its types. */
export function kernelFunction(name: string): number {
  const found = known.get(name);
  if (found !== undefined) return found;
  let id = 0;
  try {
    id = findFunction(readFileSync(KERNEL_BTF), name);
  } catch {
    // A kernel without type information.
  }
  known.set(name, id);
  return id;
}

/** @param btf a whole BTF blob. @returns number of the function, 0 when it is not there or the blob makes no sense. */
export function findFunction(btf: Uint8Array, name: string): number {
  const view = new DataView(btf.buffer, btf.byteOffset, btf.byteLength);
  if (btf.length < 24 || view.getUint16(0, true) !== MAGIC) return 0;
  const header = view.getUint32(4, true);
  const types = header + view.getUint32(8, true);
  const end = types + view.getUint32(12, true);
  const strings = header + view.getUint32(16, true);
  const wanted = Buffer.from(`${name}\0`);
  const text = Buffer.from(btf.buffer, btf.byteOffset, btf.byteLength);
  let id = 0;
  for (let at = types; at + 12 <= end && end <= btf.length; ) {
    id++;
    const info = view.getUint32(at + 4, true);
    const kind = (info >>> 24) & 0x1f;
    if (kind === 0 || kind >= FIXED.length) return 0;
    const nameAt = strings + view.getUint32(at, true);
    const nameEnd = nameAt + wanted.length;
    if (kind === KIND_FUNC && nameEnd <= text.length && text.compare(wanted, 0, wanted.length, nameAt, nameEnd) === 0) {
      return id;
    }
    at += 12 + FIXED[kind]! + COUNTED[kind]! * (info & 0xffff);
  }
  return 0;
}
