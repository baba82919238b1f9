/** Datagrams of UDP fragmentation offload: cut into fragments that a receiver puts together to what was meant. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { address, mapAnonymous } from '#contract/os.ts';
import { GSO_TUNNEL, GSO_UDP, HEADROOM, PacketBatch } from '#datapath/packet/batch.ts';
import { placeFrame } from '#datapath/packet/place.ts';
import { fragmentable, putFragment4, putFragment6 } from '#ports/frame/fragment.ts';
import { takeOffload } from '#ports/frame/net-header.ts';
import { SoftwareOffload } from '#ports/frame/offload.ts';
import {
  eth,
  faultOf,
  filler,
  ipv4,
  ipv6,
  ipv6Fragment,
  ipv6Options,
  packet,
  pseudoSum,
  u16,
  udp,
  vlan,
} from '../../support/packets.ts';
import { removeScratchDir, runOk, scratchDir, which } from '../../support/process.ts';

const memory = mapAnonymous(1 << 17);
const bytes = new Uint8Array(memory);
const batch = new PacketBatch();
const offload = new SoftwareOffload();

interface Shape {
  tags: number;
  six: boolean;
  /** Extension headers of IPv6, in order. */
  extensions: readonly (0 | 43 | 60)[];
  /** Options of IPv4. */
  options: readonly number[];
}

const ID = 0xfffe;
const layersOf = ({ tags, six, extensions, options }: Shape) => [
  eth(),
  ...Array.from({ length: tags }, (_, i) => vlan({ vid: i + 5 })),
  ...(six
    ? [ipv6(), ...extensions.map((protocol) => ipv6Options(protocol))]
    : [ipv4({ id: ID, options: Uint8Array.from(options) })]),
];
const l3Of = ({ tags }: Shape): number => 14 + 4 * tags;
const l4Of = (shape: Shape): number =>
  l3Of(shape) + (shape.six ? 40 + 8 * shape.extensions.length : 20 + Math.ceil(shape.options.length / 4) * 4);

/** The datagram as its sender leaves it: the sum of the pseudo header in place of the checksum. */
function unfinished(shape: Shape, frame: Uint8Array): Uint8Array {
  const out = frame.slice();
  const l3 = l3Of(shape);
  const l4 = l4Of(shape);
  const [src, length] = shape.six ? [l3 + 8, 16] : [l3 + 12, 4];
  const around = { src: out.subarray(src, src + length), dst: out.subarray(src + length, src + 2 * length) };
  out.set(u16(pseudoSum(around, 17, out.length - l4)), l4 + 6);
  return out;
}

/** Frames that the datagram becomes; undefined when it is refused. */
function cut(shape: Shape, frame: Uint8Array, size: number): Buffer[] | undefined {
  batch.clear();
  bytes.set(frame);
  placeFrame(batch, bytes, 0, address(memory), frame.length);
  batch.u16.set([1 | (GSO_UDP << 8), 0, size, l4Of(shape), 6], (HEADROOM - 10) >>> 1);
  if (!takeOffload(batch, 0, HEADROOM - 10)) return undefined;
  offload.linearise(batch, 0);
  if (!offload.prepare(GSO_UDP, size, l4Of(shape))) return undefined;
  return Array.from({ length: offload.segments }, (_, k) => {
    const at = offload.segmentHeaders(batch, k) + 12;
    const from = offload.payloadFrom(k);
    return Buffer.concat([
      offload.u8.slice(at, at + offload.headers),
      offload.u8.slice(from, from + offload.payload(k)),
    ]);
  });
}

/** The oracle: fragments as RFC 791 and RFC 8200 section 4.5 have them, header by header. */
function fragmentsOf(shape: Shape, frame: Uint8Array, size: number, id: number): Uint8Array[] {
  const unit = size & ~7;
  const last = shape.extensions.findLastIndex((protocol) => protocol !== 60);
  const fixed = shape.six ? shape.extensions.slice(0, last + 1) : [];
  const rest = frame.subarray(shape.six ? l3Of(shape) + 40 + 8 * fixed.length : l4Of(shape));
  if (rest.length <= size) return [frame];
  const nextHeader = shape.extensions[fixed.length] ?? 17;
  const copied = shape.options.map((option) => option & 0x80);
  return Array.from({ length: Math.ceil(rest.length / unit) }, (_, k) => {
    const offset = (k * unit) / 8;
    const more = (k + 1) * unit < rest.length;
    const part = rest.subarray(k * unit, (k + 1) * unit);
    const link = layersOf({ ...shape, six: false }).slice(0, 1 + shape.tags);
    if (shape.six) {
      const headers = [ipv6(), ...fixed.map((protocol) => ipv6Options(protocol))];
      return packet(...link, ...headers, ipv6Fragment({ offset, more, id, nextHeader }), part);
    }
    // Options here are all of four bytes: type, length 4, two of data. One that is not copied becomes no-operations.
    const options = shape.options.map((byte, i) => (k > 0 && copied[i - (i % 4)] === 0 ? 1 : byte));
    const header = { id: ID, protocol: 17, offset, moreFragments: more, options: Uint8Array.from(options) };
    return packet(...link, ipv4(header), part);
  });
}

const option = fc.constantFrom([0x07, 4, 9, 9], [0x94, 4, 0, 0], [0x44, 4, 5, 0]);
const shapes: fc.Arbitrary<Shape> = fc.record({
  tags: fc.nat(2),
  six: fc.boolean(),
  extensions: fc.constantFrom<Shape['extensions']>([], [0], [60], [0, 43], [0, 60], [60, 43], [0, 60, 43, 60]),
  options: fc.array(option, { maxLength: 3 }).map((all) => all.flat()),
});

