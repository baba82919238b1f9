import test from 'ava';
import { decTtl, drop, output, popVlan, pushVlan, set } from '#contract/actions.ts';
import { DROP_REASONS, dropReason } from '#contract/catalogue.ts';
import { Programs } from '#datapath/actions/program.ts';
import { BURST, GSO_TCPV4, SLOTS, VNET_NEEDS_CSUM, WINDOW } from '#datapath/packet/batch.ts';
import { type Offload, Rig } from '../../support/datapath-rig.ts';
import { checksum, makeFrame, mangle, Random } from '../../support/random-frames.ts';
import { referenceRun } from '../../support/reference-actions.ts';
import { referenceParse } from '../../support/reference-parser.ts';

const rig = new Rig([1, 2, 3, 4]);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

const SETTABLE = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22];

function randomProgram(random: Random): number[] {
  const program: number[] = [];
  for (let n = random.below(7); n > 0; n--) {
    const kind = random.below(10);
    const mask = random.pick([0xffffffff, 0xffffffff, 0xffff0000, 0xffff, 0xff0000, 0xff000000, random.u32()]);
    if (kind < 3) program.push(...output(1 + random.below(4)));
    else if (kind < 7) program.push(...set(random.pick(SETTABLE), random.u32(), mask));
    else if (kind < 8) program.push(...pushVlan(random.pick([0x8100, 0x88a8]), 0x1000 | random.below(4096)));
    else if (kind < 9) program.push(...popVlan());
    else program.push(...decTtl());
  }
  if (random.chance(90)) program.push(...output(1 + random.below(4)));
  if (random.chance(5)) program.push(...drop(dropReason('controller')));
  return program;
}

/** Edits of nw_proto, opcode and ND type would change what later edits mean; the parsers see the packet once. */
const changesKind = (program: number[]): boolean => {
  for (let at = 0; at < program.length; at += program[at]! & 0xffff) {
    if (program[at]! >>> 16 === 3 && program[at + 1] === 10) return true;
  }
  return false;
};

/** Turns the transport checksum of a TCP or UDP frame into a partial one. */
function makePartial(frame: Uint8Array): { frame: Uint8Array; offload: Offload } | undefined {
  const { key, l3, l4 } = referenceParse(frame, WINDOW);
  const protocol = (key[7]! >>> 8) & 0xff;
  if (l4 === 0 || (protocol !== 6 && protocol !== 17) || (key[7]! & 3) !== 0) return undefined;
  const result = frame.slice();
  // An edit that changes nothing fills the pseudo-header sum in.
  const program = [...set(8, key[8]!, 0xffffffff), ...output(1)];
  result.set(referenceRun(frame, WINDOW, program, true).outputs[0]!.frame);
  const offset = protocol === 6 ? 16 : 6;
  return l3 > 0 ? { frame: result, offload: { flags: VNET_NEEDS_CSUM, csumStart: l4, csumOffset: offset } } : undefined;
}

test('random programs on random frames give the bytes that computing all from scratch gives', (t) => {
  const random = new Random(99);
  for (let i = 0; i < 40_000; i++) {
    let frame = makeFrame(random);
    let offload: Offload = {};
    if (random.chance(20)) ({ frame, offload } = makePartial(frame) ?? { frame, offload });
    const partial = offload.flags === VNET_NEEDS_CSUM;
    const program = randomProgram(random);
    const expected = referenceRun(frame, WINDOW, program, partial);
    rig.lane.ports.fill(0);
    // Half of the flows match on in_port only: the action stage has to parse for itself.
    rig.put(0, 1, random.chance(50) ? { 8: [referenceParse(frame, WINDOW).key[8]!, 0xffffffff] } : {}, program);
    const sent = rig.send(1, { frame, offload });
    const sorted = (list: { port: number; frame: Uint8Array }[]): string[] =>
      list.map((one) => `${one.port} ${hex(one.frame)}`).sort();
    const about = `frame ${i} ${hex(frame)} program ${program.map((word) => word.toString(16))}`;
    if (sorted(sent).join() !== sorted(expected.outputs).join()) {
      t.deepEqual(sorted(sent), sorted(expected.outputs), about);
      return;
    }
    const reason =
      expected.end === 'ttl'
        ? 'ttl_exceeded'
        : expected.end === ''
          ? ''
          : expected.end === 'flow_drop'
            ? 'flow_drop'
            : DROP_REASONS[expected.end]!.name;
    const drops = rig.allDrops();
    if (JSON.stringify(drops) !== JSON.stringify(reason === '' ? {} : { [reason]: 1 })) {
      t.deepEqual(drops, reason === '' ? {} : { [reason]: 1 }, about);
      return;
    }
    if (partial) {
      const starts = (list: { csumStart: number }[]): number[] => list.map((one) => one.csumStart).sort();
      t.deepEqual(starts(sent.map((one) => one.offload)), starts(expected.outputs), about);
    }
    if (changesKind(program)) rig.pipeline.flows.delete(0);
  }
  t.pass();
});

