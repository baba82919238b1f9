import test from 'ava';
import { address, mapAnonymous, sendWithFds } from '#contract/os.ts';
import { WINDOW } from '#datapath/packet/batch.ts';
import { landingOf } from '#ports/kernel/landing.ts';
import {
  FRAME_BYTES,
  RING_BYTES,
  RING_FRAMES,
  STATUS_COPY,
  STATUS_USER,
  STATUS_VLAN_TPID_VALID,
  STATUS_VLAN_VALID,
} from '#ports/kernel/packet-ring.ts';
import { PacketRxQueue } from '#ports/kernel/packet-rx.ts';
import { eth, filler, ipv4, packet, tcp, udp, vlan } from '../../support/packets.ts';
import { joined, QueueRig, type VnetFields, vnet } from './rig.ts';

const MAC_AT = 76;

/** A ring as the kernel fills it. */
class Ring extends QueueRig {
  readonly memory = mapAnonymous(RING_BYTES);
  readonly view = new DataView(this.memory);
  readonly state = new Int32Array(new SharedArrayBuffer(4));
  readonly queue: PacketRxQueue;
  readonly far: number;
  #next = 0;

  constructor(start = 0) {
    super();
    const [near, far] = this.pair();
    this.far = far;
    this.state[0] = start;
    this.#next = start;
    const at = address(this.memory);
    this.queue = new PacketRxQueue(7, 0, near, this.memory, at, this.state, landingOf(this.batch), this.counters);
  }

  put(frame: Uint8Array, fields: VnetFields = {}, tag?: { tci: number; tpid: number }, status = 0): number {
    const index = this.#next;
    const at = index * FRAME_BYTES;
    this.#next = (index + 1) % RING_FRAMES;
    const kept = Math.min(frame.length, FRAME_BYTES - MAC_AT);
    this.view.setUint32(at + 4, frame.length, true);
    this.view.setUint32(at + 8, kept, true);
    this.view.setUint16(at + 12, MAC_AT, true);
    this.view.setUint16(at + 24, tag?.tci ?? 0, true);
    this.view.setUint16(at + 26, tag?.tpid ?? 0, true);
    new Uint8Array(this.memory).set(joined(vnet(fields), frame.subarray(0, kept)), at + MAC_AT - 10);
    const tagged = tag ? STATUS_VLAN_VALID | STATUS_VLAN_TPID_VALID : 0;
    this.view.setUint32(at, STATUS_USER | tagged | status, true);
    return index;
  }

  status(index: number): number {
    return this.view.getUint32(index * FRAME_BYTES, true);
  }

  frames(): Uint8Array[] {
    return Array.from({ length: this.batch.count }, (_, slot) => this.frame(slot));
  }
}

const frameOf = (bytes: number) => packet(eth(), ipv4({}), udp({}), filler(bytes));

test('frames of a ring become packets, and go back when the burst is over', (t) => {
  const ring = new Ring(RING_FRAMES - 3);
  t.false(ring.queue.arm());
  t.is(ring.queue.poll(ring.batch), 0);
  const frames = [18, 100, WINDOW, 1200, 1800].map(frameOf);
  const places = frames.map((frame) => ring.put(frame));
  t.true(ring.queue.arm());
  t.is(ring.queue.poll(ring.batch), 5);
  t.is(ring.batch.inPort, 7);
  t.deepEqual(ring.frames(), frames);
  for (const place of places) t.is(ring.status(place), STATUS_USER, 'still ours');
  ring.queue.complete();
  for (const place of places) t.is(ring.status(place), 0, 'the kernel may write again');
  t.is(ring.state[0], 2);
  t.is(ring.count('rx_packets'), 5);
  t.is(
    ring.count('rx_bytes'),
    frames.reduce((sum, { length }) => sum + length, 0),
  );
  ring.batch.clear();
  for (let i = 0; i < 40; i++) ring.put(frameOf(i));
  t.is(ring.queue.poll(ring.batch), 32, 'a burst');
  ring.batch.clear();
  t.is(ring.queue.poll(ring.batch), 8, 'what was not given back goes with the next poll');
  t.is(ring.state[0], 34);
  ring.close();
});

