import test from 'ava';
import fc from 'fast-check';
import { fold, sumBytes } from '#ports/frame/checksum.ts';
import {
  eth,
  faultOf,
  filler,
  ipv4,
  ipv6,
  ipv6Options,
  onesSum,
  packet,
  tcp,
  udp,
  vlan,
} from '../../support/packets.ts';
import { forward, TestPort } from '../vhost-user/test-port.ts';

const NEEDS_CSUM = 1;
const TCPV4 = 1;
const TCPV6 = 4;
const ECN = 0x80;

test('sums equal those of a naive loop for every alignment and length', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 0, maxLength: 3000 }), fc.nat(7), (bytes, at) => {
      const memory = new Uint8Array(4096);
      memory.set(bytes, at);
      const sum = sumBytes(memory, new Uint16Array(memory.buffer), new Uint32Array(memory.buffer), at, bytes.length);
      const swapped = ((sum & 0xff) << 8) | (sum >>> 8);
      // 0 and 0xffff are the same number in ones' complement.
      t.is(swapped % 0xffff, onesSum(bytes) % 0xffff);
    }),
  );
  const ones = new Uint8Array(1 << 17).fill(0xff);
  t.is(sumBytes(ones, new Uint16Array(ones.buffer), new Uint32Array(ones.buffer), 0, ones.length), 0xffff);
  t.is(fold(0xffffffff), 0xffff);
});

interface Made {
  frame: Buffer;
  /** Offsets of the IP and the transport header. */
  l3: number;
  l4: number;
}

const net = fc.record({
  tags: fc.integer({ min: 0, max: 2 }),
  six: fc.boolean(),
  options: fc.boolean(),
});
type Net = { tags: number; six: boolean; options: boolean };

function make({ tags, six, options }: Net, inner: ReturnType<typeof tcp>, payload: Uint8Array): Made {
  const layers = [eth(), ...Array.from({ length: tags }, (_, i) => vlan({ vid: i + 5 }))];
  if (six) layers.push(ipv6(), ...(options ? [ipv6Options(60)] : []));
  else layers.push(ipv4({ id: 0xfffe }));
  const l3 = 14 + 4 * tags;
  return { frame: Buffer.from(packet(...layers, inner, payload)), l3, l4: l3 + (six ? 40 + (options ? 8 : 0) : 20) };
}

/** Replaces a whole checksum by the sum of the pseudo header, as a guest does that leaves the rest to the switch. */
function partial({ frame, l3, l4 }: Made, offset: number, six: boolean, protocol: number): Buffer {
  const out = Buffer.from(frame);
  const addresses = frame.subarray(six ? l3 + 8 : l3 + 12, six ? l3 + 40 : l3 + 20);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(frame.length - l4);
  out.writeUInt16BE(onesSum(Buffer.concat([addresses, length, Buffer.from([0, protocol])])), l4 + offset);
  return out;
}

const header = (flags: number, gso: number, size: number, start: number, offset: number): Buffer => {
  const out = Buffer.alloc(12);
  out[0] = flags;
  out[1] = gso;
  for (const [at, value] of [
    [2, 54],
    [4, size],
    [6, start],
    [8, offset],
  ] as const)
    out.writeUInt16LE(value, at);
  return out;
};

test('a checksum that comes out as 0 is all ones in UDP, where 0 means none, and 0 in TCP', (t) => {
  for (const isTcp of [false, true]) {
    const shape = { tags: 0, six: false, options: false };
    const made = make(shape, isTcp ? tcp() : udp(), new Uint8Array(20));
    const offset = isTcp ? 16 : 6;
    // What the sum lacks of all ones, as a word of the payload.
    made.frame.writeUInt16BE(made.frame.readUInt16BE(made.l4 + offset), made.frame.length - 2);
    const from = new TestPort(1);
    const plain = new TestPort(2);
    plain.driver.post(4096);
    from.driver.send(
      partial(made, offset, false, isTcp ? 6 : 17),
      undefined,
      header(NEEDS_CSUM, 0, 0, made.l4, offset),
    );
    t.is(forward(from, plain), 1);
    t.is(plain.driver.receive()[0]!.frame.readUInt16BE(made.l4 + offset), isTcp ? 0 : 0xffff);
  }
});

test('a partial checksum is completed for a guest that does not take it, and carried to one that does', (t) => {
  const seen = new Set<string>();
  fc.assert(
    fc.property(
      net,
      fc.boolean(),
      fc.integer({ min: 0, max: 3000 }),
      fc.boolean(),
      (shape, isTcp, length, mergeable) => {
        const made = make(shape, isTcp ? tcp() : udp(), filler(length, length));
        const offset = isTcp ? 16 : 6;
        const sent = partial(made, offset, shape.six, isTcp ? 6 : 17);
        const from = new TestPort(1);
        const plain = new TestPort(2, { tx: { mergeable } });
        const able = new TestPort(3, { tx: { mergeable, checksum: true } });
        const old = new TestPort(4, { rx: { headerBytes: 10 } });
        for (const port of [plain, able, old]) port.driver.post(4096);
        from.driver.send(sent, undefined, header(NEEDS_CSUM, 0, 0, made.l4, offset));
        t.is(forward(from, plain, able, old), 1);
        for (const port of [plain, old]) {
          const [got] = port.driver.receive();
          t.is(faultOf(got!.frame), undefined);
          t.is(got!.frame.length, made.frame.length);
          t.is(got!.header.readUInt16LE(0), 0);
          t.is(port.counts()['checksums'], 1);
        }
        const [carried] = able.driver.receive();
        t.true(carried!.frame.equals(sent));
        t.deepEqual([...carried!.header.subarray(0, 2)], [NEEDS_CSUM, 0]);
        t.deepEqual([carried!.header.readUInt16LE(6), carried!.header.readUInt16LE(8)], [made.l4, offset]);
        seen.add(`${shape.six}${isTcp}`);
        for (const port of [from, plain, able, old]) port.close();
      },
    ),
    { numRuns: 80 },
  );
  t.is(seen.size, 4);
});