test('mangled frames pass any program without harm', (t) => {
  const random = new Random(4);
  for (let i = 0; i < 20_000; i++) {
    const frame = mangle(random, makeFrame(random));
    const program = randomProgram(random);
    rig.put(0, 1, {}, program);
    for (const out of rig.send(1, frame)) {
      if (Math.abs(out.frame.length - frame.length) > 32 || hex(out.frame.slice(-1)) === '') t.fail(hex(frame));
    }
  }
  t.pass();
});

const ND = (options: number[]): Uint8Array => {
  const body = [135, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0x80, ...Array(13).fill(0), 1, ...options];
  const addresses = [0xfe, 0x80, ...Array(13).fill(0), 2, 0xff, 2, ...Array(13).fill(0), 1];
  const sum = checksum([...addresses, 0, 0, 0, body.length, 0, 0, 0, 58, ...body]);
  body.splice(2, 2, sum >>> 8, sum & 255);
  return Uint8Array.from([
    ...Array(12).fill(2),
    0x86,
    0xdd,
    0x60,
    0,
    0,
    0,
    0,
    body.length,
    58,
    255,
    ...addresses,
    ...body,
  ]);
};

test('link-layer address options of neighbour discovery are set, the checksum with them', (t) => {
  const frame = ND([1, 1, 2, 0, 0, 0, 0, 7, 2, 1, 2, 0, 0, 0, 0, 8]);
  const program = [
    ...set(23, 0x0a0b0c0d, 0xffffffff),
    ...set(24, 0x0e0f1a1b, 0xffffffff),
    ...set(25, 0x1c1d1e1f, 0xffffffff),
  ];
  rig.put(0, 1, {}, [...program, ...output(2)]);
  const [out] = rig.send(1, frame);
  t.deepEqual(out!.frame, ND([1, 1, 10, 11, 12, 13, 14, 15, 2, 1, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f]));
});

test('an edit after an output changes the copy, and outputs before it share one slot', (t) => {
  const frame = makeFrame(new Random(1), undefined, 'ipv4');
  rig.put(0, 1, {}, [...output(2), ...output(3), ...set(2, 0x0a0a0a0a, 0xffffffff), ...output(4), ...output(2)]);
  const sent = rig.send(1, frame);
  const slots = (port: number): number[] => sent.filter((one) => one.port === port).map((one) => one.slot);
  t.deepEqual(slots(3), [0]);
  t.deepEqual(slots(2), [0, BURST]);
  t.deepEqual(slots(4), [BURST]);
  t.is(sent.filter((one) => one.frame[0] === 0x0a).length, 2);
  t.is(sent.filter((one) => hex(one.frame) === hex(frame)).length, 2);
});

test('edits that no output follows cost no copy', (t) => {
  const programs = new Programs();
  const words = [...output(2), ...set(2, 1, 0xff)];
  const verdict = programs.add(words, 0, words.length);
  t.deepEqual([...programs.code[verdict & 0xffffff]!], output(2));
  t.deepEqual([...programs.wordsOf(verdict)], words);
});

test('copies beyond the slots of a burst are counted as clone_exhausted, once per packet', (t) => {
  rig.lane.ports.fill(0);
  const copies = (count: number): number[] =>
    Array.from({ length: count }, (_, i) => [...output(2), ...set(2, i, 0xff)]).flat();
  rig.put(0, 1, {}, [...copies(SLOTS - BURST + 1), ...output(3)]);
  t.is(rig.send(1, makeFrame(new Random(1))).length, SLOTS - BURST + 1);
  t.is(rig.drops(1, 'clone_exhausted'), 1);
  // Many packets with some copies each leave in turns.
  rig.put(0, 1, {}, [...copies(10), ...output(3)]);
  const sent = rig.send(1, ...Array.from({ length: BURST }, () => makeFrame(new Random(1))));
  t.is(sent.filter((one) => one.port === 3).length, BURST);
  t.is(sent.length, BURST * 11);
  t.is(rig.drops(1, 'clone_exhausted'), 1);
});

test('offload offsets follow tags', (t) => {
  const frame =
    makePartial(makeFrame(new Random(8), undefined, 'ipv4'))?.frame ?? makeFrame(new Random(9), undefined, 'ipv4');
  const offload = {
    flags: VNET_NEEDS_CSUM,
    gsoType: GSO_TCPV4,
    gsoSize: 1000,
    headerLength: 54,
    csumStart: 34,
    csumOffset: 16,
  };
  rig.put(0, 1, {}, [
    ...pushVlan(0x8100, 5),
    ...pushVlan(0x88a8, 6),
    ...output(2),
    ...popVlan(),
    ...popVlan(),
    ...output(3),
  ]);
  const sent = rig.send(1, { frame, offload });
  t.like(sent[0]!.offload, { headerLength: 62, csumStart: 42, csumOffset: 16, gsoSize: 1000 });
  t.like(sent[1]!.offload, offload);
  t.is(hex(sent[1]!.frame), hex(frame));
});

test('tags beyond the headroom drop the packet', (t) => {
  rig.lane.ports.fill(0);
  rig.put(0, 1, {}, [...Array.from({ length: 14 }, () => pushVlan(0x8100, 1)).flat(), ...output(2)]);
  t.is(rig.send(1, makeFrame(new Random(1))).length, 0);
  t.is(rig.drops(1, 'translation_error'), 1);
});
