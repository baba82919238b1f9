import test from 'ava';
import fc from 'fast-check';
import { DROP_BASE, dropReason } from '#contract/catalogue.ts';
import { address, mapAnonymous } from '#contract/os.ts';
import { HEADROOM, PacketBatch, WINDOW } from '#datapath/packet/batch.ts';
import { FinishedFrames, type FrameSink } from '#ports/frame/finished.ts';
import { eth, faultOf, filler, ipv4, ipv6, onesSum, packet, tcp, udp, vlan } from '../../support/packets.ts';

const NEEDS_CSUM = 1;
const TCPV4 = 1;
const TCPV6 = 4;
const MTU = 1500;
const FULL = DROP_BASE + dropReason('tx_ring_full');
const TX_MTU = DROP_BASE + dropReason('tx_mtu');
const TX_OFFLOAD = DROP_BASE + dropReason('tx_offload');

const batch = new PacketBatch();
const memory = mapAnonymous(1 << 20);
const bytes = new Uint8Array(memory);
const base = address(memory);
/** Frames that a sink took land behind the sources. */
const TAKEN = 1 << 19;

/** Takes frames into memory, until it has `room` of them. */
class Sink implements FrameSink {
  readonly room: number;
  readonly places: [at: number, length: number][] = [];
  rewinds = 0;
  #next = TAKEN;

  constructor(room = 1000) {
    this.room = room;
  }

  put(to: PacketBatch, frames: FinishedFrames): number {
    if (this.places.length === this.room) return FULL;
    const at = this.#next;
    for (let i = 0; i < frames.pieceCount; i++) {
      const row = to.rowCount++ * 3;
      to.rows[row] = base + this.#next;
      to.rows[row + 1] = frames.pieceAddress[i]!;
      to.rows[row + 2] = frames.pieceLength[i]!;
      this.#next += frames.pieceLength[i]!;
    }
    this.places.push([at, frames.frameBytes]);
    return 0;
  }

  mark(): number {
    return this.places.length;
  }

  rewind(mark: number): void {
    this.rewinds++;
    this.places.length = mark;
  }

  /** What was taken, read after the copies. */
  get frames(): Buffer[] {
    batch.copy();
    return this.places.map(([at, length]) => Buffer.from(bytes.slice(at, at + length)));
  }
}

interface Offload {
  flags?: number;
  gso?: number;
  size?: number;
  headers?: number;
  start?: number;
  offset?: number;
}

/** Puts a frame in slot 0: `window` bytes in the scratch, the rest in `pieces` segments. */
function place(frame: Uint8Array, window: number, pieces: number, offload: Offload = {}): void {
  batch.clear();
  batch.rowCount = 0;
  bytes.set(frame);
  const head = Math.min(window, frame.length);
  batch.u8.set(frame.subarray(0, head), HEADROOM);
  batch.start[0] = HEADROOM;
  batch.headLength[0] = head;
  batch.length[0] = frame.length;
  batch.segmentFirst[0] = 3;
  const rest = frame.length - head;
  const count = Math.min(pieces, rest);
  batch.segmentCount[0] = count;
  for (let i = 0; i < count; i++) {
    const from = Math.floor((rest * i) / count);
    batch.segmentAddress[3 + i] = base + head + from;
    batch.segmentLength[3 + i] = Math.floor((rest * (i + 1)) / count) - from;
  }
  batch.vnetFlags[0] = offload.flags ?? 0;
  batch.gsoType[0] = offload.gso ?? 0;
  batch.gsoSize[0] = offload.size ?? 0;
  batch.vnetHeaderLength[0] = offload.headers ?? 0;
  batch.csumStart[0] = offload.start ?? 0;
  batch.csumOffset[0] = offload.offset ?? 0;
}

/** The frame with only the pseudo header summed, as the sender leaves it. */
function partial(frame: Uint8Array, l3: number, l4: number, offset: number, six: boolean, protocol: number): Buffer {
  const out = Buffer.from(frame);
  const addresses = out.subarray(six ? l3 + 8 : l3 + 12, six ? l3 + 40 : l3 + 20);
  const tail = Buffer.from([0, 0, 0, 0, 0, protocol]);
  tail.writeUInt32BE(frame.length - l4);
  out.writeUInt16BE(onesSum(Buffer.concat([addresses, tail])), l4 + offset);
  return out;
}

