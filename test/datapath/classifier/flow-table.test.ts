import test from 'ava';
import { drop, output, set } from '#contract/actions.ts';
import { KEY_WORDS, W_IN_PORT } from '#contract/flow-key.ts';
import { FLOW_ROW, LANE_BYTES, Lane } from '#contract/lane.ts';
import { mapAnonymous } from '#contract/os.ts';
import { FlowStats } from '#datapath/classifier/flow-stats.ts';
import { FlowTable } from '#datapath/classifier/flow-table.ts';
import { BURST, HEADROOM, PacketBatch, SLOT_BYTES, WINDOW } from '#datapath/packet/batch.ts';
import { Pipeline } from '#datapath/pipeline.ts';
import { SoftwareOffload } from '#ports/frame/offload.ts';
import type { TxQueue } from '#ports/port.ts';
import { makeFrame, mangle, Random } from '../../support/random-frames.ts';
import { referenceParse } from '../../support/reference-parser.ts';

/** Packets of the property test in all; a million by default. */
const PACKETS = Number(process.env['RINGWAY_TEST_PACKETS'] ?? 1_000_000);
const FIRST_OUT = 100;
const IDS = 700;

interface Flow {
  id: number;
  inPort: number;
  words: number[];
  key: Uint32Array;
  mask: Uint32Array;
  packets: number;
  bytes: number;
  flags: number;
}

interface Sample {
  frame: Uint8Array;
  key: Uint32Array;
}

const batch = new PacketBatch();

/** A pipeline whose output ports tell which flow a packet hit. */
class World {
  readonly lane = new Lane(mapAnonymous(LANE_BYTES));
  readonly clock = new Float64Array(1);
  readonly verdicts = new Int32Array(BURST);
  readonly flows = new Map<number, Flow>();
  readonly pipeline: Pipeline;
  #burst: Sample[] = [];
  #inPort = 0;

  constructor() {
    const queues = Array.from({ length: IDS }, (_, id): TxQueue => {
      const verdicts = this.verdicts;
      return {
        portNo: FIRST_OUT + id,
        queue: 0,
        shared: false,
        lock: () => true,
        unlock: () => {},
        push: (_batch, list, n) => {
          for (let i = 0; i < n; i++) verdicts[list[i]!] = id;
          return n;
        },
        publish: () => {},
      };
    });
    this.pipeline = new Pipeline({
      batch,
      lane: this.lane,
      clock: this.clock,
      txQueue: (port) => queues[port - FIRST_OUT],
      finisher: new SoftwareOffload(),
      hasPort: () => true,
      onMiss: () => 0,
    });
  }

  put(flow: Flow): void {
    for (const other of this.flows.values()) {
      const same = other.mask.every((bits, i) => bits === flow.mask[i] && other.key[i] === flow.key[i]);
      if (same && other.inPort === flow.inPort && other.id !== flow.id) this.flows.delete(other.id);
    }
    const old = this.flows.get(flow.id);
    if (old !== undefined) Object.assign(flow, { packets: old.packets, bytes: old.bytes, flags: old.flags });
    this.flows.set(flow.id, flow);
    const words = [W_IN_PORT, flow.inPort, 0xffffffff];
    for (const word of flow.words) words.push(word, flow.key[word]!, flow.mask[word]!);
    this.pipeline.flows.put(flow.id, [...words, ...output(FIRST_OUT + flow.id)], 0, words.length / 3, 2);
  }

  delete(id: number): void {
    this.flows.delete(id);
    this.pipeline.flows.delete(id);
  }

  /** @returns the flow id of each packet, -1 for a miss. */
  send(inPort: number, burst: Sample[]): Int32Array {
    this.#burst = burst;
    this.#inPort = inPort;
    this.verdicts.fill(-1);
    this.clock[0]! += 5;
    this.pipeline.run({
      portNo: inPort,
      queue: 0,
      kickFd: -1,
      poll: () => this.#fill(),
      complete: () => {},
      arm: () => false,
      disarm: () => {},
    });
    return this.verdicts;
  }

