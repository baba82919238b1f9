// hot
/**
 * SCTP's CRC32c (RFC 9260 section 6.8 and appendix A) after a change of ports, without reading the payload.
 *
 * A CRC is linear: the CRC changes by that of a message which holds only the changed bits, started at 0. That is the CRC of
 * the four bytes that changed, multiplied by x^8 for each byte behind them.
 */
import type { PacketBatch } from '../packet/batch.ts';

/** The Castagnoli polynomial, bits reflected. */
const POLYNOMIAL = 0x82f63b78 | 0;

/** a · b modulo the polynomial; both reflected: bit 31 is x^0. */
const multiply = (a: number, b: number): number => {
  let product = 0;
  for (let bit = 0; bit < 32; bit++) {
    if (a < 0) product ^= b;
    a <<= 1;
    b = (b >>> 1) ^ (-(b & 1) & POLYNOMIAL);
  }
  return product;
};

/** x^(8 · bytes) modulo the polynomial. */
const power = (bytes: number): number => {
  let result = 1 << 31;
  // x^8
  let factor = 1 << 23;
  for (let n = bytes; n > 0; n >>>= 1) {
    if ((n & 1) !== 0) result = multiply(result, factor);
    factor = multiply(factor, factor);
  }
  return result;
};

/**
 * Corrects the CRC of a whole SCTP packet.
 * @param change old XOR new of the first four bytes, big-endian; @param length bytes of the SCTP packet.
 */
export const updateSctp = (batch: PacketBatch, slot: number, change: number, length: number): void => {
  const at = batch.start[slot]! + batch.l4[slot]! + 8;
  let crc = 0;
  for (let shift = 24; shift >= 0; shift -= 8) {
    crc ^= (change >>> shift) & 0xff;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (-(crc & 1) & POLYNOMIAL);
  }
  const view = batch.view;
  view.setInt32(at, view.getInt32(at, true) ^ multiply(power(length - 4), crc), true);
};
