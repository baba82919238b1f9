import test from 'ava';
import {
  ICMP_PAYLOAD_AT,
  KIND_ARP_REPLY,
  KIND_ARP_REQUEST,
  KIND_ECHO_REPLY,
  KIND_ECHO_REQUEST,
  KIND_OTHER,
  KIND_UDP,
  kindOf,
  turnEcho,
  UDP_PAYLOAD_AT,
  writeArp,
  writeEcho,
  writeUdp,
} from '#guest/frames.ts';
import { arp, eth, faultOf, filler, icmp, ipv4, mac, packet, padded, tcp, udp, vlan } from '../support/packets.ts';

const A = '02:00:00:00:00:01';
const B = '02:00:00:00:00:02';
const IP_A = 0x0a000001;
const IP_B = 0x0a000002;
const AT = 5;

const cut = (u8: Uint8Array, length: number): Uint8Array => u8.slice(AT, AT + length);

test('frames are those that the packet builders make', (t) => {
  const u8 = new Uint8Array(2000);
  const request = writeArp(u8, AT, 1, mac(A), IP_A, new Uint8Array(6), IP_B);
  t.deepEqual(cut(u8, request), padded(packet(eth({ src: A, dst: 'ff:ff:ff:ff:ff:ff' }), arp({ sha: A }))));
  const reply = writeArp(u8, AT, 2, mac(A), IP_A, mac(B), IP_B);
  t.deepEqual(cut(u8, reply), padded(packet(eth({ src: A, dst: B }), arp({ op: 2, sha: A, tha: B }))));
  for (const payload of [22, 23, 1400]) {
    u8.set(filler(payload), AT + ICMP_PAYLOAD_AT);
    writeEcho(u8, AT, mac(A), mac(B), IP_A, IP_B, 7, 9, ICMP_PAYLOAD_AT + payload);
    const ip = ipv4({ id: 0, dontFragment: true });
    t.deepEqual(cut(u8, ICMP_PAYLOAD_AT + payload), packet(eth(), ip, icmp({ id: 7, seq: 9 }), filler(payload)));
    u8.set(filler(payload), AT + UDP_PAYLOAD_AT);
    writeUdp(u8, AT, mac(A), mac(B), IP_A, IP_B, 1000, 2000, UDP_PAYLOAD_AT + payload);
    t.deepEqual(cut(u8, UDP_PAYLOAD_AT + payload), packet(eth(), ip, udp(), filler(payload)));
  }
});

test('an echo request becomes its reply; one with a wrong checksum does not', (t) => {
  for (const seq of [0, 1, 0xf7ff, 0xffff]) {
    const request = packet(eth(), ipv4(), icmp({ seq }), filler(56));
    const frame = request.slice();
    t.true(turnEcho(frame, 0, frame.length));
    t.is(faultOf(frame), undefined);
    const reply = packet(
      eth({ src: B, dst: A }),
      ipv4({ src: '10.0.0.2', dst: '10.0.0.1' }),
      icmp({ type: 0, seq }),
      filler(56),
    );
    t.deepEqual(frame, reply);
    request[60]! ^= 1;
    t.false(turnEcho(request, 0, request.length));
  }
});

test('frames are told apart', (t) => {
  const kind = (frame: Uint8Array): number => kindOf(frame, 0, frame.length);
  t.is(kind(packet(eth(), arp())), KIND_ARP_REQUEST);
  t.is(kind(packet(eth(), arp({ op: 2 }))), KIND_ARP_REPLY);
  t.is(kind(packet(eth(), ipv4(), icmp())), KIND_ECHO_REQUEST);
  t.is(kind(packet(eth(), ipv4(), icmp({ type: 0 }))), KIND_ECHO_REPLY);
  t.is(kind(packet(eth(), ipv4(), udp())), KIND_UDP);
  t.is(kind(packet(eth(), ipv4(), tcp())), KIND_OTHER);
  t.is(kind(packet(eth(), vlan({ vid: 1 }), ipv4(), udp())), KIND_OTHER);
  t.is(kind(packet(eth(), ipv4({ moreFragments: true }), udp())), KIND_OTHER);
  t.is(kind(packet(eth(), ipv4({ options: filler(4) }), udp())), KIND_OTHER);
  t.is(kind(packet(eth(), arp()).subarray(0, 41)), KIND_OTHER);
});