  #fill(): number {
    this.#burst.forEach(({ frame }, slot) => {
      const start = slot * SLOT_BYTES + HEADROOM;
      batch.u8.set(frame.length > WINDOW ? frame.subarray(0, WINDOW) : frame, start);
      batch.start[slot] = start;
      batch.headLength[slot] = Math.min(WINDOW, frame.length);
      batch.length[slot] = frame.length;
      batch.segmentCount[slot] = 0;
      batch.vnetFlags[slot] = 0;
    });
    batch.inPort = this.#inPort;
    batch.count = this.#burst.length;
    return this.#burst.length;
  }
}

const matches = (flow: Flow, inPort: number, key: Uint32Array): boolean => {
  if (flow.inPort !== inPort) return false;
  for (const word of flow.words) if (((key[word]! & flow.mask[word]!) ^ flow.key[word]!) !== 0) return false;
  return true;
};

const overlap = (a: Flow, b: Flow): boolean => {
  if (a.inPort !== b.inPort) return false;
  for (let word = 1; word < KEY_WORDS; word++) {
    if (((a.key[word]! ^ b.key[word]!) & a.mask[word]! & b.mask[word]!) !== 0) return false;
  }
  return true;
};

const pool = (random: Random, count: number): Sample[] =>
  Array.from({ length: count }, () => {
    const frame = random.chance(10) ? mangle(random, makeFrame(random)) : makeFrame(random);
    return { frame, key: referenceParse(frame, WINDOW).key };
  });

/** A flow around a sample's key, so that it is hit; its mask made of a few templates, so that subtables fill. */
const randomFlow = (random: Random, samples: Sample[], masks: Uint32Array[], inPort: number): Flow => {
  const mask = random.pick(masks);
  const key = random.pick(samples).key.map((value, word) => value & mask[word]!);
  if (random.chance(5)) key[1 + random.below(25)]! ^= 1;
  const words = [...mask.keys()].filter((word) => word > 0 && mask[word] !== 0);
  const within = key.map((value, word) => (word > 0 ? value & mask[word]! : 0));
  return { id: random.below(IDS), inPort, words, key: within, mask, packets: 0, bytes: 0, flags: 0 };
};

const randomMask = (random: Random): Uint32Array => {
  const mask = new Uint32Array(KEY_WORDS);
  const words = random.pick([
    [],
    [2, 3, 4],
    [4],
    [5],
    [7],
    [5, 7],
    [7, 8],
    [7, 8, 9, 10],
    [7, 8, 9, 10, 11],
    [2, 3, 4, 5, 7, 8, 9, 10],
    [7, 8, 9, 12, 13, 14, 15, 16, 17],
    [5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18],
    [7, 19, 20, 21, 22, 23, 24, 25],
    Array.from({ length: 25 }, (_, i) => i + 1),
  ]);
  for (const word of words)
    mask[word] = random.pick([0xffffffff, 0xffffffff, 0xffff0000, 0xff, 0xfffffffe, random.u32()]);
  return mask;
};