test('frames that nobody reads are left where they lie, but for those with a tag or an offload', (t) => {
  const ring = new Ring();
  const plain = frameOf(300);
  ring.put(plain);
  ring.put(plain, { flags: 2 });
  ring.put(plain, { flags: 1, csumStart: 34, csumOffset: 6 });
  ring.put(plain, {}, { tci: 7, tpid: 0x8100 });
  t.is(ring.queue.poll(ring.batch, true), 4);
  t.deepEqual([...ring.batch.headLength.subarray(0, 4)], [0, 0, WINDOW, WINDOW + 4]);
  t.deepEqual(ring.frame(0), plain);
  t.is(ring.batch.vnetFlags[1], 0);
  t.is(ring.batch.vnetFlags[2], 1);
  ring.close();
});

test('a tag that the kernel took out is put back, and offsets move with it', (t) => {
  const ring = new Ring();
  const bare = [eth(), ipv4({}), tcp({}), filler(1500)];
  const tagged = [eth(), vlan({ vid: 5, pcp: 3 }), ipv4({}), tcp({}), filler(1500)];
  const outer = [eth(), vlan({ vid: 9, tpid: 0x88a8 }), vlan({ vid: 5 }), ipv4({}), filler(20)];
  const tci = (3 << 13) | 5;
  ring.put(
    packet(...bare),
    { flags: 1, gsoType: 1, gsoSize: 500, csumStart: 34, csumOffset: 16 },
    { tci, tpid: 0x8100 },
  );
  ring.put(packet(eth(), vlan({ vid: 5 }), ipv4({}), filler(20)), {}, { tci: 9, tpid: 0x88a8 });
  t.is(ring.queue.poll(ring.batch), 2);
  const { batch } = ring;
  t.deepEqual(ring.frames(), [packet(...tagged), packet(...outer)]);
  t.deepEqual(
    [batch.csumStart[0], batch.csumOffset[0], batch.gsoSize[0], batch.vnetHeaderLength[0]],
    [38, 16, 500, 58],
  );
  t.deepEqual([batch.csumStart[1], batch.vnetFlags[1]], [0, 0]);
  t.is(ring.count('rx_bytes'), packet(...tagged).length + packet(...outer).length);
  ring.close();
});

test('frames too long for the ring come from the socket; those that are not there, and bad ones, are counted', (t) => {
  const ring = new Ring();
  const long = packet(eth(), ipv4({}), tcp({}), filler(40_000));
  const short = frameOf(50);
  const gso = { flags: 1, gsoType: 1, gsoSize: 1400, csumStart: 34, csumOffset: 16 };
  const send = (frame: Uint8Array, fields: VnetFields) => {
    const bytes = joined(vnet(fields), frame);
    t.is(sendWithFds(ring.far, bytes, 0, bytes.length, null, 0), bytes.length);
  };
  ring.put(short);
  ring.put(long, {}, undefined, 0);
  ring.put(long, gso, undefined, STATUS_COPY);
  ring.put(short, { flags: 1, csumStart: 5000, csumOffset: 6 });
  ring.put(long, gso, { tci: 7, tpid: 0x8100 }, STATUS_COPY);
  ring.put(new Uint8Array(13));
  ring.put(long, gso, undefined, STATUS_COPY);
  send(long, gso);
  send(long, gso);
  t.is(ring.queue.poll(ring.batch), 3);
  const tagged = packet(eth(), vlan({ vid: 7 }), ipv4({}), tcp({}), filler(40_000));
  t.deepEqual(ring.frames(), [short, long, tagged]);
  t.deepEqual([...ring.batch.gsoSize.subarray(0, 3)], [0, 1400, 1400]);
  t.is(ring.drops('rx_kernel_full'), 2, 'cut off, or not in the socket');
  t.is(ring.drops('rx_bad_offload'), 1);
  t.is(ring.drops('rx_short_frame'), 1);
  ring.close();
});
