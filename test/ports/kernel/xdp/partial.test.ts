import test from 'ava';
import fc from 'fast-check';
import { PacketBatch, VNET_NEEDS_CSUM } from '#datapath/packet/batch.ts';
import { recognisePartial } from '#ports/kernel/xdp/partial.ts';
import {
  concat,
  eth,
  faultOf,
  filler,
  ipv4,
  ipv6,
  ipv6Options,
  onesSum,
  packet,
  tcp,
  u16,
  udp,
  vlan,
} from '../../../support/packets.ts';

const batch = new PacketBatch();

const recognised = (frame: Uint8Array, head = frame.length): [number, number] | undefined => {
  batch.vnetFlags[0] = 0;
  recognisePartial(concat(filler(7), frame), 7, head, batch, 0);
  return batch.vnetFlags[0] === VNET_NEEDS_CSUM ? [batch.csumStart[0]!, batch.csumOffset[0]!] : undefined;
};

const NETWORKS = {
  ipv4: { layers: [ipv4()], bytes: 20, addresses: [12, 20] },
  'ipv4 with options': { layers: [ipv4({ options: filler(8) })], bytes: 28, addresses: [12, 20] },
  ipv6: { layers: [ipv6()], bytes: 40, addresses: [8, 40] },
  'ipv6 with hop-by-hop and destination options': {
    layers: [ipv6(), ipv6Options(0), ipv6Options(60, 16)],
    bytes: 64,
    addresses: [8, 40],
  },
} as const;

for (const [network, { layers, bytes, addresses }] of Object.entries(NETWORKS)) {
  for (const [name, layer, protocol, offset] of [
    ['TCP', tcp(), 6, 16],
    ['UDP', udp(), 17, 6],
  ] as const) {
    for (const tags of [0, 1, 2]) {
      const stack = [eth(), ...Array.from({ length: tags }, () => vlan({ vid: 5 })), ...layers, layer];
      const l3 = 14 + 4 * tags;
      const l4 = l3 + bytes;
      test(`${name} over ${network} with ${tags} tags: only the sum of the pseudo header is partial`, (t) => {
        const whole = packet(...stack, filler(99));
        t.is(faultOf(whole), undefined);
        t.is(recognised(whole), undefined);
        const length = whole.length - l4;
        const pseudo = concat(whole.subarray(l3 + addresses[0], l3 + addresses[1]), u16(protocol), u16(length));
        const partial = whole.slice();
        partial.set(u16(onesSum(pseudo)), l4 + offset);
        t.deepEqual(recognised(partial), [l4, offset]);
        t.is(recognised(partial, l4 + offset + 1), undefined);
      });
    }
  }
}

const pseudoOf = (frame: Uint8Array, protocol: number): number =>
  onesSum(concat(frame.subarray(26, 34), u16(protocol), u16(frame.length - 34)));

for (const [name, header, port] of [
  ['VXLAN', Uint8Array.of(8, 0, 0, 0, 0, 0, 5, 0), 4789],
  ['Geneve', Uint8Array.of(0, 0, 0x65, 0x58, 0, 0, 5, 0), 6081],
  ['Geneve with options', Uint8Array.of(2, 0, 0x65, 0x58, 0, 0, 5, 0, ...filler(8)), 6081],
] as const) {
  test(`a partial checksum inside of ${name} is found, and only there`, (t) => {
    const inner = packet(eth(), ipv4(), tcp(), filler(50));
    const wrap = (frame: Uint8Array, dst: number) => packet(eth(), ipv4(), udp({ src: 50_000, dst }), header, frame);
    t.is(recognised(wrap(inner, port)), undefined);
    inner.set(u16(pseudoOf(inner, 6)), 50);
    const l4 = 34 + 8 + header.length + 34;
    const outer = wrap(inner, port);
    t.deepEqual(recognised(outer), [l4, 16]);
    t.is(recognised(wrap(inner, 53)), undefined);
    for (let head = 0; head < l4 + 18; head++) t.is(recognised(outer, head), undefined);
    outer.set(u16(pseudoOf(outer, 17)), 40);
    t.deepEqual(recognised(outer), [34, 6]);
  });
}

test('fragments have no partial checksum', (t) => {
  const frame = packet(eth(), ipv4(), udp(), filler(20));
  const pseudo = concat(frame.subarray(26, 34), u16(17), u16(28));
  frame.set(u16(onesSum(pseudo)), 40);
  t.truthy(recognised(frame));
  frame[20] = 0x20;
  t.is(recognised(frame), undefined);
});

test('completing a whole checksum that looks partial changes nothing', (t) => {
  // Payload that makes the whole checksum equal to the pseudo header's sum.
  const frame = packet(eth(), ipv4(), udp(), filler(20));
  const sum = onesSum(concat(frame.subarray(26, 34), u16(17), u16(28)));
  frame.set(u16(0), 40);
  frame.set(u16(0), 42);
  const rest = onesSum(concat(frame.subarray(26, 34), u16(17), u16(28), frame.subarray(34)));
  // ~(rest + x) = sum, for the word x of the payload.
  const x = (~sum & 0xffff) - rest;
  frame.set(u16(x < 0 ? x + 0xffff : x), 42);
  frame.set(u16(sum), 40);
  t.is(faultOf(frame), undefined);
  t.deepEqual(recognised(frame), [34, 6]);
  const completed = ~onesSum(frame.subarray(34)) & 0xffff;
  t.is(completed, sum);
});

test('no bytes make it read beyond the window or throw', (t) => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 200 }),
      fc.constantFrom([], [0x08, 0], [0x86, 0xdd], [0x81, 0]),
      (bytes, type) => {
        if (bytes.length > 14) bytes.set(type, 12);
        const frame = new Uint8Array(bytes);
        const found = recognised(frame);
        t.true(found === undefined || found[0] + found[1] + 2 <= frame.length);
      },
    ),
  );
});
