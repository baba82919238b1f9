import test from 'ava';
import { delta16, delta32, updateChecksum } from '#datapath/actions/checksum.ts';
import { clonePacket } from '#datapath/actions/clone.ts';
import { updateSctp } from '#datapath/actions/sctp.ts';
import { setField } from '#datapath/actions/set-field.ts';
import { popVlan, pushVlan } from '#datapath/actions/vlan.ts';
import { BURST, PacketBatch, SLOTS } from '#datapath/packet/batch.ts';
import { NEED_ALL } from '#datapath/parse/need.ts';
import { parsePacket } from '#datapath/parse/parse.ts';
import { Arena, fillSlot } from '../../support/datapath-rig.ts';
import { checksum, crc32c, makeFrame, Random } from '../../support/random-frames.ts';

const batch = new PacketBatch();
const arena = new Arena();
const window = (slot: number): Buffer =>
  Buffer.from(batch.u8.slice(batch.start[slot]!, batch.start[slot]! + batch.headLength[slot]!));

test('an updated checksum equals one computed anew, for words of any value', (t) => {
  const random = new Random(3);
  for (let i = 0; i < 5000; i++) {
    const bytes = Uint8Array.from([...random.bytes(12), 0, 0]);
    const view = new DataView(bytes.buffer);
    view.setUint16(12, checksum(bytes));
    const before = [view.getInt32(4), view.getUint16(8)] as const;
    const after = [random.pick([0, -1, random.u32() | 0]), random.below(65536)] as const;
    view.setInt32(4, after[0]);
    view.setUint16(8, after[1]);
    updateChecksum(view, 12, delta32(before[0], after[0]) + delta16(before[1], after[1]));
    const updated = view.getUint16(12);
    view.setUint16(12, 0);
    t.is(updated, checksum(bytes));
  }
});

test('the CRC of an SCTP packet follows its ports whatever its length', (t) => {
  const random = new Random(4);
  for (const length of [12, 13, 64, 190, 1500, 65_000]) {
    const bytes = Uint8Array.from([...random.bytes(8), 0, 0, 0, 0, ...random.bytes(length - 12)]);
    const crc = crc32c(bytes);
    const ports = random.u32();
    const change = (new DataView(bytes.buffer).getUint32(0) ^ ports) | 0;
    batch.start[0] = 100;
    batch.l4[0] = 0;
    batch.view.setUint32(108, crc, true);
    updateSctp(batch, 0, change, length);
    new DataView(bytes.buffer).setUint32(0, ports);
    t.is(batch.view.getUint32(108, true), crc32c(bytes), `${length} bytes`);
  }
});

test('a copy has the window, the offsets and the segments of its packet, and slots run out', (t) => {
  batch.clear();
  const frame = new Uint8Array(3000).map((_, i) => i * 3);
  frame.set(makeFrame(new Random(2), undefined, 'ipv4').subarray(0, 34));
  fillSlot(batch, arena, 5, frame, {
    flags: 1,
    csumStart: 34,
    csumOffset: 6,
    gsoSize: 9,
    gsoType: 1,
    headerLength: 42,
  });
  parsePacket(batch, 5, NEED_ALL);
  const copy = clonePacket(batch, 5);
  t.is(copy, BURST);
  t.deepEqual(window(copy), window(5));
  for (const of of [
    'length',
    'segmentFirst',
    'segmentCount',
    'vnetFlags',
    'gsoType',
    'gsoSize',
    'vnetHeaderLength',
    'csumStart',
    'csumOffset',
    'l3',
    'l4',
  ] as const) {
    t.is(batch[of][copy], batch[of][5], of);
  }
  batch.nextSlot = SLOTS;
  t.is(clonePacket(batch, 5), -1);
  batch.clear();
});

test('a pushed tag stands before the old type and pops off again', (t) => {
  const frame = makeFrame(new Random(5), undefined, 'other');
  fillSlot(batch, arena, 0, frame);
  parsePacket(batch, 0, NEED_ALL);
  const whole = window(0);
  t.true(pushVlan(batch, 0, 0x88a8_7fff | 0));
  t.is(window(0).subarray(12, 16).toString('hex'), '88a86fff');
  t.is(batch.length[0], frame.length + 4);
  popVlan(batch, 0);
  t.deepEqual(window(0), whole);
});

test('a field that the packet does not have is left alone', (t) => {
  const arp = makeFrame(new Random(6), undefined, 'arp');
  fillSlot(batch, arena, 0, arp.subarray(0, 20));
  parsePacket(batch, 0, NEED_ALL);
  const before = window(0);
  for (let word = 5; word < 32; word++)
    setField(batch, 0, word, word === 5 && before[12] === 0x81 ? 0 : -1, word === 5 ? 0 : -1);
  t.deepEqual(window(0).subarray(20), before.subarray(20));
  t.is(batch.l3[0], 0);
});
