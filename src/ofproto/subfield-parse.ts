/** `FIELD`, `FIELD[]`, `FIELD[n]` and `FIELD[a..b]` of ovs-actions(7). */
import { RequestError } from './api.ts';
import { type Field, findField, findHeader, headerName, isUnsupportedField } from './fields.ts';
import { type Subfield, wholeField } from './key.ts';
import { clip } from './text.ts';

/** Field of an action's operand: a name, an alias or an OXM/NXM name; `tp_src` and `tp_dst` are those of TCP, as in OVS. */
export function operandField(name: string): Field | undefined {
  if (isUnsupportedField(name)) throw new RequestError('unsupported', `${name} is not supported yet`, { field: name });
  return findField(name) ?? findHeader(name) ?? findField(name.replace(/^tp_(src|dst)$/, 'tcp_$1'));
}

/** @throws RequestError in the words of ovs-ofctl. */
export function parseSubfield(text: string): Subfield {
  const fail = (message: string): never => {
    throw new RequestError('bad_value', `${clip(text)}: ${message}`, { field: clip(text) });
  };
  const found = /^([A-Za-z0-9_]+)(?:\[(?:([0-9]{1,4})(?:\.\.([0-9]{1,4}))?)?\])?$/.exec(text);
  if (!found) return fail('syntax error: expected FIELD, FIELD[] or FIELD[first..last]');
  const [, name, first, last] = found;
  const field = operandField(name!);
  if (!field) return fail(`unknown field \`${clip(name!)}'`);
  if (first === undefined) return wholeField(field);
  const from = Number(first);
  const to = last === undefined ? from : Number(last);
  const wide = `because field is only ${field.subfieldBits} bits wide`;
  if (from > to) fail(`starting bit ${from} is after ending bit ${to}`);
  if (from >= field.subfieldBits) fail(`starting bit ${from} is not valid ${wide}`);
  if (to >= field.subfieldBits) fail(`ending bit ${to} is not valid ${wide}`);
  return { field, offset: from, bits: to - from + 1 };
}

/** `NXM_NX_REG0[]`, `NXM_NX_REG0[3]` or `NXM_NX_REG0[0..7]`. */
export function formatSubfield({ field, offset, bits }: Subfield): string {
  const name = headerName(field);
  if (offset === 0 && bits === field.subfieldBits) return `${name}[]`;
  return bits === 1 ? `${name}[${offset}]` : `${name}[${offset}..${offset + bits - 1}]`;
}
