/**
 * Binary layouts as data: an ordered list of little-endian fields without padding, with the total size asserted at load.
 * Used on the control path only; 64-bit fields are bigints so that every bit pattern survives a round trip. A text field
 * of n bytes (`text<n>`) is UTF-8, filled with NULs, of which it needs none: what is too long is cut, and what follows a NUL
 * is not read.
 */
export type FieldKind = 'u8' | 'u16' | 'u32' | 'u64' | `text${number}`;
type FieldValue<K extends FieldKind> = K extends 'u64' ? bigint : K extends `text${number}` ? string : number;

const BYTES: Readonly<Record<string, number>> = { u8: 1, u16: 2, u32: 4, u64: 8 };
const bytesOf = (kind: FieldKind): number => BYTES[kind] ?? Number(kind.slice(4));
const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder();

function putText(out: Uint8Array, at: number, bytes: number, text: string): void {
  out.fill(0, at, at + bytes);
  utf8.encodeInto(text, out.subarray(at, at + bytes));
}

function getText(source: Uint8Array, at: number, bytes: number): string {
  const field = source.subarray(at, at + bytes);
  const end = field.indexOf(0);
  return fromUtf8.decode(end < 0 ? field : field.subarray(0, end));
}

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
  const sum = rows.reduce((total, [, kind]) => total + bytesOf(kind), 0);
  if (sum !== bytes) throw new RangeError(`layout ${name} has ${sum} bytes, not ${bytes}`);
  return {
    name,
    bytes,
    encode(value, out = new Uint8Array(bytes), at = 0) {
      const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
      for (const [field, kind] of rows) {
        const v = value[field as keyof F] as number | bigint | string;
        if (kind === 'u64') view.setBigUint64(at, v as bigint, true);
        else if (kind === 'u32') view.setUint32(at, v as number, true);
        else if (kind === 'u16') view.setUint16(at, v as number, true);
        else if (kind === 'u8') view.setUint8(at, v as number);
        else putText(out, at, bytesOf(kind), v as string);
        at += bytesOf(kind);
      }
      return out;
    },
    decode(source, at = 0) {
      if (source.length < at + bytes)
        throw new RangeError(`${name} needs ${bytes} bytes, ${source.length - at} are there`);
      const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
      const value: Record<string, number | bigint | string> = {};
      for (const [field, kind] of rows) {
        if (kind === 'u64') value[field] = view.getBigUint64(at, true);
        else if (kind === 'u32') value[field] = view.getUint32(at, true);
        else if (kind === 'u16') value[field] = view.getUint16(at, true);
        else if (kind === 'u8') value[field] = view.getUint8(at);
        else value[field] = getText(source, at, bytesOf(kind));
        at += bytesOf(kind);
      }
      return value as RecordOf<F>;
    },
  };
}