for (const disjoint of [true, false]) {
  test(`verdicts of ${disjoint ? 'disjoint' : 'overlapping'} flows equal those of a linear search while flows come and go`, (t) => {
    const random = new Random(disjoint ? 11 : 12);
    let sent = 0;
    let hits = 0;
    while (sent < PACKETS / 2) {
      const world = new World();
      const samples = pool(random, 600);
      const masks = Array.from({ length: 1 + random.below(random.pick([1, 3, 12])) }, () => randomMask(random));
      const ports = random.pick([[1], [1, 2], [1, 2, 3]]);
      const target = random.pick([1, 5, 40, 200]);
      for (let round = 0; round < 400; round++) {
        for (let change = random.below(4); change > 0; change--) {
          if (world.flows.size < target * random.pick([1, 1, 2]) && random.chance(70)) {
            const flow = randomFlow(random, samples, masks, random.pick(ports));
            const clash = [...world.flows.values()].some((other) => other.id !== flow.id && overlap(flow, other));
            if (!disjoint || !clash) world.put(flow);
          } else if (world.flows.size > 0 && random.chance(60)) {
            world.delete(random.pick([...world.flows.keys()]));
          }
        }
        if (random.below(400) === 0) {
          world.pipeline.flows.flush();
          world.flows.clear();
        }
        const inPort = random.pick(ports);
        const burst = Array.from({ length: 1 + random.below(BURST) }, () => random.pick(samples));
        const verdicts = world.send(inPort, burst);
        const live = [...world.flows.values()].filter((flow) => flow.inPort === inPort);
        for (const [slot, sample] of burst.entries()) {
          const id = verdicts[slot]!;
          if (id < 0) {
            const missed = live.find((flow) => matches(flow, inPort, sample.key));
            if (missed !== undefined) return t.fail(`packet ${sent} missed flow ${missed.id}`);
          } else {
            const flow = world.flows.get(id);
            if (flow === undefined) return t.fail(`packet ${sent} hit flow ${id}, which is not there`);
            if (!matches(flow, inPort, sample.key))
              return t.fail(`packet ${sent} hit flow ${id}, which does not match`);
            flow.packets++;
            flow.bytes += sample.frame.length;
            flow.flags |= sample.key[11]! & 0xfff;
            hits++;
          }
          sent++;
        }
      }
      world.pipeline.publishStats();
      for (const flow of world.flows.values()) {
        const [packets, bytes, , flags] = world.lane.flows.subarray(flow.id * FLOW_ROW);
        if (packets !== flow.packets || bytes !== flow.bytes || (flags! & ~flow.flags) !== 0) {
          return t.fail(`flow ${flow.id}: ${packets} packets, ${bytes} bytes, not ${flow.packets}, ${flow.bytes}`);
        }
      }
      if (world.pipeline.flows.count !== world.flows.size) return t.fail('flow count');
    }
    t.true(hits > sent / 20, `${hits} hits of ${sent}`);
  });
}

test('flows that come and go while their table grows and shrinks are found, and only they', (t) => {
  const random = new Random(77);
  const world = new World();
  const mask = new Uint32Array(KEY_WORDS);
  mask[8] = 0xffffffff;
  const samples = Array.from({ length: IDS }, (_, id): Sample => {
    const ip = [
      0x45,
      0,
      0,
      28,
      0,
      0,
      0,
      0,
      64,
      17,
      0,
      0,
      10,
      0,
      id >> 8,
      id & 255,
      10,
      0,
      0,
      9,
      0,
      1,
      0,
      2,
      0,
      8,
      0,
      0,
    ];
    const frame = Uint8Array.from([...new Array<number>(12).fill(2), 8, 0, ...ip]);
    return { frame, key: referenceParse(frame).key };
  });
  let whileMoving = 0;
  for (let round = 0; round < 30_000; round++) {
    // Up to all ids, down to a few, and again: each turn passes every size of the table.
    const rising = Math.floor(round / 1500) % 2 === 0;
    const id = random.below(IDS);
    if (random.chance(rising ? 80 : 15)) {
      const key = samples[id]!.key.map((value, word) => value & mask[word]!);
      world.put({ id, inPort: 1, words: [8], key, mask, packets: 0, bytes: 0, flags: 0 });
    } else {
      world.delete(id);
    }
    const moving = world.pipeline.flows.growing.length > 0;
    if (!moving && round % 16 !== 0) continue;
    if (moving) whileMoving++;
    const asked = Array.from({ length: BURST }, (_, i) => (i === 0 ? id : random.below(IDS)));
    const verdicts = world.send(
      1,
      asked.map((one) => samples[one]!),
    );
    for (const [slot, one] of asked.entries()) {
      if (verdicts[slot] !== (world.flows.has(one) ? one : -1))
        return t.fail(`round ${round}: ${one} gave ${verdicts[slot]}`);
    }
  }
  t.true(whileMoving > 30, `${whileMoving} bursts while rows moved`);
});

const table = (): FlowTable => new FlowTable(new FlowStats(new Float64Array(1 << 20), new Float64Array(1)));

