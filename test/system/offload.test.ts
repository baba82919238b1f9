/**
 * Frames with offload fields through the whole switch, from a guest that leaves checksums and segmentation to it, to guests
 * that take such frames as they are, in part, or not at all, with edits on the way. What each guest must get is built header
 * by header, and compared byte by byte.
 */
import test from 'ava';
import fc from 'fast-check';
import { DEFAULT_FEATURES, type Feature, OFFLOAD_FEATURES, type Offload, type VirtioPort } from '#guest/index.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import {
  eth,
  faultOf,
  filler,
  ipv4,
  ipv6,
  ipv6Fragment,
  ipv6Options,
  type Layer,
  packet,
  pseudoSum,
  tcp,
  u16,
  udp,
  vlan,
} from '../support/packets.ts';
import { until } from '../support/process.ts';
import { type SwitchProcess, withSwitch } from '../support/switch.ts';

const NEEDS_CSUM = 1;
const TCPV4 = 1;
const UFO = 3;
const TCPV6 = 4;
const USO = 5;
const ECN = 0x80;

interface Receiver {
  features: readonly Feature[];
  /** Takes partial checksums. */
  checksum: boolean;
  /** GSO types that it takes. */
  gso: readonly number[];
}

/** By port: vhost1 on. */
const RECEIVERS: readonly Receiver[] = [
  {
    features: [...DEFAULT_FEATURES, ...OFFLOAD_FEATURES, 'GUEST_ECN', 'GUEST_UFO', 'GUEST_USO4', 'GUEST_USO6'],
    checksum: true,
    gso: [TCPV4, TCPV6, TCPV4 | ECN, TCPV6 | ECN, UFO, USO],
  },
  { features: [...DEFAULT_FEATURES, 'GUEST_CSUM', 'GUEST_TSO4', 'GUEST_UFO'], checksum: true, gso: [TCPV4, UFO] },
  { features: DEFAULT_FEATURES, checksum: false, gso: [] },
  // Legacy, with the header of 10 bytes.
  { features: ['INDIRECT_DESC', 'ANY_LAYOUT'], checksum: false, gso: [] },
];
const ALL = RECEIVERS.map((_, i) => `output:vhost${i + 1}`).join();

interface Shape {
  six: boolean;
  /** IPv6 extension header. */
  extension: boolean;
  /** `ufo` becomes fragments, `uso` datagrams. */
  kind: 'tso' | 'uso' | 'ufo' | 'tcp' | 'udp';
  bytes: number;
  mss: number;
  ecn: boolean;
  vids: number[];
  port: number;
}

/** What flows change. */
interface Edit {
  v4?: string;
  v6?: string;
  sport?: number;
  ttl?: number;
}

const SEQ = 0xffff_f000;
const ID = 0xfffe;
const FIN_PSH_CWR = 0x89;
const LONGEST = 60_000;
const PAYLOAD = filler(LONGEST, 5);

const linkOf = (shape: Shape): Layer[] => [eth(), ...shape.vids.map((vid) => vlan({ vid }))];
const overUdp = ({ kind }: Shape): boolean => kind === 'udp' || kind === 'uso' || kind === 'ufo';

/** Builds the frame of a shape, or its part from payload byte `from` to `to`, the k-th of several. */
function build(shape: Shape, edit: Edit = {}, from = 0, to = shape.bytes, k = 0): Uint8Array {
  const layers = linkOf(shape);
  if (shape.six) {
    layers.push(ipv6({ src: edit.v6 ?? 'fd00::1', hopLimit: edit.ttl ?? 64 }));
    if (shape.extension) layers.push(ipv6Options(60));
  } else {
    layers.push(ipv4({ src: edit.v4 ?? '10.0.0.1', ttl: edit.ttl ?? 64, id: ID + k }));
  }
  const ports = { src: edit.sport ?? 1000, dst: shape.port };
  // FIN and PSH go with the last segment, CWR with the first (RFC 3168 section 6.1.2).
  const drop = (to < shape.bytes ? 0x09 : 0) | (k > 0 || !shape.ecn ? 0x80 : 0);
  const flags = 0x10 | (FIN_PSH_CWR & ~drop);
  const transport = overUdp(shape)
    ? udp(ports)
    : tcp({ ...ports, seq: (SEQ + from) >>> 0, flags, options: filler(12) });
  return packet(...layers, transport, PAYLOAD.subarray(from, to));
}