test('a TCP frame is segmented for a guest that does not take it whole, and carried to one that does', (t) => {
  fc.assert(
    fc.property(
      net,
      fc.integer({ min: 1, max: 60_000 }),
      fc.integer({ min: 300, max: 9000 }),
      fc.constantFrom(0, ECN),
      fc.boolean(),
      (shape, length, mss, ecn, mergeable) => {
        const seq = 0xffff_f000;
        const flags = 0x18 | 1 | (ecn ? 0x80 : 0);
        const payload = filler(length, 3);
        const made = make(shape, tcp({ seq, flags, options: filler(12) }), payload);
        const sent = partial(made, 16, shape.six, 6);
        const gso = (shape.six ? TCPV6 : TCPV4) | ecn;
        const from = new TestPort(1);
        const plain = new TestPort(2, { size: 1024, tx: { mergeable } });
        const able = new TestPort(3, {
          tx: { mergeable: true, checksum: true, gso: [1, 4, 0x81, 0x84], mtu: 9216 },
        });
        for (let i = 0; i < 250; i++) plain.driver.post(mergeable ? 2048 : 9300);
        for (let i = 0; i < 40; i++) able.driver.post(2048);
        from.driver.send(sent, undefined, header(NEEDS_CSUM, gso, mss, made.l4, 16));
        t.is(forward(from, plain, able), 1);

        const segments = plain.driver.receive();
        const headers = made.l4 + 32;
        t.is(segments.length, Math.ceil(length / mss));
        t.is(plain.counts()['tx_packets'], segments.length);
        t.is(plain.counts()['segmented'], 1);
        segments.forEach(({ frame }, k) => {
          const last = k === segments.length - 1;
          t.is(faultOf(frame), undefined);
          t.is(frame.readUInt32BE(made.l4 + 4), (seq + k * mss) % 2 ** 32);
          t.is(frame[made.l4 + 13]! & 0x09, last ? 0x09 : 0);
          t.is(frame[made.l4 + 13]! & 0x80, k === 0 && ecn ? 0x80 : 0);
          if (!shape.six) t.is(frame.readUInt16BE(made.l3 + 4), (0xfffe + k) & 0xffff);
          t.is(frame.length - headers, last ? length - k * mss : mss);
        });
        t.deepEqual(Buffer.concat(segments.map(({ frame }) => frame.subarray(headers))), Buffer.from(payload));

        const [whole] = able.driver.receive();
        t.true(whole!.frame.equals(sent));
        t.deepEqual([...whole!.header.subarray(0, 2)], [NEEDS_CSUM, gso]);
        // hdr_len is what the frame says, not what the guest said.
        t.deepEqual([whole!.header.readUInt16LE(2), whole!.header.readUInt16LE(4)], [headers, mss]);
        for (const port of [from, plain, able]) port.close();
      },
    ),
    { numRuns: 60 },
  );
});

test('a GSO frame is sent wholly or not at all', (t) => {
  const from = new TestPort(1);
  const to = new TestPort(2);
  const made = make({ tags: 0, six: false, options: false }, tcp(), filler(10_000));
  const sent = partial(made, 16, false, 6);
  for (let i = 0; i < 5; i++) to.driver.post(2048);
  from.driver.send(sent, undefined, header(NEEDS_CSUM, TCPV4, 1448, made.l4, 16));
  forward(from, to);
  t.is(to.driver.receive().length, 0);
  t.is(to.counts()['tx_ring_full'], 1);
  for (let i = 0; i < 2; i++) to.driver.post(2048);
  from.driver.send(sent, undefined, header(NEEDS_CSUM, TCPV4, 1448, made.l4, 16));
  forward(from, to);
  t.is(to.driver.receive().length, 7);
  from.driver.send(sent, undefined, header(NEEDS_CSUM, TCPV4, 30, made.l4, 16));
  forward(from, to);
  t.is(to.counts()['tx_ring_full'], 2);
  for (let i = 0; i < 10; i++) to.driver.post(2048);
  from.driver.send(sent, undefined, header(NEEDS_CSUM, TCPV4, 30, made.l4, 16));
  forward(from, to);
  t.is(to.counts()['tx_offload'], 1);
  from.close();
  to.close();
});

test('GSO fields that contradict the frame are refused at the door', (t) => {
  const from = new TestPort(1);
  const to = new TestPort(2);
  to.driver.post(2048);
  const made = make({ tags: 0, six: false, options: false }, tcp(), filler(3000));
  const cases = [
    header(NEEDS_CSUM, TCPV6, 1448, made.l4, 16),
    header(NEEDS_CSUM, TCPV4, 1448, made.l4 + 4, 16),
    header(NEEDS_CSUM, TCPV4, 0, made.l4, 16),
    header(NEEDS_CSUM, TCPV4, 1448, made.l4, 6),
    header(0, TCPV4, 1448, made.l4, 16),
    header(NEEDS_CSUM, 3, 1448, made.l4, 16),
    header(NEEDS_CSUM, 3, 1448, made.l4, 6),
    header(NEEDS_CSUM, 0, 0, 65_535, 65_535),
    header(NEEDS_CSUM, 0, 0, 0, 16),
  ];
  for (const fields of cases) from.driver.send(made.frame, undefined, fields);
  while (forward(from, to) > 0);
  t.deepEqual(from.counts(), { rx_bad_offload: cases.length });
  from.close();
  to.close();
});
