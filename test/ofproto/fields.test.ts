import test from 'ava';
import { fields, findField, findHeader, headerName, isUnsupportedField } from '#ofproto/fields.ts';
import { OF_KEY_WORDS, readField, writeField } from '#ofproto/key.ts';
import { prerequisites } from '#ofproto/match.ts';

test('pieces lie inside the key and add up to the width', (t) => {
  for (const { name, pieces, bits, fullMask, prerequisite } of fields) {
    t.is(
      pieces.reduce((sum, piece) => sum + piece.bits, 0),
      bits,
      name,
    );
    for (const piece of pieces) {
      t.true(piece.word < OF_KEY_WORDS && piece.shift + piece.bits <= 32, name);
    }
    t.true(fullMask >> BigInt(bits) === 0n, name);
    t.truthy(prerequisites[prerequisite], name);
  }
});

test('names, aliases and OXM headers are each used once', (t) => {
  const names = fields.flatMap(({ name, aliases }) => [name, ...aliases]);
  t.is(new Set(names).size, names.length);
  const headers = fields.flatMap(({ nxm, oxm }) => [nxm, oxm].filter((one) => one !== undefined));
  const ids = headers.map(({ oxmClass, experimenter, number }) => `${oxmClass}/${experimenter}/${number}`);
  t.is(new Set(ids).size, ids.length);
});

test('fields are found by name, alias and header name', (t) => {
  t.is(findField('dl_src'), findField('eth_src'));
  t.is(findHeader('NXM_OF_IP_SRC'), findField('nw_src'));
  t.is(findHeader('OXM_OF_IPV4_SRC'), findField('nw_src'));
  t.is(headerName(findField('sctp_src')!), 'OXM_OF_SCTP_SRC');
  t.is(findField('constructor'), undefined);
});

test('every field of ovs-fields(7) that is not there is known as unsupported', (t) => {
  for (const name of [
    'ct_state',
    'ct_label',
    'tun_gbp_id',
    'tun_metadata63',
    'mpls_label',
    'nsh_c4',
    'recirc_id',
    'nd_reserved',
  ]) {
    t.true(isUnsupportedField(name), name);
  }
  t.false(isUnsupportedField('tun_metadata64'));
  for (const { name } of fields) t.false(isUnsupportedField(name), name);
});

test('a field reads back what was written and touches no other bit', (t) => {
  for (const field of fields) {
    const row = new Uint32Array(OF_KEY_WORDS).fill(0xffffffff);
    const value = 0x5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5an & ((1n << BigInt(field.bits)) - 1n);
    writeField(row, field, value, (1n << BigInt(field.bits)) - 1n);
    t.is(readField(row, field), value, field.name);
    writeField(row, field, (1n << BigInt(field.bits)) - 1n, (1n << BigInt(field.bits)) - 1n);
    t.true(
      row.every((word) => word === 0xffffffff),
      field.name,
    );
  }
});
