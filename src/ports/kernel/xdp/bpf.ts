/**
 * The calls of bpf(2) that a redirecting XDP program needs. Attributes are laid out as union bpf_attr (<linux/bpf.h>);
 * what they point to lies in one anonymous map, so that addresses stay.
 */
import { address, bpf, mapAnonymous, OsError, release } from '#contract/os.ts';

const MAP_CREATE = 0;
const MAP_UPDATE_ELEM = 2;
const PROG_LOAD = 5;
const LINK_CREATE = 28;
const MAP_TYPE_XSKMAP = 17;
const PROG_TYPE_XDP = 6;
const ATTACH_XDP = 37;

/** Flags of `loadXdpProgram`. */
export const XDP_HAS_FRAGS = 1 << 5;
export const XDP_DEV_BOUND_ONLY = 1 << 6;

/** XDP_FLAGS_* of <linux/if_link.h>: where in the kernel the program runs. */
export const SKB_MODE = 1 << 1;
export const DRV_MODE = 1 << 2;

const ATTR_BYTES = 160;
const LOG_BYTES = 65_536;
/** Free software, as the verifier asks of programs that call kernel functions. */
const LICENCE = 'Dual MIT/GPL\0';

class Attributes {
  readonly bytes = new Uint8Array(ATTR_BYTES);
  readonly #view = new DataView(this.bytes.buffer);

  u32(at: number, value: number): this {
    this.#view.setUint32(at, value, true);
    return this;
  }

  u64(at: number, value: number): this {
    this.#view.setBigUint64(at, BigInt(value), true);
    return this;
  }

  name(at: number, text: string): this {
    this.bytes.set(Buffer.from(text.slice(0, 15)), at);
    return this;
  }
}

/** Socket map by queue number. @returns descriptor. @throws OsError EPERM without CAP_BPF and CAP_NET_ADMIN. */
export function createSocketMap(queues: number): number {
  const attr = new Attributes().u32(0, MAP_TYPE_XSKMAP).u32(4, 4).u32(8, 4).u32(12, queues).name(28, 'ringway_xsks');
  return checked('bpf(BPF_MAP_CREATE)', bpf(MAP_CREATE, attr.bytes));
}

/** @throws OsError */
export function setSocket(map: number, queue: number, fd: number): void {
  const memory = mapAnonymous(16);
  try {
    new Uint32Array(memory).set([queue, 0, fd, 0]);
    const at = address(memory);
    const attr = new Attributes()
      .u32(0, map)
      .u64(8, at)
      .u64(16, at + 8);
    checked('bpf(BPF_MAP_UPDATE_ELEM)', bpf(MAP_UPDATE_ELEM, attr.bytes));
  } finally {
    release(memory);
  }
}

/**
 * Loads an XDP program. @param ifindex the interface that the program is bound to with XDP_DEV_BOUND_ONLY.
 * @returns descriptor. @throws OsError whose message ends with the verifier's last words.
 */
export function loadXdpProgram(instructions: Uint8Array, flags: number, ifindex: number): number {
  const logAt = (instructions.length + 64) & ~63;
  const memory = mapAnonymous(logAt + 64 + LOG_BYTES);
  try {
    const bytes = new Uint8Array(memory);
    const base = address(memory);
    bytes.set(instructions);
    bytes.set(Buffer.from(LICENCE), logAt);
    const attr = new Attributes()
      .u32(0, PROG_TYPE_XDP)
      .u32(4, instructions.length / 8)
      .u64(8, base)
      .u64(16, base + logAt)
      .u32(24, 1)
      .u32(28, LOG_BYTES)
      .u64(32, base + logAt + 64)
      .u32(44, flags)
      .name(48, 'ringway_xdp')
      .u32(64, (flags & XDP_DEV_BOUND_ONLY) !== 0 ? ifindex : 0)
      .u32(68, ATTACH_XDP);
    const result = bpf(PROG_LOAD, attr.bytes);
    if (result >= 0) return result;
    const log = Buffer.from(bytes.subarray(logAt + 64)).toString('latin1');
    const words = log.slice(0, log.indexOf('\0')).trim().split('\n').slice(-3).join('; ');
    throw new OsError('bpf(BPF_PROG_LOAD)', -result, words);
  } finally {
    release(memory);
  }
}

/**
 * Attaches a program to an interface for as long as the returned descriptor is open, whatever becomes of this process.
 * @param mode SKB_MODE or DRV_MODE. @throws OsError EBUSY where another program is attached, EINVAL before Linux 5.9.
 */
export function attachXdp(program: number, ifindex: number, mode: number): number {
  const attr = new Attributes().u32(0, program).u32(4, ifindex).u32(8, ATTACH_XDP).u32(12, mode);
  return checked('bpf(BPF_LINK_CREATE)', bpf(LINK_CREATE, attr.bytes));
}

const checked = (call: string, result: number): number => {
  if (result < 0) throw new OsError(call, -result);
  return result;
};
