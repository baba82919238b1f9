// hot
/**
 * Internet checksums (RFC 1071) over private memory. Sums are of little-endian 16-bit words, folded to 16 bits: the order
 * of bytes does not matter to ones' complement addition, so a sum is stored as it is and never swapped, except for ranges
 * that start at an odd byte.
 */

/** Folds a sum below 2^32 to 16 bits. */
export const fold = (sum: number): number => {
  sum = (sum & 0xffff) + (sum >>> 16);
  return (sum & 0xffff) + (sum >>> 16);
};

/** The two bytes of a 16-bit number in the other order. */
export const swap16 = (value: number): number => ((value & 0xff) << 8) | (value >>> 8);

/** Folded sum of bytes [at, at + length), at most 128 KiB; `u8`, `u16`, `u32` view the same memory. */
export const sumBytes = (u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, at: number, length: number): number => {
  const odd = at & 1;
  const end = at + length;
  let low = 0;
  let high = 0;
  if (odd !== 0 && at < end) {
    high = u8[at]! << 8;
    at++;
  }
  if ((at & 2) !== 0 && at + 2 <= end) {
    low = u16[at >>> 1]!;
    at += 2;
  }
  const words = at + ((end - at) & ~3);
  for (; at < words; at += 4) {
    const word = u32[at >>> 2]!;
    low += word & 0xffff;
    high += word >>> 16;
  }
  if (at + 2 <= end) {
    low += u16[at >>> 1]!;
    at += 2;
  }
  if (at < end) low += u8[at]!;
  const sum = fold(fold(low) + fold(high));
  return odd !== 0 ? swap16(sum) : sum;
};
