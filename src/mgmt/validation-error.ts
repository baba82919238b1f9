/** What ajv found wrong, said in terms of the request. */
import type { FastifyError } from 'fastify';
import { RequestError } from '#ofproto/api.ts';
import { nearest } from './options.ts';

type Found = NonNullable<FastifyError['validation']>[number];

/** `/mods/3/flow` → `mods[3].flow` */
const fieldOf = (pointer: string): string =>
  pointer
    .split('/')
    .slice(1)
    .map((part) => part.replace(/~1/g, '/').replace(/~0/g, '~'))
    .reduce((path, part) => (/^\d+$/.test(part) ? `${path}[${part}]` : path ? `${path}.${part}` : part), '');

const join = (path: string, name: unknown): string => (path ? `${path}.${name}` : String(name));

export function validationError(error: FastifyError): RequestError {
  const found = error.validation![0]!;
  const at = fieldOf(found.instancePath);
  const { field, message, hint } = explain(found, at);
  return new RequestError('invalid_request', message, { field: field || error.validationContext || 'body', hint });
}

function explain(found: Found, at: string): { field: string; message: string; hint: string } {
  const params = found.params as Record<string, unknown>;
  const text = `${at || 'it'} ${found.message ?? 'is not valid'}`;
  switch (found.keyword) {
    case 'required': {
      const field = join(at, params.missingProperty);
      return { field, message: `${field} is missing`, hint: `give ${params.missingProperty}` };
    }
    case 'additionalProperties': {
      const field = join(at, params.additionalProperty);
      return { field, message: `unknown field ${field}`, hint: suggestion(String(params.additionalProperty), found) };
    }
    case 'enum':
      return {
        field: at,
        message: text,
        hint: `use one of: ${(params.allowedValues as unknown[]).filter((v) => v !== '').join(', ')}`,
      };
    case 'type':
      return { field: at, message: text, hint: `give a value of type ${params.type}` };
    case 'minProperties':
    case 'maxProperties':
      return { field: at, message: text, hint: 'set exactly one field' };
    default:
      return { field: at, message: text, hint: '' };
  }
}

function suggestion(name: string, found: Found): string {
  const schema = (found as { parentSchema?: { properties?: object } }).parentSchema;
  const known = Object.keys(schema?.properties ?? {});
  const near = nearest(name, known);
  if (near) return `did you mean ${near}?`;
  return known.length > 0 ? `known fields: ${known.join(', ')}` : 'leave it out; see /openapi.json';
}