test('a datagram is cut into the fragments that the standards have, its checksum made whole first', (t) => {
  const seen = new Set<string>();
  fc.assert(
    fc.property(
      shapes,
      fc.integer({ min: 0, max: 60_000 }),
      fc.integer({ min: 280, max: 9000 }),
      (shape, length, size) => {
        const frame = packet(...layersOf(shape), udp({ src: 7, dst: 9 }), filler(length, length));
        const got = cut(shape, unfinished(shape, frame), size)!;
        const id = shape.six && got.length > 1 ? identification(got[0]!, l3Of(shape)) : 0;
        const wanted = fragmentsOf(shape, frame, size, id);
        t.is(got.length, wanted.length);
        for (const [k, part] of got.entries()) t.true(part.equals(wanted[k]!), `${k}: ${JSON.stringify(shape)}`);
        seen.add(`${shape.six}${got.length > 1}`);
      },
    ),
    { numRuns: 200 },
  );
  t.is(seen.size, 4);
});

/** Identification in the fragment header, which `fragmentsOf` cannot foretell. */
function identification(frame: Buffer, l3: number): number {
  let next = frame[l3 + 6]!;
  let at = l3 + 40;
  while (next !== 44) {
    next = frame[at]!;
    at += 8 + frame[at + 1]! * 8;
  }
  return frame.readUInt32BE(at + 4);
}

test('IPv6 datagrams get identifications of their own', (t) => {
  const shape: Shape = { tags: 0, six: true, extensions: [], options: [] };
  const frame = unfinished(shape, packet(...layersOf(shape), udp(), filler(3000)));
  const ids = Array.from({ length: 100 }, () => identification(cut(shape, frame, 1448)![0]!, 14));
  t.is(new Set(ids).size, 100);
});

test('what cannot be cut is refused', (t) => {
  const shape: Shape = { tags: 0, six: false, extensions: [], options: [] };
  const frame = unfinished(shape, packet(...layersOf(shape), udp(), filler(3000)));
  t.is(cut(shape, frame, 7), undefined, 'less than eight bytes a fragment');
  t.is(cut(shape, frame, 8), undefined, 'too many');
  t.is(cut(shape, frame, 1480)!.length, 3);
  t.false(offload.prepare(GSO_UDP | GSO_TUNNEL, 1480, 34), 'in a tunnel');
});

test('headers of fragments are made in place', (t) => {
  const six = packet(ipv6(), ipv6Options(0), ipv6Options(60), ipv6Options(43), ipv6Options(60), udp(), filler(32));
  t.is(fragmentable(six, 0, 72), 64);
  const room = new Uint8Array(80);
  room.set(six.subarray(0, 64));
  putFragment6(room, 0, 64, 1448, true, 0x01020304);
  t.is(room[56], 44);
  t.deepEqual([...room.subarray(64, 72)], [60, 0, 1448 >> 8, (1448 & 0xff) | 1, 1, 2, 3, 4]);
  // An option that says it is longer than the header, and one that says it is nothing.
  for (const length of [0, 1, 200]) {
    const four = packet(ipv4({ options: Uint8Array.of(7, length, 1, 1) }), udp());
    putFragment4(four, 0, 24, 8, false);
    t.is((four[6]! << 8) | four[7]!, 1);
    t.is(four[20], 1);
    t.is(four[24 + 8 - 1], packet(ipv4({ options: Uint8Array.of(7, length, 1, 1) }), udp())[24 + 8 - 1]);
  }
});

const tshark = which('tshark');
(tshark ? test : test.skip)(
  `tshark puts the fragments together again${tshark ? '' : ' (tshark is not installed)'}`,
  async (t) => {
    const dir = scratchDir('rwfrag');
    try {
      const sizes = [100, 1472, 1473, 3000, 20_000, 65_000];
      const frames: Buffer[] = [];
      for (const six of [false, true]) {
        for (const length of sizes) {
          const shape: Shape = { tags: length % 2, six, extensions: length === 3000 ? [0, 60] : [], options: [] };
          const frame = packet(...layersOf(shape), udp({ src: 7, dst: 9 }), filler(length));
          if (!six) frame.set(u16(length), l3Of(shape) + 4);
          frames.push(...cut(shape, unfinished(shape, frame), six ? 1448 : 1480)!);
        }
      }
      const global = Buffer.alloc(24);
      global.writeUInt32LE(0xa1b2c3d4, 0);
      global.writeUInt16LE(2, 4);
      global.writeUInt16LE(4, 6);
      global.writeUInt32LE(0x40000, 16);
      global.writeUInt32LE(1, 20);
      const records = frames.flatMap((frame, i) => {
        const head = Buffer.alloc(16);
        head.writeUInt32LE(i, 4);
        head.writeUInt32LE(frame.length, 8);
        head.writeUInt32LE(frame.length, 12);
        return [head, frame];
      });
      const file = join(dir, 'fragments.pcap');
      writeFileSync(file, Buffer.concat([global, ...records]));
      const fields = ['udp.length', 'udp.checksum.status'].flatMap((field) => ['-e', field]);
      const out = await runOk(tshark!, [
        ...['-r', file, '-Y', 'udp.srcport == 7', '-o', 'udp.check_checksum:TRUE', '-o', 'ip.check_checksum:TRUE'],
        ...['-T', 'fields', ...fields],
      ]);
      const rows = out.trim().split('\n');
      t.deepEqual(
        rows,
        [...sizes, ...sizes].map((length) => `${length + 8}\t1`),
      );
      for (const frame of frames) t.is(faultOf(frame), undefined);
    } finally {
      removeScratchDir(dir);
    }
  },
);
