/** TNL_PUSH and TNL_POP beside an oracle that reads headers byte by byte. */
import test from 'ava';
import { clone, output, pushVlan, set, tunnelPop, tunnelPush } from '#contract/actions.ts';
import {
  TUN_CSUM,
  TUN_DF,
  TUN_KEY,
  W_IN_PORT,
  W_TUN_DST,
  W_TUN_ID,
  W_TUN_IPV6_DST,
  W_TUN_IPV6_SRC,
  W_TUN_MISC,
  W_TUN_SRC,
} from '#contract/flow-key.ts';
import { lookupOne } from '#datapath/classifier/lookup-one.ts';
import { SLOTS } from '#datapath/packet/batch.ts';
import { Decapsulation } from '#datapath/tunnel/decapsulate.ts';
import { Encapsulation } from '#datapath/tunnel/encapsulate.ts';
import { Recirculation } from '#datapath/tunnel/recirculate.ts';
import { Tunnels } from '#datapath/tunnel/tunnels.ts';
import { parseIp } from '#ofproto/ip-address.ts';
import { TUNNELS, type TunnelType } from '#ofproto/tunnel.ts';
import { tunnelHeader } from '#ofproto/tunnel-header.ts';
import { Rig } from '../support/datapath-rig.ts';
import { concat, eth, filler, ipv4, ipv6, onesSum, packet, tcp, u16, u32, udp } from '../support/packets.ts';
import { makeFrame, Random } from '../support/random-frames.ts';

const TUNNEL = 9;
const rig = new Rig([1, 2, 3]);

interface Case {
  readonly type: TunnelType;
  readonly six: boolean;
  readonly checksum: boolean;
  readonly key: bigint | undefined;
  readonly dontFragment: boolean;
}

const pushOf = ({ type, six, checksum, key, dontFragment }: Case): number[] => {
  const protocol = TUNNELS[type];
  const header = tunnelHeader({
    type,
    dstPort: protocol.port,
    sourceMac: 0x0200_0000_00aa,
    destinationMac: 0x0200_0000_00bb,
    source: parseIp(six ? 'fd00::1' : '10.0.0.1')!,
    destination: parseIp(six ? 'fd00::2' : '10.0.0.2')!,
    key,
    tos: 0x28,
    ttl: 64,
    dontFragment,
    checksum,
    oam: false,
  });
  return tunnelPush(TUNNEL, protocol.kind, checksum, header);
};

/** Sums over a pseudo header and what lies from l4 on. */
const transportSum = (frame: Uint8Array, six: boolean, l4: number, protocol: number): number => {
  const addresses = six ? frame.subarray(22, 54) : frame.subarray(26, 34);
  return onesSum(concat(addresses, u32(frame.length - l4), u32(protocol), frame.subarray(l4)));
};

/** Takes a frame apart; fails where a header is not as RFC 791, 8200, 768, 7348, 8926 or 2784 have it. @returns the inner frame. */
function unwrap(frame: Uint8Array, { type, six, checksum, key, dontFragment }: Case): Uint8Array {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  const same = (what: string, got: number, want: number): void => {
    if (got !== want) throw new Error(`${what} is ${got}, not ${want}`);
  };
  const l4 = six ? 54 : 34;
  const protocol = type === 'gre' ? 47 : 17;
  if (six) {
    same('payload length', view.getUint16(18), frame.length - 54);
    same('next header', frame[20]!, protocol);
    same('traffic class', (view.getUint16(14) >>> 4) & 0xff, 0x28);
  } else {
    same('total length', view.getUint16(16), frame.length - 14);
    same('header sum', onesSum(frame.subarray(14, 34)), 0xffff);
    same('DF', view.getUint16(20), dontFragment ? 0x4000 : 0);
  }
  if (type === 'gre') {
    const flags = (checksum ? 0x8000 : 0) | (key === undefined ? 0 : 0x2000);
    same('flags', view.getUint16(l4), flags);
    if (checksum) same('GRE sum', onesSum(frame.subarray(l4)), 0xffff);
    const at = l4 + (checksum ? 8 : 4);
    if (key !== undefined) same('key', view.getUint32(at), Number(key));
    return frame.subarray(at + (key === undefined ? 0 : 4));
  }
  same('UDP length', view.getUint16(l4 + 4), frame.length - l4);
  same('UDP port', view.getUint16(l4 + 2), TUNNELS[type].port);
  if (!(view.getUint16(l4) >= 32_768)) throw new Error('source port');
  if (checksum) same('UDP sum', transportSum(frame, six, l4, 17), 0xffff);
  else same('UDP checksum', view.getUint16(l4 + 6), 0);
  same('VNI', view.getUint32(l4 + 12), Number(key ?? 0n) * 256);
  return frame.subarray(l4 + 16);
}

