import test from 'ava';
import type { SetFieldAction } from '#ofproto/actions.ts';
import { RequestError } from '#ofproto/api.ts';
import { fieldOf } from '#ofproto/fields.ts';
import { parseLegacySet, parseLoad, parseModVlan, parseMove, parseSetField } from '#ofproto/set-parse.ts';
import { portNames, refusal } from './golden.ts';

const setField = (text: string): SetFieldAction => parseSetField(text, portNames) as SetFieldAction;

test('set_field takes a value of its field, with a mask where one is given', (t) => {
  t.like(setField('10.0.0.1->ip_dst'), { field: fieldOf('ip_dst'), value: 0x0a000001n, mask: 0xffffffffn });
  t.like(setField('00:00:00:00:00:05/00:00:00:00:00:ff->eth_src'), { value: 5n, mask: 0xffn });
  t.like(setField('p2->in_port'), { value: 2n });
});

test('load places its value in the bits it names', (t) => {
  t.like(parseLoad('5->NXM_NX_REG1[8..11]'), { kind: 'set_field', form: 'load', value: 0x500n, mask: 0xf00n });
  t.like(parseLoad('0xffffffff->reg1'), { value: 0xffffffffn });
});

test('move joins two ranges of one width', (t) => {
  t.like(parseMove('eth_src[0..15]->reg0[16..31]'), {
    kind: 'move',
    source: { offset: 0, bits: 16 },
    destination: { offset: 16, bits: 16 },
  });
});

test('setters of OpenFlow 1.0 read addresses and numbers', (t) => {
  t.like(parseLegacySet('mod_dl_dst', '01:02:03:04:05:06'), { value: 0x010203040506n });
  t.like(parseLegacySet('mod_nw_src', '1.2.3.4'), { value: 0x01020304n });
  t.like(parseLegacySet('mod_nw_tos', '0x20'), { value: 32n });
  t.like(parseModVlan('mod_vlan_vid', '4095'), { vid: 4095 });
  t.like(parseModVlan('mod_vlan_pcp', '7'), { pcp: 7 });
});

const refusals: readonly (readonly [string, () => unknown, string])[] = [
  ['set_field without an arrow', () => setField('5'), "5: missing `->'"],
  ['set_field of no field', () => setField('5->nosuch'), 'nosuch is not a valid OXM field name'],
  ['set_field of nothing', () => setField('->reg0'), ': bad syntax for reg0 value'],
  ['set_field of a read-only field', () => setField('6->nw_proto'), 'nw_proto is read-only'],
  ['set_field under no bits', () => setField('0/0->reg0'), '0/0->reg0: the mask is zero'],
  ['a VLAN id without its tag', () => setField('5->vlan_vid'), 'Invalid value for set field vlan_vid: 5'],
  ['load of too wide a value', () => parseLoad('16->reg0[0..3]'), '16->reg0[0..3]: value 16 does not fit into 4 bits'],
  ['load of no number', () => parseLoad('x->reg0'), 'x->reg0: cannot parse integer value'],
  ['load of a read-only field', () => parseLoad('5->dl_vlan'), 'dl_vlan is read-only'],
  [
    'move between widths',
    () => parseMove('reg0[0..3]->reg1[]'),
    'reg0[0..3]->reg1[]: source field is 4 bits wide but destination is 32 bits wide',
  ],
  ['a TOS with ECN bits', () => parseLegacySet('mod_nw_tos', '33'), '33: not a valid TOS'],
  ['an ECN of three bits', () => parseLegacySet('mod_nw_ecn', '4'), '4: not a valid ECN'],
  ['a bad MAC address', () => parseLegacySet('mod_dl_src', '1:2:3'), 'invalid mac address 1:2:3'],
  ['a bad address', () => parseLegacySet('mod_nw_dst', '1.2.3'), '1.2.3: could not convert to IP address'],
  ['a bad port', () => parseLegacySet('mod_tp_dst', '65536'), 'invalid destination port "65536"'],
  ['a VLAN id of 13 bits', () => parseModVlan('mod_vlan_vid', '4096'), '4096: not a valid VLAN VID'],
  ['a VLAN priority of 4 bits', () => parseModVlan('mod_vlan_pcp', '8'), '8: not a valid VLAN PCP'],
];
for (const [what, run, message] of refusals) test(`${what} is refused`, (t) => t.is(refusal(run), message));

test('a refusal names the action, and how to put it right', (t) => {
  const error = t.throws(() => setField('5->vlan_vid'), { instanceOf: RequestError })!;
  t.like(error, {
    code: 'OFPBAC_BAD_SET_ARGUMENT',
    field: 'actions.set_field',
    hint: 'set_field:4101->vlan_vid or mod_vlan_vid:5',
  });
  t.like(
    t.throws(() => setField('0x10/0xf->reg0')),
    { code: 'OFPBMC_BAD_WILDCARDS' },
  );
});
