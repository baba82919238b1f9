/** GSO frames in tunnels: taken at kernel interfaces, cut with all headers right, taken out of the tunnel whole. */
import test from 'ava';
import fc from 'fast-check';
import { output, tunnelPop } from '#contract/actions.ts';
import { address, mapAnonymous, recvWithFds } from '#contract/os.ts';
import {
  GSO_ECN,
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_TUNNEL,
  GSO_UDP_L4,
  HEADROOM,
  PacketBatch,
} from '#datapath/packet/batch.ts';
import { placeFrame } from '#datapath/packet/place.ts';
import { FinishedFrames } from '#ports/frame/finished.ts';
import { takeOffload } from '#ports/frame/net-header.ts';
import { SoftwareOffload } from '#ports/frame/offload.ts';
import { outer, readOuter, takeAnyOffload } from '#ports/frame/outer.ts';
import { KernelTxQueue } from '#ports/kernel/tx.ts';
import { Rig } from '../../support/datapath-rig.ts';
import {
  checksum,
  concat,
  eth,
  filler,
  ipv4,
  ipv6,
  ipv6Options,
  type Layer,
  packet,
  tcp,
  u16,
  u32,
  udp,
  vlan,
} from '../../support/packets.ts';
import { QueueRig } from '../kernel/rig.ts';

const KINDS = ['vxlan', 'geneve', 'gre'] as const;

interface Shape {
  readonly kind: (typeof KINDS)[number];
  readonly tags: number;
  readonly six: boolean;
  readonly options: boolean;
  /** UDP or GRE has a checksum. */
  readonly sum: boolean;
  readonly key: boolean;
  readonly innerTag: boolean;
  readonly innerSix: boolean;
  readonly isTcp: boolean;
}

const shapes = fc.record({
  kind: fc.constantFrom(...KINDS),
  tags: fc.nat(1),
  six: fc.boolean(),
  options: fc.boolean(),
  sum: fc.boolean(),
  key: fc.boolean(),
  innerTag: fc.boolean(),
  innerSix: fc.boolean(),
  isTcp: fc.boolean(),
});

const gre = (sum: boolean, key: boolean): Layer => ({
  protocol: 47,
  build: (inside) => {
    const flags = u16((sum ? 0x8000 : 0) | (key ? 0x2000 : 0));
    const rest = concat(key ? u32(77) : u16(0).subarray(2), inside);
    if (!sum) return concat(flags, u16(0x6558), rest);
    const whole = concat(flags, u16(0x6558), u32(0), rest);
    whole.set(u16(checksum(whole)), 4);
    return whole;
  },
});

/** The headers of the tunnel, the last one plain bytes. */
function around(shape: Shape, id: number): (Layer | Uint8Array)[] {
  const { kind, tags, six, options, sum, key } = shape;
  const network = six ? [ipv6(), ...(options ? [ipv6Options(60)] : [])] : [ipv4({ id })];
  const link = [eth(), ...Array.from({ length: tags }, () => vlan({ vid: 9 }))];
  if (kind === 'gre') return [...link, ...network, gre(sum, key)];
  const port = udp({ src: 40_000, dst: kind === 'vxlan' ? 4789 : 6081, ...(sum ? {} : { checksum: 0 }) });
  const header = kind === 'vxlan' ? u32(0x0800_0000) : u32(((key ? 1 : 0) << 24) | 0x6558);
  const extra = kind === 'geneve' && key ? [u32(0x0102_0300)] : [];
  return [...link, ...network, port, concat(header, u32(77 << 8), ...extra)];
}

const SEQUENCE = 0xffff_ff00;
const ID = 0xfffd;

/** The frame inside with datagram or segment k of `payload` in it. */
function within({ innerTag, innerSix, isTcp }: Shape, payload: Uint8Array, k: number, size: number): Uint8Array {
  const part = payload.subarray(k * size, (k + 1) * size);
  const last = (k + 1) * size >= payload.length;
  const sequence = (SEQUENCE + k * size) % 2 ** 32;
  const transport = isTcp ? tcp({ seq: sequence, flags: last ? 0x19 : 0x10, options: filler(12) }) : udp({});
  const network = innerSix ? ipv6() : ipv4({ id: (0xfff0 + k) & 0xffff });
  return packet(eth(), ...(innerTag ? [vlan({ vid: 7 })] : []), network, transport, part);
}

interface Made {
  readonly frame: Uint8Array;
  readonly inner: number;
  readonly csumStart: number;
  readonly gso: number;
  readonly offset: number;
}