const random = new Random(11);
const randomCase = (): Case => {
  const type = random.pick(['vxlan', 'geneve', 'gre'] as const);
  const six = random.chance(40);
  return {
    type,
    six,
    checksum: (six && type !== 'gre') || random.chance(30),
    key: random.chance(80) ? BigInt(random.below(1 << 24)) : undefined,
    dontFragment: random.chance(50),
  };
};

/** A frame of any kind, short or long; its end is random, so that misplaced bytes show. */
const randomInner = (): Uint8Array => {
  const frame = makeFrame(random);
  return random.chance(50) ? frame : concat(frame, Uint8Array.from(random.bytes(random.below(3000))));
};

test('what is wrapped has right headers and the frame inside, and comes out as it went in', (t) => {
  for (let i = 0; i < 700; i++) {
    const which = randomCase();
    const inner = randomInner();
    rig.put(0, 1, {}, [...pushOf(which), ...output(2)]);
    const [outer] = rig.send(1, inner);
    if (outer === undefined) {
      t.fail(`${JSON.stringify(rig.allDrops())}`);
      return;
    }
    t.is(Buffer.compare(unwrap(outer.frame, which), inner), 0);

    rig.put(0, 1, {}, tunnelPop(TUNNEL, TUNNELS[which.type].kind));
    rig.put(1, TUNNEL, {}, output(3));
    const padding = new Uint8Array(random.chance(20) ? random.below(40) : 0);
    const [back] = rig.send(1, concat(outer.frame, padding));
    t.is(back?.port, 3, `${i} ${JSON.stringify(rig.allDrops())}`);
    t.is(Buffer.compare(back!.frame, inner), 0);
    rig.pipeline.flows.delete(1);
  }
});

test('a packet out of a tunnel tells of it, and a plain one after it does not', (t) => {
  const four = { type: 'vxlan', six: false, checksum: false, key: 0x123456n, dontFragment: true } as const;
  rig.put(0, 1, {}, [...pushOf(four), ...output(2)]);
  const inner = packet(eth(), ipv4(), udp(), filler(30));
  const [outer] = rig.send(1, inner);
  rig.put(0, 1, {}, tunnelPop(TUNNEL, 1));
  t.deepEqual(rig.send(1, outer!.frame), []);
  const { key } = rig.missed[0]!;
  t.is(key[W_IN_PORT], TUNNEL);
  t.is(key[W_TUN_ID + 1], 0x123456);
  t.is(key[W_TUN_SRC], 0x0a000001);
  t.is(key[W_TUN_DST], 0x0a000002);
  t.is(key[W_TUN_MISC], ((0x28 << 24) | (64 << 16) | TUN_DF | TUN_KEY) >>> 0);
  rig.pipeline.flows.delete(0);
  rig.send(1, inner);
  t.deepEqual([...rig.missed[0]!.key.subarray(32)], new Array(16).fill(0));

  const six = { ...four, six: true, checksum: true };
  rig.put(0, 1, {}, [...pushOf(six), ...output(2)]);
  const [wide] = rig.send(1, inner);
  rig.put(0, 1, {}, tunnelPop(TUNNEL, 1));
  rig.send(1, wide!.frame);
  const words = rig.missed[0]!.key;
  t.is(words[W_TUN_SRC], 0);
  t.deepEqual([...words.subarray(W_TUN_IPV6_SRC, W_TUN_IPV6_SRC + 4)], [0xfd000000, 0, 0, 1]);
  t.deepEqual([...words.subarray(W_TUN_IPV6_DST, W_TUN_IPV6_DST + 4)], [0xfd000000, 0, 0, 2]);
  t.is(words[W_TUN_MISC]! & TUN_CSUM, TUN_CSUM);
});

