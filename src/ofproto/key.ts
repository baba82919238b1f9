/**
 * The OpenFlow key: the datapath key (contract/flow-key.ts) followed by what only the OpenFlow pipeline knows.
 *
 * | word | what |
 * |---|---|
 * | 0-47 | as contract/flow-key.ts, but W_IN_PORT holds the OpenFlow port number (ofp-port.ts) |
 * | 48-49 | metadata, high and low |
 * | 50-65 | reg0..reg15; xregN is reg2N (high) and reg2N+1, xxregN is reg4N (highest) .. reg4N+3 |
 * | 66 | pkt_mark |
 * | 67 | actset_output |
 * | 68-71 | 0; kept for skb_priority and conj_id |
 */
import type { Field } from './fields.ts';

export const OF_KEY_WORDS = 72;

export const W_METADATA = 48;
export const W_REG0 = 50;
export const W_PKT_MARK = 66;
export const W_ACTSET_OUTPUT = 67;

/** One key word to change: `row[word] = (row[word] & ~mask) | value`; value lies within mask. */
export interface WordWrite {
  readonly word: number;
  readonly value: number;
  readonly mask: number;
}

/** Bits `offset` .. `offset + bits - 1` of a field, counted from its least significant bit. */
export interface Subfield {
  readonly field: Field;
  readonly offset: number;
  readonly bits: number;
}

export const wholeField = (field: Field): Subfield => ({ field, offset: 0, bits: field.subfieldBits });

/** @param bits 1 to 32. */
const ones = (bits: number): number => 0xffffffff >>> (32 - bits);

/** Value of a field in a row of OF_KEY_WORDS words. */
export function readField(row: Uint32Array, field: Field): bigint {
  const only = field.pieces[0]!;
  if (field.pieces.length === 1) return BigInt(((row[only.word]! >>> only.shift) & ones(only.bits)) >>> 0);
  let value = 0n;
  for (const { word, shift, bits } of field.pieces) {
    value = (value << BigInt(bits)) | BigInt(((row[word]! >>> shift) & ones(bits)) >>> 0);
  }
  return value;
}

/** Whether any bit of a field is set in a row. */
export function hasField(row: Uint32Array, { pieces }: Field): boolean {
  for (let i = 0; i < pieces.length; i++) {
    const { word, shift, bits } = pieces[i]!;
    if (((row[word]! >>> shift) & ones(bits)) !== 0) return true;
  }
  return false;
}

/** The words that set the bits `mask` of a field to those of `value`. */
export function fieldWrites(field: Field, value: bigint, mask: bigint): WordWrite[] {
  const { word, shift, bits } = field.pieces[0]!;
  if (field.pieces.length === 1) {
    const on = (Number(mask) & ones(bits)) >>> 0;
    return on === 0 ? [] : [{ word, value: ((Number(value) & on) << shift) >>> 0, mask: (on << shift) >>> 0 }];
  }
  const writes: WordWrite[] = [];
  let below = field.bits;
  for (const { word, shift, bits } of field.pieces) {
    below -= bits;
    const pieceMask = Number((mask >> BigInt(below)) & BigInt(ones(bits)));
    if (pieceMask === 0) continue;
    const pieceValue = Number((value >> BigInt(below)) & BigInt(pieceMask));
    writes.push({ word, value: (pieceValue << shift) >>> 0, mask: (pieceMask << shift) >>> 0 });
  }
  return writes;
}

export function applyWrites(row: Uint32Array, writes: readonly WordWrite[]): void {
  for (const { word, value, mask } of writes) row[word] = ((row[word]! & ~mask) | value) >>> 0;
}

/** Sets a field, or the bits `mask` of it, in a row of OF_KEY_WORDS words. */
export function writeField(row: Uint32Array, field: Field, value: bigint, mask: bigint = field.fullMask): void {
  applyWrites(row, fieldWrites(field, value, mask));
}

/** Ones over the bits of a subfield, as a mask of its field. */
export const subfieldMask = ({ field, offset, bits }: Subfield): bigint =>
  (((1n << BigInt(bits)) - 1n) << BigInt(offset)) & field.fullMask;

export const readSubfield = (row: Uint32Array, part: Subfield): bigint =>
  (readField(row, part.field) & subfieldMask(part)) >> BigInt(part.offset);

export function writeSubfield(row: Uint32Array, part: Subfield, value: bigint): void {
  writeField(row, part.field, value << BigInt(part.offset), subfieldMask(part));
}

/** Sets the mask bits of a subfield: for wildcard tracking when an action reads it. */
export function markSubfield(masks: Uint32Array, part: Subfield): void {
  for (const { word, mask } of fieldWrites(part.field, 0n, subfieldMask(part)))
    masks[word] = (masks[word]! | mask) >>> 0;
}
