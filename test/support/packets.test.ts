import test from 'ava';
import {
  arp,
  crc32c,
  eth,
  faultOf,
  filler,
  icmp,
  icmpv6,
  ip6,
  ipv4,
  ipv6,
  ipv6Auth,
  ipv6Fragment,
  ipv6Options,
  nd,
  packet,
  padded,
  qinq,
  sctp,
  tcp,
  udp,
  vlan,
} from './packets.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

test('a UDP packet has the bytes of its specification', (t) => {
  const bytes = packet(eth(), vlan({ vid: 5, pcp: 3 }), ipv4({ id: 1 }), udp(), new TextEncoder().encode('hi'));
  t.is(
    hex(bytes),
    '020000000002020000000001' +
      '81006005' +
      '0800' +
      '4500001e000100004011' +
      '66cc' +
      '0a0000010a000002' +
      '03e807d0000a77b66869',
  );
  t.is(faultOf(bytes), undefined);
});

test('checksums known from elsewhere come out', (t) => {
  t.is(crc32c(new TextEncoder().encode('123456789')), 0xe3069283);
  const ping = packet(
    ipv4({ src: '192.168.0.1', dst: '192.168.0.199', id: 0, dontFragment: true, protocol: 17, totalLength: 0x73 }),
  );
  t.is(hex(ping.subarray(10, 12)), 'b861');
  t.is(hex(ip6('fe80::1:2')), 'fe800000000000000000000000010002');
  t.is(hex(ip6('::')), '0'.repeat(32));
});

const SAMPLES = {
  arp: packet(eth(), arp({ op: 2 })),
  'tcp over QinQ': packet(eth(), ...qinq(100, 200), ipv4(), tcp({ flags: 2, options: filler(7) }), filler(33)),
  'ipv4 with options': packet(eth(), ipv4({ options: filler(9) }), udp(), filler(5)),
  'first fragment': packet(eth(), ipv4({ moreFragments: true }), udp({ length: 2000 }), filler(64)),
  icmp: packet(eth(), ipv4(), icmp(), filler(56)),
  sctp: packet(eth(), ipv4(), sctp(), filler(20)),
  'icmpv6 behind extension headers': packet(
    eth(),
    ipv6(),
    ipv6Options(0),
    ipv6Options(43, 24),
    ipv6Auth(),
    icmpv6(),
    filler(8),
  ),
  'neighbour solicitation': packet(eth(), ipv6(), nd({ sll: '02:00:00:00:00:01' })),
  'udp over ipv6': packet(eth(), ipv6(), ipv6Options(60, 16), udp(), filler(11)),
  'ipv6 fragment': packet(eth(), ipv6(), ipv6Fragment({ more: true }), udp(), filler(32)),
};

test('what the builders make passes the verifier, padded or not', (t) => {
  for (const [name, bytes] of Object.entries(SAMPLES)) {
    t.is(faultOf(bytes), undefined, name);
    t.is(faultOf(padded(bytes, 128)), undefined, `${name}, padded`);
  }
});

test('the verifier finds a flipped bit in header or payload', (t) => {
  for (const name of ['tcp over QinQ', 'icmp', 'sctp', 'udp over ipv6', 'icmpv6 behind extension headers'] as const) {
    const bytes = SAMPLES[name].slice();
    bytes[bytes.length - 2]! ^= 4;
    t.regex(faultOf(bytes) ?? '', /checksum/, name);
  }
  const header = SAMPLES.icmp.slice();
  header[22]! ^= 1;
  t.is(faultOf(header), 'IPv4 header checksum');
});
