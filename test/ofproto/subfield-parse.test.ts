import test from 'ava';
import { fieldOf } from '#ofproto/fields.ts';
import { formatSubfield, operandField, parseSubfield } from '#ofproto/subfield-parse.ts';
import { refusal } from './golden.ts';

test('an operand goes by name, alias or OXM/NXM name', (t) => {
  t.is(operandField('eth_src'), fieldOf('eth_src'));
  t.is(operandField('dl_src'), fieldOf('eth_src'));
  t.is(operandField('NXM_OF_ETH_SRC'), fieldOf('eth_src'));
  t.is(operandField('tp_dst'), fieldOf('tcp_dst'));
  t.is(operandField('nosuch'), undefined);
  t.is(
    refusal(() => operandField('ct_state')),
    'ct_state is not supported yet',
  );
});

test('bits are given as a whole, as one, or as a range', (t) => {
  const reg0 = fieldOf('reg0');
  t.deepEqual(parseSubfield('reg0'), { field: reg0, offset: 0, bits: 32 });
  t.deepEqual(parseSubfield('NXM_NX_REG0[]'), { field: reg0, offset: 0, bits: 32 });
  t.deepEqual(parseSubfield('reg0[31]'), { field: reg0, offset: 31, bits: 1 });
  t.deepEqual(parseSubfield('reg0[4..7]'), { field: reg0, offset: 4, bits: 4 });
});

test('the shortest form is printed, and reads back', (t) => {
  for (const text of ['NXM_NX_REG0[]', 'NXM_NX_REG0[0]', 'NXM_NX_REG0[0..30]', 'NXM_OF_IP_SRC[8..15]'])
    t.is(formatSubfield(parseSubfield(text)), text);
  t.is(formatSubfield(parseSubfield('reg0[0..31]')), 'NXM_NX_REG0[]');
  t.is(formatSubfield(parseSubfield('reg0[3..3]')), 'NXM_NX_REG0[3]');
});

for (const [text, message] of [
  ['reg0[7..4]', 'reg0[7..4]: starting bit 7 is after ending bit 4'],
  ['reg0[32]', 'reg0[32]: starting bit 32 is not valid because field is only 32 bits wide'],
  ['reg0[0..32]', 'reg0[0..32]: ending bit 32 is not valid because field is only 32 bits wide'],
  ['nosuch[]', "nosuch[]: unknown field `nosuch'"],
  ['reg0[', 'reg0[: syntax error: expected FIELD, FIELD[] or FIELD[first..last]'],
  ['reg0[-1]', 'reg0[-1]: syntax error: expected FIELD, FIELD[] or FIELD[first..last]'],
] as const) {
  test(`${text} is refused`, (t) =>
    t.is(
      refusal(() => parseSubfield(text)),
      message,
    ));
}
