/**
 * Random frames of every kind that the parser knows: well-formed, then sometimes mutated, cut short or padded.
 */

/** A small, fast, seedable generator (xorshift32), so that a failure can be run again. */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }
  u32(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }
  /** 0..n-1. */
  below(n: number): number {
    return this.u32() % n;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
  bytes(n: number): number[] {
    return Array.from({ length: n }, () => this.below(256));
  }
}

const u16 = (n: number): number[] => [(n >>> 8) & 0xff, n & 0xff];
const u32 = (n: number): number[] => [...u16(n >>> 16), ...u16(n)];
const onesSum = (bytes: readonly number[] | Uint8Array): number => {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
};

/** Internet checksum of bytes (RFC 1071). */
export const checksum = (bytes: readonly number[] | Uint8Array): number => ~onesSum(bytes) & 0xffff;

/** CRC32c bit by bit (RFC 9260 appendix A). */
export const crc32c = (bytes: readonly number[] | Uint8Array): number => {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
};

/** Few values, so that flows are hit: `spread` numbers per field. */
export interface Fields {
  macs: number;
  addresses: number;
  ports: number;
}
const FEW: Fields = { macs: 4, addresses: 6, ports: 5 };

export type Kind = 'ipv4' | 'ipv6' | 'arp' | 'llc' | 'other';

/** A well-formed frame with right checksums. */
export function makeFrame(random: Random, few: Fields = FEW, kind?: Kind): Uint8Array {
  const mac = (): number[] => [2, 0, 0, 0, 0, random.below(few.macs)];
  const address = (): number[] => [10, 0, 0, random.below(few.addresses)];
  const frame = [...mac(), ...mac()];
  const tags = random.pick([0, 0, 0, 1, 1, 2, 3]);
  for (let i = 0; i < tags; i++) {
    frame.push(
      ...u16(random.pick([0x8100, 0x88a8])),
      ...u16((random.below(8) << 13) | (random.below(2) << 12) | random.below(3)),
    );
  }
  const what = kind ?? random.pick(['ipv4', 'ipv4', 'ipv4', 'ipv6', 'ipv6', 'arp', 'llc', 'other'] as const);
  const payload = random.bytes(random.pick([0, 1, 6, 20, 41, 200]));
  if (what === 'ipv4') frame.push(0x08, 0x00, ...ipv4(random, address(), address(), few, payload));
  else if (what === 'ipv6') frame.push(0x86, 0xdd, ...ipv6(random, few, payload));
  else if (what === 'arp')
    frame.push(...random.pick([u16(0x0806), u16(0x0806), u16(0x8035)]), ...arp(random, mac, address));
  else if (what === 'llc') frame.push(...llc(random, address, few, payload));
  else frame.push(...u16(random.pick([0x88cc, 0x8847, 0x0600, 0x1234, 0xffff])), ...payload);
  if (random.chance(20)) frame.push(...random.bytes(random.below(12)));
  return Uint8Array.from(frame);
}

/** A frame with a few bytes changed or its end cut off. */
export function mangle(random: Random, frame: Uint8Array): Uint8Array {
  let result = frame.slice();
  if (random.chance(50)) result = result.slice(0, 14 + random.below(result.length - 13));
  if (random.chance(60)) {
    for (let n = 1 + random.below(3); n > 0; n--)
      result[12 + random.below(Math.min(result.length, 100) - 12)] = random.below(256);
  }
  return result;
}

function arp(random: Random, mac: () => number[], address: () => number[]): number[] {
  return [0, 1, 8, 0, 6, 4, ...u16(random.pick([1, 2, 2, 300])), ...mac(), ...address(), ...mac(), ...address()];
}

function llc(random: Random, address: () => number[], few: Fields, payload: number[]): number[] {
  const inner = random.chance(50)
    ? [0xaa, 0xaa, 3, 0, 0, 0, 8, 0, ...ipv4(random, address(), address(), few, payload)]
    : random.pick([
        [0x42, 0x42, 3, ...payload],
        [0xaa, 0xaa, 3, 0, 0, 12, 8, 0, ...payload],
        [0xaa, 0xaa, 3, 0, 0, 0, 1, 0, ...payload],
      ]);
  return [...u16(inner.length), ...inner];
}

function ipv4(random: Random, source: number[], destination: number[], few: Fields, payload: number[]): number[] {
  const options = random.chance(15) ? random.bytes(4 * (1 + random.below(10))) : [];
  const protocol = random.pick([6, 6, 17, 17, 1, 132, 58, 47, 2]);
  const fragment = random.chance(15) ? random.pick([0x2000, 0x2010, 0x0010, 0x4000]) : random.pick([0, 0x4000]);
  const body =
    fragment & 0x1fff ? payload : transport(random, protocol, [...source, ...destination], few, payload, false);
  const header = [
    0x45 + options.length / 4,
    random.pick([0, 0, 0xb8, 3]),
    ...u16(20 + options.length + body.length),
    ...u16(random.below(65536)),
    ...u16(fragment),
    random.pick([64, 64, 1, 2, 0, 255]),
    protocol,
    0,
    0,
    ...source,
    ...destination,
    ...options,
  ];
  header.splice(10, 2, ...u16(checksum(header)));
  return [...header, ...body];
}

