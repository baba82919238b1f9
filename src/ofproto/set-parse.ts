/** Reads the actions that change fields: set_field, load, move and the mod_* of OpenFlow 1.0. */
import { VLAN_PRESENT } from '#contract/flow-key.ts';
import type { Action, LegacySetName, SetFieldAction } from './actions.ts';
import { legacySetFields } from './actions.ts';
import { RequestError } from './api.ts';
import { ipv4Number, macNumber, parseFieldValue } from './field-parse.ts';
import { type Field, fieldOf } from './fields.ts';
import { fieldWrites, subfieldMask } from './key.ts';
import type { PortNames } from './ofp-port.ts';
import { operandField, parseSubfield } from './subfield-parse.ts';
import { clip, parseBounded, parseUnsigned } from './text.ts';

export function badAction(name: string, message: string, hint = '', code = 'bad_action'): RequestError {
  return new RequestError(code, message, { field: `actions.${name}`, hint });
}

function setField(form: SetFieldAction['form'], field: Field, value: bigint, mask: bigint): SetFieldAction {
  return { kind: 'set_field', form, field, value, mask, writes: fieldWrites(field, value, mask) };
}

function checkWritable(form: string, field: Field): void {
  if (field.writable) return;
  const hint =
    field.name === 'dl_vlan' || field.name === 'dl_vlan_pcp'
      ? 'use mod_vlan_vid, mod_vlan_pcp, vlan_vid or vlan_pcp'
      : '';
  throw badAction(form, `${field.name} is read-only`, hint);
}

const arrow = (form: string, text: string): [string, string] => {
  const at = text.indexOf('->');
  if (at < 0) throw badAction(form, `${clip(text)}: missing \`->'`, `${form}:VALUE->FIELD`);
  return [text.slice(0, at), text.slice(at + 2)];
};

/** `set_field:VALUE[/MASK]->FIELD` */
export function parseSetField(text: string, names: PortNames): Action {
  const [valueText, name] = arrow('set_field', text);
  const field = operandField(name);
  if (!field) throw badAction('set_field', `${clip(name)} is not a valid OXM field name`);
  checkWritable('set_field', field);
  if (valueText === '' || valueText === '*')
    throw badAction('set_field', `${valueText}: bad syntax for ${field.name} value`);
  const { value, mask } = parseFieldValue(field, valueText, names);
  if (mask === 0n) throw badAction('set_field', `${clip(text)}: the mask is zero`, '', 'OFPBAC_BAD_SET_MASK');
  if ((value & ~mask) !== 0n) {
    throw badAction(
      'set_field',
      `${clip(text)}: value has bits outside of the mask`,
      'clear them or widen the mask',
      'OFPBMC_BAD_WILDCARDS',
    );
  }
  if (field.name === 'vlan_vid' && mask === field.fullMask && (value & BigInt(VLAN_PRESENT)) === 0n) {
    const hint = `set_field:${value + BigInt(VLAN_PRESENT)}->vlan_vid or mod_vlan_vid:${value}`;
    throw badAction('set_field', `Invalid value for set field vlan_vid: ${value}`, hint, 'OFPBAC_BAD_SET_ARGUMENT');
  }
  return setField('set_field', field, value, mask);
}

/** `load:VALUE->FIELD[a..b]` */
export function parseLoad(text: string): Action {
  const [valueText, name] = arrow('load', text);
  const part = parseSubfield(name);
  checkWritable('load', part.field);
  const value = parseUnsigned(valueText);
  if (value === undefined) throw badAction('load', `${clip(text)}: cannot parse integer value`);
  if (value >> BigInt(part.bits) !== 0n) {
    throw badAction('load', `${clip(text)}: value ${valueText} does not fit into ${part.bits} bits`);
  }
  const bits = value << BigInt(part.offset);
  const mask = subfieldMask(part);
  if ((bits & ~mask) !== 0n) {
    throw badAction('load', `Invalid value for set field ${part.field.name}: ${value}`, '', 'OFPBAC_BAD_SET_ARGUMENT');
  }
  return setField('load', part.field, bits, mask);
}

/** `move:FIELD[a..b]->FIELD[c..d]` */
export function parseMove(text: string): Action {
  const [from, to] = arrow('move', text);
  const source = parseSubfield(from);
  const destination = parseSubfield(to);
  checkWritable('move', destination.field);
  if (source.bits !== destination.bits) {
    const wide = `source field is ${source.bits} bits wide but destination is ${destination.bits} bits wide`;
    throw badAction('move', `${clip(text)}: ${wide}`);
  }
  return { kind: 'move', source, destination };
}

/** `mod_dl_src:MAC` and the other setters of OpenFlow 1.0. */
export function parseLegacySet(name: LegacySetName, text: string): Action {
  const value = legacyValue(name, text);
  const field = fieldOf(legacySetFields[name]);
  return { kind: 'legacy_set', name, value, writes: fieldWrites(field, value, field.fullMask) };
}

function legacyValue(name: LegacySetName, text: string): bigint {
  switch (name) {
    case 'mod_dl_src':
    case 'mod_dl_dst': {
      const mac = macNumber(text);
      if (mac === undefined) throw badAction(name, `invalid mac address ${clip(text)}`);
      return mac;
    }
    case 'mod_nw_src':
    case 'mod_nw_dst': {
      const address = ipv4Number(text);
      if (address === undefined) throw badAction(name, `${clip(text)}: could not convert to IP address`);
      return address;
    }
    case 'mod_nw_tos': {
      const tos = parseBounded(text, 'TOS', 255);
      if (tos & 3) throw badAction(name, `${tos}: not a valid TOS`, `mod_nw_tos:${tos & 0xfc},mod_nw_ecn:${tos & 3}`);
      return BigInt(tos);
    }
    case 'mod_nw_ecn': {
      const ecn = parseBounded(text, 'ECN', 255);
      if (ecn > 3) throw badAction(name, `${ecn}: not a valid ECN`, '0 to 3');
      return BigInt(ecn);
    }
    case 'mod_nw_ttl':
      return BigInt(parseBounded(text, 'TTL', 255));
    case 'mod_tp_src':
      return BigInt(parseBounded(text, 'source port', 65535));
    case 'mod_tp_dst':
      return BigInt(parseBounded(text, 'destination port', 65535));
  }
}

export function parseModVlan(name: 'mod_vlan_vid' | 'mod_vlan_pcp', text: string): Action {
  if (name === 'mod_vlan_vid') {
    const vid = parseBounded(text, 'VLAN VID', 65535);
    if (vid > 4095) throw badAction(name, `${vid}: not a valid VLAN VID`, '0 to 4095');
    return { kind: 'mod_vlan_vid', vid };
  }
  const pcp = parseBounded(text, 'VLAN PCP', 65535);
  if (pcp > 7) throw badAction(name, `${pcp}: not a valid VLAN PCP`, '0 to 7');
  return { kind: 'mod_vlan_pcp', pcp };
}
