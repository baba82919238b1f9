/**
 * Binary layouts as data: an ordered list of little-endian fields without padding, with the total size asserted at load.
 * Used on the control path only; 64-bit fields are bigints so that every bit pattern survives a round trip.
 */
export type FieldKind = 'u16' | 'u32' | 'u64';
type FieldValue<K extends FieldKind> = K extends 'u64' ? bigint : number;

const BYTES: Readonly<Record<FieldKind, number>> = { u16: 2, u32: 4, u64: 8 };

export interface Layout<F extends Readonly<Record<string, FieldKind>>> {
  readonly name: string;
  readonly bytes: number;
  encode(value: RecordOf<F>, out?: Uint8Array, at?: number): Uint8Array;
  /** @throws RangeError when fewer than `bytes` bytes are left at `at`. */
  decode(bytes: Uint8Array, at?: number): RecordOf<F>;
}

export type RecordOf<F extends Readonly<Record<string, FieldKind>>> = { -readonly [N in keyof F]: FieldValue<F[N]> };

/** @throws RangeError when the fields do not add up to `bytes`. */
export function layout<const F extends Readonly<Record<string, FieldKind>>>(
  name: string,
  bytes: number,
  fields: F,
): Layout<F> {
  const rows = Object.entries(fields);
  const sum = rows.reduce((total, [, kind]) => total + BYTES[kind], 0);
  if (sum !== bytes) throw new RangeError(`layout ${name} has ${sum} bytes, not ${bytes}`);
  return {
    name,
    bytes,
    encode(value, out = new Uint8Array(bytes), at = 0) {
      const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
      for (const [field, kind] of rows) {
        const v = value[field as keyof F] as number | bigint;
        if (kind === 'u64') view.setBigUint64(at, v as bigint, true);
        else if (kind === 'u32') view.setUint32(at, v as number, true);
        else view.setUint16(at, v as number, true);
        at += BYTES[kind];
      }
      return out;
    },
    decode(source, at = 0) {
      if (source.length < at + bytes)
        throw new RangeError(`${name} needs ${bytes} bytes, ${source.length - at} are there`);
      const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
      const value: Record<string, number | bigint> = {};
      for (const [field, kind] of rows) {
        if (kind === 'u64') value[field] = view.getBigUint64(at, true);
        else value[field] = kind === 'u32' ? view.getUint32(at, true) : view.getUint16(at, true);
        at += BYTES[kind];
      }
      return value as RecordOf<F>;
    },
  };
}