/** The fragments of a datagram; the identification, which IPv6 leaves to whoever cuts, is 0 there. */
function fragments(shape: Shape, edit: Edit): Uint8Array[] {
  const frame = build(shape, edit);
  const l3 = l3Of(shape);
  const unit = shape.mss & ~7;
  const rest = frame.subarray(l3 + (shape.six ? 40 : 20));
  if (rest.length <= shape.mss) return [frame];
  return Array.from({ length: Math.ceil(rest.length / unit) }, (_, k) => {
    const part = { offset: (k * unit) / 8, more: (k + 1) * unit < rest.length };
    const bytes = rest.subarray(k * unit, (k + 1) * unit);
    const nextHeader = shape.extension ? 60 : 17;
    const headers = shape.six
      ? [ipv6({ src: edit.v6 ?? 'fd00::1', hopLimit: edit.ttl ?? 64 }), ipv6Fragment({ ...part, id: 0, nextHeader })]
      : [
          ipv4({
            src: edit.v4 ?? '10.0.0.1',
            ttl: edit.ttl ?? 64,
            id: ID,
            protocol: 17,
            offset: part.offset,
            moreFragments: part.more,
          }),
        ];
    return packet(...linkOf(shape), ...headers, bytes);
  });
}

const l3Of = (shape: Shape): number => 14 + 4 * shape.vids.length;
const l4Of = (shape: Shape): number => l3Of(shape) + (shape.six ? (shape.extension ? 48 : 40) : 20);
const fieldOf = (shape: Shape): number => (overUdp(shape) ? 6 : 16);
const gsoOf = ({ kind, six, ecn }: Shape): number => {
  if (kind === 'tso') return (six ? TCPV6 : TCPV4) | (ecn ? ECN : 0);
  return kind === 'uso' ? USO : kind === 'ufo' ? UFO : 0;
};

/** The frame with the sum of the pseudo header in place of its checksum (virtio 1.2 section 5.1.6.2). */
function unfinished(shape: Shape, edit: Edit = {}): Uint8Array {
  const frame = build(shape, edit);
  const l3 = l3Of(shape);
  const l4 = l4Of(shape);
  const [src, bytes] = shape.six ? [l3 + 8, 16] : [l3 + 12, 4];
  const around = { src: frame.subarray(src, src + bytes), dst: frame.subarray(src + bytes, src + 2 * bytes) };
  frame.set(u16(pseudoSum(around, overUdp(shape) ? 17 : 6, frame.length - l4)), l4 + fieldOf(shape));
  return frame;
}

const offloadOf = (shape: Shape): Required<Offload> => ({
  flags: NEEDS_CSUM,
  gsoType: gsoOf(shape),
  gsoSize: gsoOf(shape) === 0 ? 0 : shape.mss,
  headerLength: gsoOf(shape) === 0 ? 0 : l4Of(shape) + (overUdp(shape) ? 8 : 32),
  csumStart: l4Of(shape),
  csumOffset: fieldOf(shape),
});
const NOTHING: Required<Offload> = {
  flags: 0,
  gsoType: 0,
  gsoSize: 0,
  headerLength: 0,
  csumStart: 0,
  csumOffset: 0,
};

interface Expected {
  frame: Uint8Array;
  header: Required<Offload>;
}

/** What this receiver must get of a frame that leaves the switch with this shape and these edits. */
function expected(receiver: Receiver, shape: Shape, edit: Edit): Expected[] {
  const gso = gsoOf(shape);
  if (gso !== 0 ? receiver.gso.includes(gso) : receiver.checksum)
    return [{ frame: unfinished(shape, edit), header: offloadOf(shape) }];
  if (gso === 0) return [{ frame: build(shape, edit), header: NOTHING }];
  if (gso === UFO) return fragments(shape, edit).map((frame) => ({ frame, header: NOTHING }));
  const segments: Expected[] = [];
  for (let k = 0; k * shape.mss < shape.bytes; k++) {
    const to = Math.min((k + 1) * shape.mss, shape.bytes);
    segments.push({ frame: build(shape, edit, k * shape.mss, to, k), header: NOTHING });
  }
  return segments;
}

type Outcome = [shape: Shape, edit: Edit][];
const EDIT: Edit = { v4: '10.9.8.7', v6: 'fd00::9:8', sport: 77, ttl: 63 };
const same = (shape: Shape): Outcome => RECEIVERS.map(() => [shape, {}]);
const pushed = (shape: Shape): Shape => ({ ...shape, vids: [5, ...shape.vids] });
const PUSH = 'push_vlan:0x8100,set_field:4101->vlan_vid';