test('megaflows of a tunnel port match what the tunnel says', (t) => {
  const before = rig.counter('recirculated');
  const wrap = (vni: bigint): Uint8Array => {
    rig.put(0, 1, {}, [
      ...pushOf({ type: 'geneve', six: false, checksum: false, key: vni, dontFragment: true }),
      ...output(2),
    ]);
    return rig.send(1, packet(eth(), ipv4(), udp(), filler(30)))[0]!.frame;
  };
  const [five, six] = [wrap(5n), wrap(6n)];
  rig.put(0, 1, {}, tunnelPop(TUNNEL, 2));
  rig.put(1, TUNNEL, { [W_TUN_ID + 1]: [5, 0xffffffff] }, output(3));
  rig.put(2, TUNNEL, { [W_TUN_ID + 1]: [6, 0xffffffff], [W_TUN_SRC]: [0x0a000000, 0xff000000] }, [
    ...set(2, 0x0a0b0c0d, 0xffffffff),
    ...output(2),
  ]);
  t.deepEqual(
    rig.send(1, five, six, five).map(({ port, frame }) => [port, frame[0]]),
    [
      [3, 2],
      [3, 2],
      [2, 10],
    ]
      .sort((a, b) => a[0]! - b[0]!)
      .reverse(),
  );
  t.is(rig.counter('recirculated') - before, 3);
  rig.pipeline.flows.delete(1);
  rig.pipeline.flows.delete(2);
});

test('a packet goes into several tunnels and on as it was; the outer one is edited alone', (t) => {
  const which = { type: 'vxlan', six: false, checksum: false, key: 1n, dontFragment: true } as const;
  for (const length of [20, 1400]) {
    const inner = packet(eth(), ipv4(), udp(), filler(length));
    const wrapped = [...pushOf(which), ...pushVlan(0x8100, 0x1005), ...output(2)];
    const again = [...pushOf({ ...which, type: 'geneve' }), ...output(2)];
    rig.put(0, 1, {}, [
      ...clone(wrapped.length),
      ...wrapped,
      ...clone(again.length),
      ...again,
      ...set(2, 0x11111111, 0xffffffff),
      ...output(3),
    ]);
    const sent = rig.send(1, inner);
    const [first, second] = sent.filter(({ port }) => port === 2).map(({ frame }) => frame);
    t.deepEqual([...first!.subarray(12, 16)], [0x81, 0, 0, 5]);
    t.is(Buffer.compare(unwrap(concat(first!.subarray(0, 12), first!.subarray(16)), which), inner), 0);
    t.is(Buffer.compare(unwrap(second!, { ...which, type: 'geneve' }), inner), 0);
    const plain = sent.find(({ port }) => port === 3)!.frame;
    t.is(Buffer.compare(plain.subarray(4), inner.subarray(4)), 0);
    t.is(plain[0], 0x11);
  }
});

test('a checksum to be filled in stays so under IPv4, and is filled in where the tunnel has one', (t) => {
  const whole = packet(eth(), ipv4(), udp(), filler(200));
  const partial = whole.slice();
  // What the sender leaves in the field is the sum of the pseudo header.
  const pseudo = onesSum(concat(partial.subarray(26, 34), u16(17), u16(208)));
  partial.set(u16(pseudo), 40);
  const offload = { flags: 1, csumStart: 34, csumOffset: 6 };
  const which = { type: 'vxlan', six: false, checksum: false, key: 1n, dontFragment: true } as const;
  rig.put(0, 1, {}, [...pushOf(which), ...output(2)]);
  const [carried] = rig.send(1, { frame: partial, offload });
  t.like(carried!.offload, { flags: 1, csumStart: 84, csumOffset: 6 });
  t.is(Buffer.compare(unwrap(carried!.frame, which), partial), 0);
  const sure = { ...which, checksum: true };
  rig.put(0, 1, {}, [...pushOf(sure), ...output(2)]);
  const [filled] = rig.send(1, { frame: partial, offload });
  t.is(filled!.offload.flags, 0);
  t.is(Buffer.compare(unwrap(filled!.frame, sure), whole), 0);
  // The other way round: it is still to be filled in when it comes out.
  rig.put(0, 1, {}, tunnelPop(TUNNEL, 1));
  rig.put(1, TUNNEL, {}, output(3));
  const [out] = rig.send(1, { frame: carried!.frame, offload: carried!.offload });
  t.like(out!.offload, { flags: 1, csumStart: 34, csumOffset: 6 });
  rig.pipeline.flows.delete(1);
});

