/** Datagrams of one size in one frame: taken with their offload fields, cut into what was meant. */
import test from 'ava';
import fc from 'fast-check';
import { address, mapAnonymous } from '#contract/os.ts';
import { GSO_ECN, GSO_UDP, GSO_UDP_L4, HEADROOM, PacketBatch } from '#datapath/packet/batch.ts';
import { placeFrame } from '#datapath/packet/place.ts';
import { takeOffload } from '#ports/frame/net-header.ts';
import { SoftwareOffload } from '#ports/frame/offload.ts';
import { eth, faultOf, filler, ipv4, ipv6, ipv6Options, packet, tcp, udp, vlan } from '../../support/packets.ts';

const memory = mapAnonymous(1 << 17);
const bytes = new Uint8Array(memory);
const batch = new PacketBatch();
const offload = new SoftwareOffload();

interface Shape {
  tags: number;
  six: boolean;
  options: boolean;
}

const layersOf = ({ tags, six, options }: Shape, id: number) => [
  eth(),
  ...Array.from({ length: tags }, (_, i) => vlan({ vid: i + 5 })),
  ...(six ? [ipv6(), ...(options ? [ipv6Options(60)] : [])] : [ipv4({ id })]),
];

/** Takes a frame with these fields into slot 0. @returns whether they make sense. */
function take(frame: Uint8Array, gsoType: number, size: number, start: number, offset = 6): boolean {
  batch.clear();
  bytes.set(frame);
  placeFrame(batch, bytes, 0, address(memory), frame.length);
  batch.u16.set([1 | (gsoType << 8), 0, size, start, offset], (HEADROOM - 10) >>> 1);
  return takeOffload(batch, 0, HEADROOM - 10);
}

test('a frame of datagrams is cut into whole ones, of any network header, down to the last', (t) => {
  t.notThrows(() =>
    fc.assert(
      fc.property(
        fc.record({ tags: fc.nat(2), six: fc.boolean(), options: fc.boolean() }),
        fc.integer({ min: 1, max: 20_000 }),
        fc.integer({ min: 100, max: 1400 }),
        (shape, length, size) => {
          const payload = filler(length, length);
          const frame = packet(...layersOf(shape, 0xfffe), udp({ src: 7, dst: 9 }), payload);
          const l4 = frame.length - length - 8;
          if (!take(frame, GSO_UDP_L4, size, l4)) return false;
          if (batch.vnetHeaderLength[0] !== l4 + 8) return false;
          offload.linearise(batch, 0);
          if (!offload.prepare(GSO_UDP_L4, size, l4)) return false;
          for (let k = 0; k < offload.segments; k++) {
            const at = offload.segmentHeaders(batch, k) + 12;
            const from = offload.frame + offload.headers + k * size;
            const head = offload.u8.slice(at, at + offload.headers);
            const part = Buffer.concat([head, offload.u8.slice(from, from + offload.payload(k))]);
            const slice = payload.subarray(k * size, (k + 1) * size);
            const wanted = packet(...layersOf(shape, (0xfffe + k) & 0xffff), udp({ src: 7, dst: 9 }), slice);
            if (faultOf(part) !== undefined || !part.equals(wanted)) return false;
          }
          return offload.segments === Math.ceil(length / size);
        },
      ),
      { numRuns: 300 },
    ),
  );
});

test('fields that contradict the frame are refused', (t) => {
  const frame = packet(eth(), ipv4({}), udp({}), filler(3000));
  const stream = packet(eth(), ipv4({}), tcp({}), filler(3000));
  t.true(take(frame, GSO_UDP_L4, 1000, 34));
  t.false(take(frame, GSO_UDP_L4, 0, 34), 'no size');
  t.false(take(frame, GSO_UDP_L4, 1000, 34, 16), 'the checksum of TCP');
  t.false(take(frame, GSO_UDP_L4, 1000, 38), 'another place');
  t.false(take(frame, GSO_UDP_L4 | GSO_ECN, 1000, 34), 'ECN is for TCP');
  t.false(take(stream, GSO_UDP_L4, 1000, 34), 'TCP');
  t.false(take(frame, 1, 1000, 34, 16), 'TCP that is UDP');
  t.true(take(frame, GSO_UDP, 1000, 34));
  t.false(take(frame, GSO_UDP | GSO_ECN, 1000, 34), 'ECN is for TCP');
  t.false(take(stream, GSO_UDP, 1000, 34), 'fragments of TCP');
  const part = packet(eth(), ipv4({}), udp({}), filler(3000));
  part[20] = 0x20;
  t.false(take(part, GSO_UDP, 1000, 34), 'a fragment');
});
