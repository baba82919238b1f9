/** IPv4 and IPv6 addresses as one kind of thing: the family and the number. */
import { formatIpv4, formatIpv6 } from './field-format.ts';
import { ipv4Number, ipv6Number } from './field-parse.ts';

export interface IpAddress {
  readonly family: 4 | 6;
  readonly value: bigint;
}

export const ipv4 = (word: number): IpAddress => ({ family: 4, value: BigInt(word >>> 0) });

/** @param words four, the highest first. */
export const ipv6 = (words: ArrayLike<number>, at = 0): IpAddress => {
  let value = 0n;
  for (let i = 0; i < 4; i++) value = (value << 32n) | BigInt(words[at + i]! >>> 0);
  return { family: 6, value };
};

export const formatIp = ({ family, value }: IpAddress): string =>
  family === 4 ? formatIpv4(value) : formatIpv6(value);

/** Undefined where the text is no address. */
export function parseIp(text: string): IpAddress | undefined {
  const four = ipv4Number(text);
  if (four !== undefined) return { family: 4, value: four };
  const six = ipv6Number(text);
  return six === undefined ? undefined : { family: 6, value: six };
}

export const sameIp = (a: IpAddress, b: IpAddress): boolean => a.family === b.family && a.value === b.value;

export const isUnspecified = ({ value }: IpAddress): boolean => value === 0n;

export const widthOf = (family: 4 | 6): number => (family === 4 ? 32 : 128);

/** Whether the first `length` bits of two addresses of a family are the same. */
export const inPrefix = (ip: IpAddress, prefix: IpAddress, length: number): boolean => {
  const shift = BigInt(widthOf(ip.family) - length);
  return ip.family === prefix.family && ip.value >> shift === prefix.value >> shift;
};

/** Key words of an address, the highest first: one or four. */
export function ipWords({ family, value }: IpAddress): number[] {
  if (family === 4) return [Number(value)];
  return [96n, 64n, 32n, 0n].map((shift) => Number((value >> shift) & 0xffffffffn));
}

/** Its bytes in network order: 4 or 16. */
export function ipBytes(ip: IpAddress): number[] {
  return ipWords(ip).flatMap((word) => [word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255]);
}
