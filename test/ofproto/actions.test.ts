import test from 'ava';
import fc from 'fast-check';
import { type Action, groupsOf, MAX_ACTIONS, outputsTo } from '#ofproto/actions.ts';
import { formatActions } from '#ofproto/actions-format.ts';
import { parseActions } from '#ofproto/actions-parse.ts';
import { fieldOf, fields } from '#ofproto/fields.ts';
import { applyWrites, OF_KEY_WORDS, readField, readSubfield, type Subfield, writeSubfield } from '#ofproto/key.ts';
import { OFPP_CONTROLLER, OFPP_IN_PORT } from '#ofproto/ofp-port.ts';
import { canonicalFlow, portNames } from './golden.ts';

const writable = fields.filter(
  (field) => field.writable && field.bits === field.subfieldBits && field.name !== 'nw_tos',
);

const subfields: fc.Arbitrary<Subfield> = fc
  .tuple(fc.constantFrom(...writable), fc.nat(), fc.nat())
  .map(([field, a, b]) => {
    const offset = a % field.bits;
    return { field, offset, bits: 1 + (b % Math.min(field.bits - offset, 64)) };
  });

const loads = fc
  .tuple(subfields, fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }))
  .map(([{ field, offset, bits }, value]) => {
    const name = field.nxm?.name ?? field.oxm?.name;
    return `load:${value & ((1n << BigInt(bits)) - 1n)}->${name}[${offset}..${offset + bits - 1}]`;
  });
const moves = fc.tuple(subfields, subfields).map(([from, to]) => {
  const bits = Math.min(from.bits, to.bits);
  const range = ({ field, offset }: Subfield) => `${field.name}[${offset}..${offset + bits - 1}]`;
  return `move:${range(from)}->${range(to)}`;
});
const ports = fc.oneof(fc.nat(0xfeff).map(String), fc.constantFrom('LOCAL', 'IN_PORT', 'p1'));
const others = fc.oneof(
  ports.map((port) => `output:${port}`),
  fc
    .tuple(ports, fc.integer({ min: 14, max: 2 ** 32 - 1 }))
    .map(([port, max]) => `output(port=${port},max_len=${max})`),
  fc.nat(65535).map((max) => `controller:${max}`),
  fc.tuple(ports, fc.nat(253)).map(([port, table]) => `resubmit(${port},${table})`),
  fc.nat(4095).map((vid) => `mod_vlan_vid:${vid}`),
  fc.nat(0xffffff00).map((group) => `group:${group}`),
  fc
    .uint8Array({ maxLength: 40 })
    .map((bytes) => `note:${Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('.')}`),
  fc.array(fc.nat(65535), { maxLength: 4 }).map((ids) => `dec_ttl(${ids.join(',')})`),
  fc.constantFrom(
    'NORMAL',
    'flood',
    'all',
    'strip_vlan',
    'push_vlan:0x88a8',
    'exit',
    'mod_nw_ttl:4',
    'mod_tp_dst:7',
    'mod_dl_src:1:2:3:4:5:6',
  ),
);
const instructions = fc.tuple(
  fc.constantFrom('', 'clear_actions'),
  fc.constantFrom('', 'write_actions(output:1,group:3)', 'write_actions(drop)'),
  fc
    .bigInt({ min: 0n, max: 2n ** 64n - 1n })
    .map((value) => (value % 3n === 0n ? '' : `write_metadata:${value}/0xff00`)),
  fc.constantFrom('', 'goto_table:7'),
);
const lists = fc
  .tuple(fc.array(fc.oneof(loads, moves, others), { maxLength: 12 }), instructions)
  .map(([plain, late]) => [...plain, ...late].filter(Boolean).join(','));

test('actions that are printed and read are printed the same, with the same effect on a key', (t) => {
  fc.assert(
    fc.property(lists, fc.uint32Array({ minLength: OF_KEY_WORDS, maxLength: OF_KEY_WORDS }), (text, key) => {
      const first = parseActions(text, portNames);
      const printed = formatActions(first);
      const second = parseActions(printed, portNames);
      if (formatActions(second) !== printed) return false;
      return effect(first, key).every((word, i) => word === effect(second, key)[i]);
    }),
    { numRuns: 2000 },
  );
  t.pass();
});