function ipv6(random: Random, few: Fields, payload: number[]): number[] {
  const address = (): number[] => [
    0x20,
    1,
    0xd,
    0xb8,
    0,
    random.below(2),
    ...Array(9).fill(0),
    random.below(few.addresses),
  ];
  const source = address();
  const destination = address();
  let last = destination;
  const protocol = random.pick([6, 17, 58, 58, 58, 132, 59]);
  const chain: { type: number; bytes: number[] }[] = [];
  let later = false;
  if (random.chance(30)) {
    for (let n = 1 + random.below(3); n > 0 && !later; n--) {
      const type = random.pick(last === destination ? [0, 43, 60, 51, 44] : [0, 60, 51, 44]);
      if (type === 44) {
        const offset = random.pick([0, 1, 0x10, 0x11, 6]);
        later = (offset & 0xfff8) !== 0;
        chain.push({ type, bytes: [0, 0, ...u16(offset), ...random.bytes(4)] });
      } else if (type === 51) {
        const units = random.pick([0, 2, 4]);
        chain.push({ type, bytes: [0, units, ...random.bytes((units + 2) * 4 - 2)] });
      } else if (type === 43) {
        last = address();
        chain.push({ type, bytes: [0, 2, 0, 1, 0, 0, 0, 0, ...last] });
      } else {
        const units = random.pick([0, 0, 1, 3, 14]);
        chain.push({ type, bytes: [0, units, ...random.bytes((units + 1) * 8 - 2)] });
      }
    }
  }
  const body = later ? payload : transport(random, protocol, [...source, ...last], few, payload, true);
  chain.forEach((header, i) => {
    header.bytes[0] = chain[i + 1]?.type ?? protocol;
  });
  const rest = [...chain.flatMap((header) => header.bytes), ...body];
  return [
    ...u32(((6 << 28) | (random.pick([0, 0xb8, 3]) << 20) | random.below(4)) >>> 0),
    ...u16(rest.length),
    chain[0]?.type ?? protocol,
    random.pick([64, 1, 2, 255]),
    ...source,
    ...destination,
    ...rest,
  ];
}

function transport(
  random: Random,
  protocol: number,
  addresses: number[],
  few: Fields,
  payload: number[],
  v6: boolean,
): number[] {
  const ports = [...u16(1000 + random.below(few.ports)), ...u16(80 + random.below(few.ports))];
  let bytes: number[] = [];
  let field = -1;
  if (protocol === 6) {
    bytes = [
      ...ports,
      ...random.bytes(8),
      0x50 | random.pick([0, 8]),
      random.pick([2, 0x10, 0x18, 1]),
      ...random.bytes(2),
      0,
      0,
      0,
      0,
      ...payload,
    ];
    field = 16;
  } else if (protocol === 17) {
    bytes = [...ports, ...u16(8 + payload.length), 0, 0, ...payload];
    field = random.chance(15) ? -1 : 6;
  } else if (protocol === 132) {
    bytes = [...ports, ...random.bytes(4), 0, 0, 0, 0, ...payload];
    const crc = crc32c(bytes);
    bytes.splice(8, 4, crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24);
  } else if (protocol === 1 && !v6) {
    bytes = [random.pick([8, 0, 3]), random.below(3), 0, 0, ...random.bytes(4), ...payload];
    bytes.splice(2, 2, ...u16(checksum(bytes)));
  } else if (protocol === 58 && v6) {
    bytes = random.chance(60)
      ? neighbour(random)
      : [random.pick([128, 129, 1]), random.below(2), 0, 0, ...random.bytes(4), ...payload];
    field = 2;
  } else {
    return payload;
  }
  if (field >= 0) {
    const pseudo = [...addresses, ...u32(bytes.length), 0, 0, 0, protocol];
    const sum = checksum([...pseudo, ...bytes]);
    bytes.splice(field, 2, ...u16(protocol === 17 && sum === 0 ? 0xffff : sum));
  }
  return bytes;
}

function neighbour(random: Random): number[] {
  const target = [0xfe, 0x80, ...Array(13).fill(0), random.below(4)];
  const options: number[] = [];
  for (let n = random.below(3); n > 0; n--) {
    options.push(random.pick([1, 2, 2, 5]), random.pick([1, 1, 1, 1, 2]), 2, 0, 0, 0, 0, random.below(4));
    if (options.at(-7) === 2) options.push(...random.bytes(8));
  }
  return [random.pick([135, 136]), random.pick([0, 0, 0, 1]), 0, 0, ...random.bytes(4), ...target, ...options];
}