test('a dump gives every flow back as it was put, also after growth and deletion', (t) => {
  const random = new Random(5);
  const flows = table();
  const expected = new Map<number, { key: number[]; mask: number[]; program: number[] }>();
  const programs = [[], output(7), drop(3), [...set(2, 1, 1), ...output(4)], [...output(1), ...output(2)]];
  const mask = Array.from({ length: KEY_WORDS }, (_, word) =>
    word === 0 || word === 8 || word === 1 ? 0xffffffff : 0,
  );
  for (let i = 0; i < 6000; i++) {
    const id = random.below(4000);
    if (random.chance(30)) {
      t.is(flows.delete(id), expected.delete(id));
      continue;
    }
    const key = mask.map(() => 0);
    key[0] = 1 + random.below(2);
    key[8] = id;
    key[1] = random.pick([0, 0, 0, 9]);
    const program = random.pick(programs);
    const words = [0, key[0], 0xffffffff, 1, key[1]!, 0xffffffff, 8, id, 0xffffffff];
    flows.put(id, [...words, ...program], 0, 3, program.length);
    expected.set(id, { key, mask, program });
    if (random.chance(50)) flows.drain();
  }
  const dump = new Map(
    [...flows.dump()].map(({ id, key, mask, program }) => [
      id,
      { key: [...key], mask: [...mask], program: [...program] },
    ]),
  );
  t.is(dump.size, flows.count);
  t.deepEqual(dump, new Map([...expected].sort(([a], [b]) => a - b)));
  flows.flush();
  t.is([...flows.dump()].length, 0);
});

test('a full load of 262 144 flows is found, and deleting it gives the tables back', (t) => {
  const flows = table();
  const words = new Uint32Array(11);
  words.set([0, 1, 0xffffffff, 8, 0, 0xffffffff, 10, 0, 0xffff0000, ...output(2)]);
  for (let id = 0; id < 262_144; id++) {
    words[4] = Math.imul(id, 2654435761) >>> 0;
    flows.put(id, words, 0, 3, 2);
  }
  t.is(flows.count, 262_144);
  t.is(flows.masks, 1);
  for (let id = 0; id < 262_144; id += 997) t.is(flows.get(id)!.key[8], Math.imul(id, 2654435761) >>> 0);
  t.throws(() => flows.put(262_144, words, 0, 3, 2), { instanceOf: RangeError });
  for (let id = 0; id < 262_140; id++) flows.delete(id);
  const settle = (): void => {
    for (let i = 0; i < 20_000; i++) flows.drain();
  };
  settle();
  words[4] = 12_345;
  flows.put(0, words, 0, 3, 2);
  flows.delete(0);
  settle();
  t.true(flows.subtables[0]!.table.length < 1 << 19);
  for (let id = 262_140; id < 262_144; id++) t.is(flows.get(id)!.id, id);
});

test('the union of masks grows and shrinks with the flows', (t) => {
  const flows = table();
  const put = (id: number, word: number, mask: number): void =>
    flows.put(id, [0, 1, 0xffffffff, word, 0, mask, ...output(2)], 0, 2, 2);
  flows.put(0, [0, 1, 0xffffffff, ...output(2)], 0, 1, 2);
  t.true(flows.ports[1]!.simple);
  put(1, 8, 0xffffff00);
  put(2, 8, 0xff);
  put(3, 5, 0x1fff);
  t.false(flows.ports[1]!.simple);
  t.deepEqual(
    [...flows.ports[1]!.union].filter((bits) => bits !== 0),
    [0x1fff, 0xffffffff],
  );
  flows.delete(2);
  flows.delete(3);
  t.deepEqual(
    [...flows.ports[1]!.union].filter((bits) => bits !== 0),
    [0xffffff00],
  );
  flows.delete(1);
  t.true(flows.ports[1]!.simple);
  flows.delete(0);
  t.is(flows.ports[1], undefined);
  t.is(flows.masks, 0);
});

test('a flow that does not match in_port wholly, or has an unsound program, is refused', (t) => {
  const flows = table();
  const refused = { instanceOf: RangeError };
  t.throws(() => flows.put(0, [0, 1, 0xffff, ...output(2)], 0, 1, 2), refused);
  t.throws(() => flows.put(0, [8, 1, 0xffffffff, ...output(2)], 0, 1, 2), refused);
  t.throws(() => flows.put(0, [0, 5000, 0xffffffff, ...output(2)], 0, 1, 2), refused);
  t.throws(() => flows.put(-1, [0, 1, 0xffffffff], 0, 1, 0), refused);
  t.throws(() => flows.put(0, [0, 1, 0xffffffff, 77 << 16, 0, 0], 0, 1, 3), refused);
  t.is(flows.count, 0);
});