/** Cases by destination port: what the flows do, and what shape and edits each receiver sees. */
const CASES: { actions: (six: boolean) => string; outcome: (shape: Shape) => Outcome }[] = [
  { actions: () => ALL, outcome: same },
  { actions: () => 'NORMAL', outcome: same },
  { actions: () => `${PUSH},${ALL}`, outcome: (shape) => same(pushed(shape)) },
  {
    actions: () => `strip_vlan,${ALL}`,
    outcome: (shape) => same({ ...shape, vids: shape.vids.slice(1) }),
  },
  {
    actions: (six) =>
      `${six ? 'set_field:fd00::9:8->ipv6_src' : 'mod_nw_src:10.9.8.7'},mod_tp_src:77,dec_ttl,${PUSH},${ALL}`,
    outcome: (shape) => RECEIVERS.map(() => [pushed(shape), EDIT]),
  },
  {
    // Edits between two outputs: the second pair gets a copy.
    actions: (six) =>
      `output:vhost1,output:vhost3,${six ? 'set_field:fd00::9:8->ipv6_src' : 'mod_nw_src:10.9.8.7'},mod_tp_src:77,dec_ttl,` +
      `${PUSH},output:vhost2,output:vhost4`,
    outcome: (shape) => RECEIVERS.map((_, i) => (i % 2 === 0 ? [shape, {}] : [pushed(shape), EDIT])),
  },
];
const FIRST_PORT = 2000;

const textOf = ({ frame, header }: Expected): string =>
  `${JSON.stringify(header)} ${Buffer.from(frame).toString('base64')}`;

/** A frame whose identification in an IPv6 fragment header is 0. */
function unnamed(frame: Uint8Array): Uint8Array {
  let at = 12;
  while (frame[at] === 0x81) at += 4;
  if (frame[at] === 0x86 && frame[at + 2 + 6] === 44) frame.fill(0, at + 2 + 44, at + 2 + 48);
  return frame;
}

/**
 * Sends all frames and waits until every receiver has as many as it must get; compares them. Frames of one shape keep their
 * order; the first of a flow may be overtaken by those of others.
 */
async function exchange(from: VirtioPort, to: VirtioPort[], shapes: Shape[]): Promise<void> {
  for (const shape of shapes) {
    const sent = from.queue(0).send([unfinished(shape)], offloadOf(shape));
    if (sent !== 1) throw new Error('the ring of the sender is full');
  }
  for (const [i, port] of to.entries()) {
    const wanted = shapes.map((shape) =>
      expected(RECEIVERS[i]!, ...CASES[shape.port - FIRST_PORT]!.outcome(shape)[i]!),
    );
    const total = wanted.reduce((sum, { length }) => sum + length, 0);
    const got: Expected[] = [];
    const count = (): string => `vhost${i + 1}: ${got.length} of ${total} frames; ${JSON.stringify(shapes)}`;
    const take = (): boolean => {
      for (const { frame, ...header } of port.queue(0).receiveWithOffload())
        got.push({ frame: unnamed(frame), header });
      return got.length >= total;
    };
    await until('all frames', take, PATIENCE_MS, count);
    if (got.length !== total) throw new Error(count());
    const texts = got.map(textOf);
    for (const [s, frames] of wanted.entries()) {
      let last = -1;
      for (const [k, frame] of frames.entries()) {
        last = texts.indexOf(textOf(frame), last + 1);
        if (last < 0) throw new Error(`vhost${i + 1}, frame ${k} of ${JSON.stringify(shapes[s])} is not as it must be`);
        texts[last] = '';
        const fault = frame.header.flags === 0 ? faultOf(got[last]!.frame) : undefined;
        if (fault) throw new Error(`vhost${i + 1}, frame ${k} of ${JSON.stringify(shapes[s])}: ${fault}`);
      }
    }
  }
}

async function prepare(sw: SwitchProcess): Promise<[VirtioPort, VirtioPort[]]> {
  for (let i = 2; i <= RECEIVERS.length; i++) {
    await sw.vsctl('add-port', 'br0', `vhost${i}`, '--', 'set', 'Interface', `vhost${i}`, 'type=vhost-user');
  }
  const features: Feature[] = [...DEFAULT_FEATURES, ...OFFLOAD_FEATURES, 'HOST_ECN', 'HOST_UFO', 'HOST_USO'];
  const from = await sw.guest('vhost0', { features, required: features });
  const to: VirtioPort[] = [];
  for (const [i, receiver] of RECEIVERS.entries()) {
    to.push(await sw.guest(`vhost${i + 1}`, { features: receiver.features, ringSize: 1024 }));
  }
  await sw.linkUp('vhost0', ...RECEIVERS.map((_, i) => `vhost${i + 1}`));
  await sw.ofctl('del-flows', 'br0');
  for (const [i, { actions }] of CASES.entries()) {
    for (const protocol of ['tcp', 'udp', 'tcp6', 'udp6']) {
      const flow = `${protocol},tp_dst=${FIRST_PORT + i},actions=${actions(protocol.endsWith('6'))}`;
      await sw.ofctl('-O', 'OpenFlow13', 'add-flow', 'br0', flow);
    }
  }
  return [from, to];
}