test('a GSO frame is cut before it is wrapped, into right segments, whatever their number', (t) => {
  for (const six of [false, true]) {
    for (const mss of [1400, 200]) {
      const data = filler(52_000, 3);
      const frame = packet(eth(), six ? ipv6({}) : ipv4({}), tcp({}), data);
      const l4 = six ? 54 : 34;
      const headers = l4 + 20;
      const offload = {
        flags: 1,
        gsoType: six ? 4 : 1,
        gsoSize: mss,
        headerLength: headers,
        csumStart: l4,
        csumOffset: 16,
      };
      const which = { type: 'vxlan', six, checksum: six, key: 7n, dontFragment: true } as const;
      rig.put(0, 1, {}, [...pushOf(which), ...output(2)]);
      const sent = rig.send(1, { frame, offload }, { frame, offload });
      if (Math.ceil(data.length / mss) > 256) {
        t.is(sent.length, 0, 'more segments than a frame may have');
        continue;
      }
      t.is(sent.length, 2 * Math.ceil(data.length / mss));
      const inner = sent.slice(0, sent.length / 2).map((one) => unwrap(one.frame, which));
      for (const one of inner) t.is(transportSum(one, six, l4, 6), 0xffff);
      t.is(Buffer.compare(concat(...inner.map((one) => one.subarray(headers))), data), 0);
    }
  }
  t.true(SLOTS < 260, 'the second run needed more slots than there are');
});

test('what is no sound tunnel packet is dropped and named so', (t) => {
  const which = { type: 'vxlan', six: false, checksum: true, key: 7n, dontFragment: true } as const;
  rig.put(0, 1, {}, [...pushOf(which), ...output(2)]);
  const good = rig.send(1, packet(eth(), ipv4(), udp(), filler(60)))[0]!.frame;
  rig.put(0, 1, {}, tunnelPop(TUNNEL, 1));
  rig.put(1, TUNNEL, {}, output(3));
  t.is(rig.send(1, good).length, 1);
  const bad = (change: (frame: Uint8Array) => void): void => {
    const frame = good.slice();
    change(frame);
    const before = rig.drops(1, 'tunnel_bad_header');
    t.is(rig.send(1, frame).length, 0);
    t.is(rig.drops(1, 'tunnel_bad_header'), before + 1);
  };
  bad((frame) => frame.set([0x09], 42));
  bad((frame) => frame.set([1], 49));
  bad((frame) => frame.set([frame[70]! ^ 1], 70));
  bad((frame) => frame.set([0x20, 0], 20));
  bad((frame) => frame.set(u16(36), 16));
  // Any bytes at all: dropped or let through, never a fault.
  for (let i = 0; i < 700; i++) {
    const frame = good.slice(0, 14 + random.below(good.length - 14));
    for (let n = random.below(6); n > 0; n--) frame[14 + random.below(frame.length - 14)] = random.below(256);
    rig.put(0, 1, {}, tunnelPop(TUNNEL, 1 + random.below(3)));
    rig.send(1, frame);
  }
  rig.pipeline.flows.delete(1);
  t.true([Decapsulation, Encapsulation, Recirculation, Tunnels, lookupOne].every((one) => one !== undefined));
});

test('a tunnel in a tunnel comes out whole; without end it does not go round', (t) => {
  const which = { type: 'vxlan', six: false, checksum: false, key: 7n, dontFragment: true } as const;
  let frame = packet(eth(), ipv4(), udp(), filler(60));
  const inner = frame;
  rig.put(0, 1, {}, [...pushOf(which), ...output(2)]);
  for (let i = 0; i < 4; i++) frame = rig.send(1, frame)[0]!.frame;
  rig.put(0, 1, {}, tunnelPop(TUNNEL, 1));
  const udpPort = { 10: [4789, 0xffff], 7: [0x08001100, 0xffffff00] } as const;
  rig.put(1, TUNNEL, udpPort, tunnelPop(TUNNEL, 1));
  rig.put(2, TUNNEL, { 10: [0, 0x8000] }, output(3));
  const sent = rig.send(1, frame);
  const last = sent.at(-1);
  t.true(last === undefined || Buffer.compare(last.frame, inner) === 0);
  rig.put(0, 1, {}, [...pushOf(which), ...output(2)]);
  for (let i = 0; i < 6; i++) frame = rig.send(1, frame)[0]!.frame;
  rig.put(0, 1, {}, tunnelPop(TUNNEL, 1));
  rig.send(1, frame);
  t.is(rig.drops(TUNNEL, 'translation_error'), 1);
});