const frames = new FinishedFrames(MTU + 14);
const window = fc.constantFrom(0, WINDOW);
const pieces = fc.integer({ min: 1, max: 5 });
const tags = fc.integer({ min: 0, max: 2 });
const layers = (count: number) => [eth(), ...Array.from({ length: count }, (_, i) => vlan({ vid: i + 5 }))];

test('a plain frame goes out as it lies, in any number of pieces', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 14, max: 1514 }), window, pieces, (length, head, count) => {
      const frame = filler(length, 1);
      place(frame, head, count);
      const sink = new Sink();
      t.is(frames.push(batch, 0, sink), 0);
      t.deepEqual([frames.frames, frames.bytes, frames.summed, frames.segmented], [1, length, 0, 0]);
      t.deepEqual(sink.frames, [Buffer.from(frame)]);
    }),
  );
});

test('a sink that refuses a plain frame decides the reason', (t) => {
  place(filler(64), WINDOW, 1);
  t.is(frames.push(batch, 0, new Sink(0)), FULL);
  t.is(batch.rowCount, 0);
});

test('the MTU bounds a frame, tags not counted, whether its head was read or not', (t) => {
  fc.assert(
    fc.property(tags, fc.integer({ min: 1450, max: 1550 }), window, (count, payload, head) => {
      const frame = packet(...layers(count), filler(payload));
      place(frame, head, 2);
      const sink = new Sink();
      t.is(frames.push(batch, 0, sink), payload <= MTU ? 0 : TX_MTU);
      t.deepEqual(sink.frames, payload <= MTU ? [Buffer.from(frame)] : []);
    }),
  );
});

test('a partial checksum is completed', (t) => {
  fc.assert(
    fc.property(
      tags,
      fc.boolean(),
      fc.boolean(),
      fc.integer({ min: 0, max: 1400 }),
      pieces,
      (count, six, isTcp, length, parts) => {
        const whole = packet(...layers(count), six ? ipv6() : ipv4(), isTcp ? tcp() : udp(), filler(length, length));
        const l3 = 14 + 4 * count;
        const l4 = l3 + (six ? 40 : 20);
        const offset = isTcp ? 16 : 6;
        const sent = partial(whole, l3, l4, offset, six, isTcp ? 6 : 17);
        place(sent, WINDOW, parts, { flags: NEEDS_CSUM, start: l4, offset });
        const sink = new Sink();
        t.is(frames.push(batch, 0, sink), 0);
        t.deepEqual([frames.frames, frames.bytes, frames.summed, frames.segmented], [1, whole.length, 1, 0]);
        const [got] = sink.frames;
        t.is(faultOf(got!), undefined);
        got!.writeUInt16BE(Buffer.from(whole).readUInt16BE(l4 + offset), l4 + offset);
        t.true(got!.equals(whole));
      },
    ),
  );
});

test('a checksum outside the frame is refused', (t) => {
  place(filler(64), WINDOW, 1, { flags: NEEDS_CSUM, start: 60, offset: 6 });
  const sink = new Sink();
  t.is(frames.push(batch, 0, sink), TX_OFFLOAD);
  t.deepEqual(sink.frames, []);
});

interface Gso {
  tags: number;
  six: boolean;
  length: number;
  mss: number;
  parts: number;
}

const gso: fc.Arbitrary<Gso> = fc.record({
  tags,
  six: fc.boolean(),
  length: fc.integer({ min: 1, max: 40_000 }),
  mss: fc.integer({ min: 200, max: 1400 }),
  parts: pieces,
});

const SEQ = 0xffff_ff00;