/** The frame as a kernel hands it over: uncut. Checksums of UDP and GRE are not whole sums then, which a wrong byte shows. */
function make(shape: Shape, payload: Uint8Array): Made {
  const whole = within(shape, payload, 0, payload.length);
  const frame = packet(...around(shape, ID), whole);
  const inner = frame.length - whole.length;
  const { innerTag, innerSix, isTcp } = shape;
  const csumStart = inner + (innerTag ? 18 : 14) + (innerSix ? 40 : 20);
  const l4 = inner - (shape.kind === 'gre' ? 4 + (shape.sum ? 4 : 0) + (shape.key ? 4 : 0) : 16);
  if (shape.sum && shape.kind === 'gre') frame.set([1, 2], l4 + 4);
  if (shape.sum && shape.kind === 'vxlan') frame.set([1, 2], l4 + 6);
  const gso = isTcp ? (innerSix ? GSO_TCPV6 : GSO_TCPV4) : GSO_UDP_L4;
  return { frame, inner, csumStart, gso, offset: isTcp ? 16 : 6 };
}

const memory = mapAnonymous(1 << 17);
const bytes = new Uint8Array(memory);
const batch = new PacketBatch();
const offload = new SoftwareOffload();

function take({ frame, gso, csumStart, offset }: Made, size: number, door = takeAnyOffload): boolean {
  batch.clear();
  bytes.set(frame);
  placeFrame(batch, bytes, 0, address(memory), frame.length);
  batch.u16.set([1 | (gso << 8), 0, size, csumStart, offset], (HEADROOM - 10) >>> 1);
  return door(batch, 0, HEADROOM - 10);
}

const lengths = fc.integer({ min: 1, max: 20_000 });
const sizes = fc.integer({ min: 100, max: 1400 });

test('what was wrapped uncut is cut into frames that are right inside and outside', (t) => {
  const seen = new Set<string>();
  t.notThrows(() =>
    fc.assert(
      fc.property(shapes, lengths, sizes, (shape, length, size) => {
        const payload = filler(length, length);
        const made = make(shape, payload);
        if (take(made, size, takeOffload)) return false;
        if (!take(made, size)) return false;
        if (batch.gsoType[0] !== (made.gso | GSO_TUNNEL) || batch.csumStart[0] !== made.csumStart) return false;
        if (batch.vnetHeaderLength[0] !== made.frame.length - length) return false;
        offload.linearise(batch, 0);
        if (!offload.prepare(batch.gsoType[0]!, size, made.csumStart)) return false;
        for (let k = 0; k < offload.segments; k++) {
          // Partial checksums are for frames without a tunnel.
          const at = offload.segmentHeaders(batch, k, (k & 1) === 1) + 12;
          const from = offload.frame + offload.headers + k * size;
          const head = offload.u8.slice(at, at + offload.headers);
          const part = Buffer.concat([head, offload.u8.slice(from, from + offload.payload(k))]);
          const wanted = packet(...around(shape, (ID + k) & 0xffff), within(shape, payload, k, size));
          if (!part.equals(wanted)) return false;
        }
        seen.add(`${shape.kind}${shape.six}${shape.sum}`);
        return offload.segments === Math.ceil(length / size);
      }),
      { numRuns: 500 },
    ),
  );
  t.is(seen.size, 12);
});

const fixed: Shape = {
  kind: 'vxlan',
  tags: 0,
  six: false,
  options: false,
  sum: false,
  key: true,
  innerTag: false,
  innerSix: false,
  isTcp: true,
};

test('a frame that is not what its offload fields say is refused', (t) => {
  const good = make(fixed, filler(5000));
  const changed = (at: number, ...values: number[]): Made => {
    const frame = good.frame.slice();
    frame.set(values, at);
    return { ...good, frame };
  };
  t.true(take(good, 1400));
  t.true(take({ ...good, gso: GSO_TCPV4 | GSO_ECN }, 1400));
  t.false(take(good, 0), 'no size');
  t.false(take({ ...good, csumStart: good.csumStart + 4 }, 1400), 'another place');
  t.false(take({ ...good, offset: 6 }, 1400), 'the checksum of UDP');
  t.false(take({ ...good, gso: GSO_TCPV6 }, 1400), 'another family');
  t.false(take({ ...good, gso: GSO_TCPV4 | GSO_TUNNEL }, 1400), 'a word of ours');
  t.false(take(changed(20, 0x20, 0), 1400), 'a fragment');
  t.false(take(changed(23, 50), 1400), 'no tunnel');
  t.false(take(changed(42, 0), 1400), 'no VNI');
  t.false(take(changed(14, 0x65), 1400), 'no IPv4');
  const routed = make({ ...fixed, kind: 'gre', sum: false, key: false }, filler(5000));
  t.true(take(routed, 1400));
  for (const flags of [0x10, 0x40]) {
    routed.frame[34] = flags;
    t.false(take(routed, 1400), 'GRE with a sequence number, or routes');
  }
  t.true(readOuter(good.frame, 0, 190));
  t.deepEqual({ ...outer }, { l3: 14, l4: 34, inner: 50, four: true, udp: true });
  t.false(readOuter(good.frame, 0, 60), 'cut off');
});

