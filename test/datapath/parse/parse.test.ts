import test from 'ava';
import { KEY_WORDS, W_IN_PORT } from '#contract/flow-key.ts';
import { PacketBatch, WINDOW } from '#datapath/packet/batch.ts';
import { parseIpv6 } from '#datapath/parse/ipv6.ts';
import {
  NEED_ADDRESSES,
  NEED_ALL,
  NEED_NETWORK,
  NEED_NOTHING,
  NEED_TAGS,
  NEED_WIDE,
  needOf,
} from '#datapath/parse/need.ts';
import { parsePacket } from '#datapath/parse/parse.ts';
import { ND_ADVERT, ND_SOLICIT, parseTransport } from '#datapath/parse/transport.ts';
import { Arena, fillSlot } from '../../support/datapath-rig.ts';
import { makeFrame, mangle, Random } from '../../support/random-frames.ts';
import { referenceParse } from '../../support/reference-parser.ts';

const batch = new PacketBatch();
const arena = new Arena();
const parse = (frame: Uint8Array, need: number): { key: number[]; l3: number; l4: number } => {
  const slot = 3;
  batch.clear();
  fillSlot(batch, arena, slot, frame);
  batch.keys.fill(0xdeadbeef, slot * KEY_WORDS, (slot + 1) * KEY_WORDS);
  parsePacket(batch, slot, need);
  return {
    key: [...batch.keys.subarray(slot * KEY_WORDS + 1, slot * KEY_WORDS + 26)],
    l3: batch.l3[slot]!,
    l4: batch.l4[slot]!,
  };
};
const hex = (frame: Uint8Array): string => Buffer.from(frame).toString('hex');

test('keys of random frames, whole and mangled, equal those of the plain parser', (t) => {
  const seen = new Set<string>();
  const random = new Random(20_260);
  for (let i = 0; i < 60_000; i++) {
    const made = makeFrame(random);
    const frame = random.chance(40) ? mangle(random, made) : made;
    const expected = referenceParse(frame, WINDOW);
    const got = parse(frame, NEED_ALL);
    const want = { key: [...expected.key.subarray(1, 26)], l3: expected.l3, l4: expected.l4 };
    if (JSON.stringify(got) !== JSON.stringify(want)) {
      t.deepEqual(got, want, `frame ${i}: ${hex(frame)}`);
      return;
    }
    seen.add(
      `${expected.key[7]! >>> 16}/${(expected.key[7]! >>> 8) & 0xff}/${expected.key[7]! & 3}/${expected.l4 > 0}`,
    );
  }
  t.true(seen.size > 40, `kinds of packets: ${seen.size}`);
});

test('each need fills its own words and leaves no doubt in them', (t) => {
  const random = new Random(7);
  const words: [number, number[]][] = [
    [NEED_ADDRESSES, [2, 3, 4]],
    [NEED_TAGS, [5, 6]],
    [NEED_NETWORK | NEED_TAGS, [5, 6, 7, 8, 9, 10, 11]],
    [
      NEED_NETWORK | NEED_TAGS | NEED_WIDE,
      [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25],
    ],
  ];
  for (let i = 0; i < 8000; i++) {
    const frame = random.chance(30) ? mangle(random, makeFrame(random)) : makeFrame(random);
    const all = parse(frame, NEED_ALL);
    for (const [need, list] of words) {
      const some = parse(frame, need);
      for (const word of list) {
        if (some.key[word - 1] !== all.key[word - 1]) t.fail(`need ${need}, word ${word}, frame ${hex(frame)}`);
      }
      if (need === NEED_TAGS && some.key[6] !== all.key[6]! - (all.key[6]! & 0xffff))
        t.fail(`dl_type of ${hex(frame)}`);
    }
  }
  t.pass();
});

test('the need follows the union of masks', (t) => {
  const need = (masks: Record<number, number>): number => {
    const union = new Uint32Array(KEY_WORDS);
    for (const [word, mask] of Object.entries(masks)) union[Number(word)] = mask;
    return needOf(union);
  };
  t.is(need({ [W_IN_PORT]: 0xffffffff }), NEED_NOTHING);
  t.is(need({ 3: 0xffff }), NEED_ADDRESSES);
  t.is(need({ 7: 0xffff0000 }), NEED_TAGS);
  t.is(need({ 7: 0xffffff00 }), NEED_TAGS | NEED_NETWORK);
  t.is(need({ 5: 1, 10: 1 }), NEED_TAGS | NEED_NETWORK);
  t.is(need({ 12: 1 }), NEED_TAGS | NEED_NETWORK | NEED_WIDE);
  t.is(need({ 2: 1, 25: 1 }), NEED_ALL);
});

test('an extension chain that leaves the header window ends without L4', (t) => {
  const random = new Random(3);
  const frame = new Uint8Array(400);
  frame.set(makeFrame(random, undefined, 'other').subarray(0, 12));
  frame.set([0x86, 0xdd, 0x60, 0, 0, 0, 346 >> 8, 346 & 255, 60, 64], 12);
  // One options header of 200 bytes, then UDP.
  frame.set([17, 24], 54);
  const parsed = parse(frame, NEED_ALL);
  t.is(parsed.l4, 0);
  t.is(parsed.key[6], 0x86dd1100);
  t.is(parsed.key[9], 0);
});

test('an IPv6 header that is cut short names no addresses', (t) => {
  const frame = new Uint8Array(60);
  frame.set([0x86, 0xdd, 0x60], 12);
  frame.fill(0xff, 22, 54);
  fillSlot(batch, arena, 0, frame.subarray(0, 53));
  parseIpv6(batch, 0, 14, NEED_ALL);
  t.deepEqual([...batch.keys.subarray(7, 12)], [0x86dd0000, 0, 0, 0, 0]);
});

test('neighbour discovery is read only where its words are asked for', (t) => {
  t.deepEqual([ND_SOLICIT, ND_ADVERT], [135, 136]);
  const frame = new Uint8Array(90);
  frame.set([ND_SOLICIT, 0], 54);
  frame.fill(7, 62, 78);
  fillSlot(batch, arena, 0, frame);
  batch.keys.fill(0, 0, KEY_WORDS);
  batch.keys[7] = 0x86dd3a00;
  parseTransport(batch, 0, 58, 54, 30, false);
  t.is(batch.keys[19], 0);
  parseTransport(batch, 0, 58, 54, 30, true);
  t.is(batch.keys[19], 0x07070707);
  t.is(batch.l4[0], 54);
});
