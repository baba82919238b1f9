/**
 * The messages of proto/ringway.proto at run time: protobuf coding, and the JSON schemas of the API, made from the same
 * definitions. A message in memory is a plain object with lowerCamelCase names, as protobufjs has it.
 */
import { readFileSync } from 'node:fs';
import protobuf from 'protobufjs';
import { CONSTRAINTS, REQUIRED } from './constraints.ts';

const source = readFileSync(new URL('../../proto/ringway.proto', import.meta.url), 'utf8');
const { root } = protobuf.parse(source, { alternateCommentMode: true });
const namespace = root.lookup('ringway.v1') as protobuf.Namespace;

export type Message = object;
export type JsonSchema = Record<string, unknown>;

const typeOf = (name: string): protobuf.Type => namespace.lookupType(name);

export const MESSAGE_NAMES: readonly string[] = namespace.nestedArray
  .filter((entry) => entry instanceof protobuf.Type)
  .map((entry) => entry.name);

export function encodeMessage(name: string, message: Message): Buffer {
  const type = typeOf(name);
  return Buffer.from(type.encode(type.fromObject(message)).finish());
}

/** @returns only what was set. 64-bit numbers become plain ones. @throws Error when the bytes are not such a message. */
export function decodeMessage(name: string, bytes: Uint8Array): Message {
  const type = typeOf(name);
  return type.toObject(type.decode(bytes), { longs: Number });
}

const INTEGERS: Readonly<Record<string, JsonSchema>> = {
  uint32: { type: 'integer', minimum: 0, maximum: 0xffffffff },
  int32: { type: 'integer', minimum: -0x80000000, maximum: 0x7fffffff },
  uint64: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
};

function valueSchema(type: string): JsonSchema {
  if (type in INTEGERS) return INTEGERS[type]!;
  if (type === 'double') return { type: 'number' };
  if (type === 'bool') return { type: 'boolean' };
  if (type === 'string') return { type: 'string' };
  return { $ref: `${type}#` };
}

function fieldSchema(owner: string, field: protobuf.Field): JsonSchema {
  const limits = CONSTRAINTS[`${owner}.${field.name}`] ?? {};
  const described = field.comment ? { description: field.comment } : {};
  if (field instanceof protobuf.MapField) {
    const values = { ...valueSchema(field.type), ...limits };
    return {
      type: 'object',
      additionalProperties: values,
      propertyNames: { minLength: 1, maxLength: 255 },
      ...described,
    };
  }
  if (field.repeated) {
    const { maxItems, ...item } = limits as { maxItems?: number };
    const bound = maxItems === undefined ? {} : { maxItems };
    return { type: 'array', items: { ...valueSchema(field.type), ...item }, ...bound, ...described };
  }
  const value = valueSchema(field.type);
  return value.$ref ? value : { ...value, ...limits, ...described };
}

/** JSON schema of a message; others are referred to by `$id`. Unknown names are refused. */
export function messageSchema(name: string): JsonSchema {
  const type = typeOf(name);
  const properties = Object.fromEntries(
    type.fieldsArray.map((field) => [field.name, fieldSchema(name, field.resolve())]),
  );
  const single = type.oneofsArray.some(
    (group) => group.fieldsArray.length === type.fieldsArray.length && group.fieldsArray.length > 1,
  );
  return {
    $id: name,
    type: 'object',
    properties,
    additionalProperties: false,
    ...(type.comment ? { description: type.comment } : {}),
    ...(REQUIRED[name] ? { required: REQUIRED[name] } : {}),
    ...(single ? { minProperties: 1, maxProperties: 1 } : {}),
  };
}