/** Places a TCP frame to be cut. @returns its segments as a sender without offload would make them. */
function placeGso({ tags: count, six, length, mss, parts }: Gso): Buffer[] {
  const payload = filler(length, 9);
  const make = (k: number, data: Uint8Array, last: boolean) =>
    packet(
      ...layers(count),
      six ? ipv6() : ipv4({ id: (0xfff0 + k) & 0xffff }),
      tcp({ seq: (SEQ + k * mss) >>> 0, flags: last ? 0x19 : 0x10 }),
      data,
    );
  const l3 = 14 + 4 * count;
  const l4 = l3 + (six ? 40 : 20);
  const sent = partial(make(0, payload, true), l3, l4, 16, six, 6);
  place(sent, WINDOW, parts, {
    flags: NEEDS_CSUM,
    gso: six ? TCPV6 : TCPV4,
    size: mss,
    headers: l4 + 20,
    start: l4,
    offset: 16,
  });
  const n = Math.ceil(length / mss);
  return Array.from({ length: n }, (_, k) =>
    Buffer.from(make(k, payload.subarray(k * mss, (k + 1) * mss), k === n - 1)),
  );
}

test('a TCP frame is cut into the segments that a plain sender would have sent', (t) => {
  fc.assert(
    fc.property(gso, (shape) => {
      const wanted = placeGso(shape);
      const sink = new Sink();
      t.is(frames.push(batch, 0, sink), 0);
      t.deepEqual([frames.frames, frames.summed, frames.segmented], [wanted.length, 0, 1]);
      t.is(
        frames.bytes,
        wanted.reduce((sum, { length }) => sum + length, 0),
      );
      t.deepEqual(sink.frames, wanted);
    }),
    { numRuns: 60 },
  );
});

test('of a TCP frame all segments are sent or none, wherever the sink refuses', (t) => {
  fc.assert(
    fc.property(gso, fc.nat(50), (shape, room) => {
      const wanted = placeGso(shape);
      const sink = new Sink(room % wanted.length);
      t.is(frames.push(batch, 0, sink), FULL);
      t.is(sink.rewinds, 1);
      t.deepEqual(sink.places, []);
      t.is(batch.rowCount, 0);
    }),
    { numRuns: 60 },
  );
});

test('a TCP frame whose segments exceed the MTU, and one that says nothing of its headers, are refused', (t) => {
  const shape = { tags: 0, six: false, length: 5000, mss: 1461, parts: 1 };
  const sink = new Sink();
  placeGso(shape);
  t.is(frames.push(batch, 0, sink), TX_MTU);
  placeGso({ ...shape, mss: 1460 });
  t.is(frames.push(batch, 0, sink), 0);
  placeGso({ ...shape, mss: 1000 });
  batch.csumStart[0] = 36;
  t.is(frames.push(batch, 0, sink), TX_OFFLOAD);
});

test('a sink that takes partial checksums gets frames and segments that need nothing but the rest of the sum', (t) => {
  const carrying = new FinishedFrames(MTU + 14, true);
  /** Completes what it was given. */
  class Completing extends Sink {
    readonly at: [start: number, offset: number][] = [];

    override put(to: PacketBatch, of: FinishedFrames): number {
      this.at.push([of.csumStart, of.csumOffset]);
      return super.put(to, of);
    }

    get completed(): Buffer[] {
      return this.frames.map((frame, i) => {
        const [start, offset] = this.at[i]!;
        if (start > 0) frame.writeUInt16BE(~onesSum(frame.subarray(start)) & 0xffff, start + offset);
        return frame;
      });
    }
  }
  fc.assert(
    fc.property(gso, (shape) => {
      const wanted = placeGso(shape);
      const sink = new Completing();
      t.is(carrying.push(batch, 0, sink), 0);
      t.true(sink.at.every(([start, offset]) => start > 0 && offset === 16));
      t.deepEqual(sink.completed, wanted);
    }),
    { numRuns: 30 },
  );
  const whole = packet(eth(), ipv4(), udp(), filler(300));
  place(partial(whole, 14, 34, 6, false, 17), WINDOW, 1, { flags: NEEDS_CSUM, start: 34, offset: 6 });
  const sink = new Completing();
  t.is(carrying.push(batch, 0, sink), 0);
  t.is(carrying.summed, 0);
  t.deepEqual(sink.completed, [Buffer.from(whole)]);
  place(whole, WINDOW, 1);
  const plain = new Completing();
  carrying.push(batch, 0, plain);
  t.deepEqual(plain.at[0]![0], 0);
  carrying.close();
});