const shapes: fc.Arbitrary<Shape> = fc
  .record({
    six: fc.boolean(),
    extension: fc.boolean(),
    kind: fc.constantFrom<Shape['kind']>('tso', 'uso', 'ufo', 'tcp', 'udp'),
    bytes: fc.integer({ min: 1, max: LONGEST }),
    mss: fc.integer({ min: 536, max: 1400 }),
    ecn: fc.boolean(),
    vids: fc.constantFrom<number[]>([], [7]),
    port: fc.integer({ min: FIRST_PORT, max: FIRST_PORT + CASES.length - 1 }),
  })
  .map((shape) => ({ ...shape, bytes: gsoOf(shape) !== 0 ? shape.bytes : shape.bytes % 1400 }));

/** Its 19th segment has a TCP checksum of 0. */
const ZERO_SUM: Shape = {
  six: false,
  extension: false,
  kind: 'tso',
  bytes: 20 * 1352,
  mss: 1352,
  ecn: false,
  vids: [],
  port: FIRST_PORT + 2,
};

test.serial('every guest gets offload frames as it negotiated: carried, completed or segmented', async (t) => {
  t.timeout(240_000);
  await withSwitch(['--default'], async (sw) => {
    const [from, to] = await prepare(sw);
    const body = (burst: Shape[]): Promise<void> => exchange(from, to, burst);
    await fc.assert(fc.asyncProperty(fc.array(shapes, { minLength: 1, maxLength: 6 }), body), {
      numRuns: 60,
      endOnFailure: true,
      examples: [[[ZERO_SUM]]],
    });
    t.pass();
    t.log((await sw.vsctl('get', 'Interface', 'vhost3', 'statistics')).trim());
  });
});

test.serial(
  'offloads that an option switches off are not offered to the next connection, nor taken from it',
  async (t) => {
    await withSwitch(['--default'], async (sw) => {
      await sw.ofctl('del-flows', 'br0');
      await sw.ofctl('add-flow', 'br0', 'in_port=vhost0,actions=output:vhost1');
      const refused = await sw.tool('rw-vsctl', 'set', 'Interface', 'vhost0', 'options:csum=off', 'options:tso4=on');
      t.not(refused.code, 0);
      t.regex(refused.stderr, /option tso4 is "on", but needs csum/);
      await sw.vsctl('set', 'Interface', 'vhost0', 'options:host_tso4=off', 'options:uso=off', 'options:ecn=off');
      t.regex(await sw.vsctl('get', 'Interface', 'vhost0', 'status:offloads_offered'), /host_tso6,host_ufo"?$/m);
      const features: Feature[] = [...DEFAULT_FEATURES, ...OFFLOAD_FEATURES, 'HOST_ECN', 'HOST_UFO', 'HOST_USO'];
      const from = await sw.guest('vhost0', { features });
      const to = await sw.guest('vhost1', { features: DEFAULT_FEATURES, ringSize: 1024 });
      await sw.linkUp('vhost0', 'vhost1');
      t.is(
        (await sw.vsctl('get', 'Interface', 'vhost0', 'status:offloads')).trim().replaceAll('"', ''),
        'guest_csum,csum,guest_tso4,guest_tso6,host_tso6,host_ufo',
      );
      const shape: Shape = {
        six: false,
        extension: false,
        kind: 'tso',
        bytes: 3000,
        mss: 1000,
        ecn: false,
        vids: [],
        port: 9,
      };
      const kinds: [Partial<Shape>, allowed: boolean][] = [
        [{}, false],
        [{ kind: 'uso' }, false],
        [{ six: true, ecn: true }, false],
        [{ six: true }, true],
        [{ kind: 'ufo' }, true],
      ];
      for (const [change] of kinds) {
        const one = { ...shape, ...change };
        from.queue(0).send([unfinished(one)], offloadOf(one));
      }
      let got = 0;
      const arrived = (): boolean => {
        got += to.queue(0).receive().length;
        return got >= 3 + 4;
      };
      await until('the segments of the two frames that are allowed', arrived, PATIENCE_MS);
      t.is(got, 3 + 4);
      const counted = async () => /vhost0\s+rx_bad_offload\s+3\b/.test(await sw.appctl('drops'));
      await until('the others to be counted', counted, PATIENCE_MS);
    });
  },
);