test('any bytes are refused or can be cut, never a fault', (t) => {
  t.notThrows(() =>
    fc.assert(
      fc.property(
        shapes,
        fc.array(fc.tuple(fc.integer({ min: 12, max: 160 }), fc.nat(255)), { maxLength: 4 }),
        fc.integer({ min: 60, max: 400 }),
        (shape, changes, length) => {
          const made = make(shape, filler(1000));
          for (const [at, value] of changes) made.frame[at] = value;
          if (!take({ ...made, frame: made.frame.subarray(0, length) }, 300)) return true;
          if (batch.vnetHeaderLength[0]! > length) return false;
          offload.linearise(batch, 0);
          const can = offload.prepare(batch.gsoType[0]!, 300, made.csumStart);
          for (let k = 0; can && k < offload.segments; k++) offload.segmentHeaders(batch, k);
          return can;
        },
      ),
      { numRuns: 2000 },
    ),
  );
});

test('a frame taken out of its tunnel is a plain GSO frame', (t) => {
  const TUNNEL = 9;
  const rig = new Rig([1, 2, 3]);
  for (const kind of KINDS) {
    for (const six of [false, true]) {
      const shape = { ...fixed, kind, six, sum: true, innerSix: six, innerTag: six };
      const made = make(shape, filler(9000, 3));
      const headerLength = made.frame.length - 9000;
      const fields = { flags: 1, gsoSize: 1300, csumStart: made.csumStart, csumOffset: 16, headerLength };
      const frame = { frame: made.frame, offload: { ...fields, gsoType: made.gso | GSO_TUNNEL } };
      rig.put(0, 1, {}, tunnelPop(TUNNEL, KINDS.indexOf(kind) + 1));
      rig.put(1, TUNNEL, {}, output(3));
      const [out] = rig.send(1, frame);
      t.is(Buffer.compare(out!.frame, made.frame.subarray(made.inner)), 0);
      t.like(out!.offload, {
        flags: 1,
        gsoType: made.gso,
        gsoSize: 1300,
        headerLength: headerLength - made.inner,
        csumStart: made.csumStart - made.inner,
        csumOffset: 16,
      });
      // Without a tunnel in its header it is one GSO frame of UDP at most, which is no packet of a tunnel.
      t.deepEqual(rig.send(1, { ...frame, offload: { ...fields, gsoType: made.gso } }), []);
      rig.pipeline.flows.delete(1);
    }
  }
});

test('kernel interfaces, whose header has no word for tunnels, and ports for finished frames get segments', (t) => {
  const rig = new QueueRig();
  const [near, far] = rig.pair();
  const queue = new KernelTxQueue(1, 0, near, false, rig.counters, 1500);
  const payload = filler(26_000, 5);
  const made = make({ ...fixed, sum: true }, payload);
  const [slot] = rig.place(made.frame);
  const to = rig.batch;
  to.u16.set([1 | (made.gso << 8), 0, 1300, made.csumStart, 16], (to.start[slot!]! - 10) >>> 1);
  t.true(takeAnyOffload(to, slot!, to.start[slot!]! - 10));
  const partial = new FinishedFrames(1514, true);
  let sums = 0;
  const sink = {
    put: (_: PacketBatch, frames: FinishedFrames) => {
      sums += frames.csumStart;
      return 0;
    },
    mark: () => 0,
    rewind: () => undefined,
  };
  t.is(partial.push(to, slot!, sink), 0);
  t.is(sums, 0, 'nothing is left to the device');
  t.is(partial.frames, 20);
  partial.close();
  t.is(queue.push(to, Int32Array.of(slot!), 1), 1);
  queue.publish();
  const received = new Uint8Array(2000);
  for (let k = 0; k < 20; k++) {
    const got = received.subarray(0, recvWithFds(far, received, 0, received.length, new Int32Array(0)));
    t.deepEqual([...got.subarray(0, 10)], new Array(10).fill(0));
    const id = (ID + k) & 0xffff;
    t.deepEqual(got.subarray(10), packet(...around({ ...fixed, sum: true }, id), within(fixed, payload, k, 1300)));
  }
  t.is(rig.count('tx_packets'), 20);
  t.is(rig.count('segmented'), 1);
  to.gsoSize[slot!] = 5;
  t.is(queue.push(to, Int32Array.of(slot!), 1), 1);
  t.is(rig.drops('tx_offload'), 1, 'more segments than a frame may have');
  queue.close();
  rig.close();
});