function effect(actions: readonly Action[], start: Uint32Array): Uint32Array {
  const key = start.slice();
  for (const action of actions) {
    if (action.kind === 'set_field' || action.kind === 'legacy_set') applyWrites(key, action.writes);
    if (action.kind === 'move') writeSubfield(key, action.destination, readSubfield(key, action.source));
  }
  return key;
}

test('what OpenFlow 1.0 cannot say is printed as it is read', (t) => {
  for (const text of [
    'push_vlan:0x8100,mod_vlan_vid:5,output:1',
    'output:1,clear_actions,write_actions(output:2),write_metadata:0x5/0xff,goto_table:2',
    'write_actions(output:1,group:3)',
    'load:0x1122->NXM_OF_ETH_DST[24..47]',
  ]) {
    t.is(formatActions(parseActions(text)), text);
  }
  t.is(
    canonicalFlow('actions=set_field:00:11:22:00:00:00/ff:ff:ff:00:00:00->eth_dst'),
    'actions=load:0x1122->NXM_OF_ETH_DST[24..47]',
  );
});

test('port names are printed where they are known, and quoted unless plain', (t) => {
  const names = {
    numberOf: () => undefined,
    nameOf: (port: number) => ({ 1: 'p1', 4: 'vhost-user0', 5: 'local' })[port],
  };
  const actions = parseActions('1,4,5,6,resubmit:4,resubmit(1,5),output(port=4,max_len=100),local');
  const expected =
    'output:p1,output:"vhost-user0",output:5,output:6,resubmit:"vhost-user0",resubmit(p1,5),output(port="vhost-user0",max_len=100),LOCAL';
  t.is(formatActions(actions, names), expected);
  const back = { ...names, numberOf: (name: string) => ({ p1: 1, 'vhost-user0': 4 })[name] };
  t.deepEqual(parseActions(expected, back), actions);
});

test('set_field and load say which key words they write', (t) => {
  const [action] = parseActions('set_field:00:11:22:33:44:55->eth_src') as [Extract<Action, { kind: 'set_field' }>];
  const key = new Uint32Array(OF_KEY_WORDS);
  applyWrites(key, action.writes);
  t.is(readField(key, fieldOf('eth_src')), 0x001122334455n);
  t.is(readField(key, fieldOf('eth_dst')), 0n);
});

test('resubmit to the packet’s own port keeps in_port', (t) => {
  t.like(parseActions('resubmit(,7)')[0], { kind: 'resubmit', port: OFPP_IN_PORT, table: 7 });
  t.like(parseActions('resubmit:3')[0], { kind: 'resubmit', port: 3, table: 255 });
});

test('outputs and groups are found in action sets too', (t) => {
  const actions = parseActions('1,controller,write_actions(group:7,output:2)');
  t.true(outputsTo(actions, 'output', 1));
  t.true(outputsTo(actions, 'output', 2));
  t.true(outputsTo(actions, 'output', OFPP_CONTROLLER));
  t.false(outputsTo(actions, 'output', 3));
  t.true(outputsTo(actions, 'group', 7));
  t.deepEqual(groupsOf(actions), [7]);
});

test('as many actions as are allowed are read', (t) => {
  t.is(parseActions(Array(MAX_ACTIONS).fill('1').join(',')).length, MAX_ACTIONS);
});

test('a port name is looked up anew each time, what names no port is read once', (t) => {
  const named = (port: number) => ({ numberOf: () => port, nameOf: () => undefined });
  t.like(parseActions('output:uplink', named(3))[0], { port: 3 });
  t.like(parseActions('output:uplink', named(4))[0], { port: 4 });
  t.is(parseActions('output:77,NORMAL', named(3)), parseActions('output:77,NORMAL', named(4)));
});
