/**
 * The flow key of a frame, the slow and plain way: a cursor that pulls headers off a DataView. Written against ovs-fields(7)
 * and the RFCs, sharing nothing with src/datapath/parse but the layout of the key.
 */
import { KEY_WORDS } from '#contract/flow-key.ts';

export interface Parsed {
  key: Uint32Array;
  l3: number;
  l4: number;
}

/** @param window how many bytes of the frame may be looked at. */
export function referenceParse(frame: Uint8Array, window = frame.length): Parsed {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const key = new Uint32Array(KEY_WORDS);
  const result: Parsed = { key, l3: 0, l4: 0 };
  let offset = 0;
  /** End of what belongs to the header at the cursor: first the frame, then the IP payload. */
  let end = frame.length;
  const left = (): number => end - offset;
  const visible = (bytes: number): boolean => offset + bytes <= Math.min(end, window);
  const u8 = (at: number): number => view.getUint8(offset + at);
  const u16 = (at: number): number => view.getUint16(offset + at);
  const u32 = (at: number): number => view.getUint32(offset + at);

  if (!visible(14)) return result;
  key[2] = u32(0);
  key[3] = u32(4);
  key[4] = u32(8);
  offset = 12;
  for (let tag = 0; tag < 2 && [0x8100, 0x88a8].includes(u16(0)) && visible(6); tag++) {
    key[5 + tag] = u32(0) | 0x1000;
    offset += 4;
  }
  let type = u16(0);
  offset += 2;
  if (type < 0x600) {
    type = 0x5ff;
    if (visible(8) && u32(0) === 0xaaaa0300 && u16(4) === 0) {
      if (u16(6) >= 0x600) type = u16(6);
      offset += 8;
    }
  }
  key[7] = type * 0x10000;

  let protocol = -1;
  if (type === 0x0800) {
    if (!visible(20)) return result;
    const size = (u8(0) & 15) * 4;
    const total = u16(2);
    if (size < 20 || !visible(size) || total < size || total > left() || left() - total > 65535) return result;
    result.l3 = offset;
    protocol = u8(9);
    const flags = u16(6);
    const fragment = (flags & 0x3fff ? 1 : 0) | (flags & 0x1fff ? 2 : 0);
    key[7] = type * 0x10000 + protocol * 256 + fragment;
    key[8] = u32(12);
    key[9] = u32(16);
    key[11] = u8(1) * 0x1000000 + u8(8) * 0x10000;
    end = offset + total;
    offset += size;
    if (fragment & 2) return result;
  } else if (type === 0x86dd) {
    if (!visible(40)) return result;
    const payload = u16(4);
    if (payload > left() - 40 || left() - 40 - payload > 65535) return result;
    result.l3 = offset;
    const ip = offset;
    for (let i = 0; i < 3; i++) {
      key[12 + i] = u32(8 + i * 4);
      key[15 + i] = u32(24 + i * 4);
    }
    key[8] = u32(20);
    key[9] = u32(36);
    const first = u32(0);
    const hops = u8(7);
    protocol = u8(6);
    end = offset + 40 + payload;
    offset += 40;
    let fragment = 0;
    let hidden = false;
    while ([0, 43, 44, 51, 60].includes(protocol) && !(fragment & 2)) {
      if (left() < 8) {
        protocol = -1;
        break;
      }
      if (!visible(8)) {
        hidden = true;
        break;
      }
      const size = protocol === 44 ? 8 : protocol === 51 ? u8(1) * 4 + 8 : u8(1) * 8 + 8;
      if (size > left()) {
        protocol = -1;
        break;
      }
      if (protocol === 44) {
        fragment = u16(2) === 0 ? fragment : u16(2) >= 8 ? 3 : 1;
        if (fragment & 2) break;
      }
      protocol = u8(0);
      offset += size;
    }
    if (protocol < 0) return result;
    key[7] = type * 0x10000 + protocol * 256 + fragment;
    key[11] = ((first >>> 20) & 0xff) * 0x1000000 + hops * 0x10000;
    key[18] = first & 0xfffff;
    if (hidden || fragment & 2 || offset < ip) return result;
  } else if ((type === 0x0806 || type === 0x8035) && visible(28)) {
    if (u16(0) === 1 && u16(2) === 0x800 && u8(4) === 6 && u8(5) === 4) {
      result.l3 = offset;
      if (u16(6) < 256) key[7] += u16(6) * 256;
      key[8] = u32(14);
      key[9] = u32(24);
      key[23] = u32(8);
      key[24] = u16(12) * 0x10000 + u16(18);
      key[25] = u32(20);
    }
    return result;
  } else {
    return result;
  }

  const needed = new Map([
    [6, 20],
    [17, 8],
    [132, 12],
    [type === 0x0800 ? 1 : 58, 8],
  ]).get(protocol);
  if (needed === undefined || !visible(needed)) return result;
  result.l4 = offset;
  if (protocol === 1 || protocol === 58) {
    key[10] = u8(0) * 0x10000 + u8(1);
    if (protocol === 58 && (u8(0) === 135 || u8(0) === 136) && u8(1) === 0) neighbour();
  } else {
    key[10] = u32(0);
    if (protocol === 6) key[11]! += u16(12) & 0xfff;
  }
  return result;

  function neighbour(): void {
    if (!visible(24)) return;
    const target = [8, 12, 16, 20].map(u32);
    const macs: bigint[] = [0n, 0n];
    offset += 24;
    while (left() >= 8 && visible(8)) {
      const kind = u8(0);
      const size = u8(1) * 8;
      if (size === 0 || size > left()) return;
      if (size === 8 && (kind === 1 || kind === 2)) {
        if (macs[kind - 1] !== 0n) return;
        macs[kind - 1] = (BigInt(u16(2)) << 32n) | BigInt(u32(4));
      }
      offset += size;
    }
    key.set(target, 19);
    const both = (macs[0]! << 48n) | macs[1]!;
    key[23] = Number((both >> 64n) & 0xffffffffn);
    key[24] = Number((both >> 32n) & 0xffffffffn);
    key[25] = Number(both & 0xffffffffn);
  }
}
