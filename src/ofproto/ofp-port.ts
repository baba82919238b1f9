/**
 * OpenFlow port numbers in their 16-bit form (OpenFlow 1.0 §5.2.1, `enum ofp_port`) and their texts in ovs-ofctl(8).
 */

export const OFPP_MAX = 0xff00;
export const OFPP_UNSET = 0xfff7;
export const OFPP_IN_PORT = 0xfff8;
export const OFPP_TABLE = 0xfff9;
export const OFPP_NORMAL = 0xfffa;
export const OFPP_FLOOD = 0xfffb;
export const OFPP_ALL = 0xfffc;
export const OFPP_CONTROLLER = 0xfffd;
export const OFPP_LOCAL = 0xfffe;
export const OFPP_NONE = 0xffff;

const reserved = new Map<number, string>([
  [OFPP_UNSET, 'UNSET'],
  [OFPP_IN_PORT, 'IN_PORT'],
  [OFPP_TABLE, 'TABLE'],
  [OFPP_NORMAL, 'NORMAL'],
  [OFPP_FLOOD, 'FLOOD'],
  [OFPP_ALL, 'ALL'],
  [OFPP_CONTROLLER, 'CONTROLLER'],
  [OFPP_LOCAL, 'LOCAL'],
  [OFPP_NONE, 'ANY'],
]);
const numbers = new Map<string, number>([['NONE', OFPP_NONE], ...[...reserved].map(([n, name]) => [name, n] as const)]);

/** The bridge's ports, for reading and printing names. */
export interface PortNames {
  /** OpenFlow port number of a name, or undefined. */
  numberOf(name: string): number | undefined;
  /** Name of an OpenFlow port number, or undefined. */
  nameOf(port: number): string | undefined;
}

export const noPortNames: PortNames = { numberOf: () => undefined, nameOf: () => undefined };

/** Port of a number, a reserved name in any case, or a port name (bare or as a JSON string); undefined when none of them. */
export function parsePort(text: string, names: PortNames): number | undefined {
  if (/^(0x[0-9a-f]+|[0-9]+)$/i.test(text)) {
    const number = Number(text);
    if (number <= 0xffff) return number;
    // OpenFlow 1.1 and later: the same reserved ports with 32 bits.
    return number >= 0xffff0000 + OFPP_UNSET && number <= 0xffffffff ? number - 0xffff0000 : undefined;
  }
  return numbers.get(text.toUpperCase()) ?? names.numberOf(unquote(text));
}

function unquote(text: string): string {
  if (!text.startsWith('"')) return text;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'string' ? value : text;
  } catch {
    return text;
  }
}

/** `LOCAL`, a name where `names` knows one, else the number. */
export function formatPort(port: number, names?: PortNames): string {
  const name = reserved.get(port);
  if (name) return name;
  const known = names?.nameOf(port);
  if (known === undefined) return String(port);
  // As ovs-ofctl: quoted unless plain letters and digits. A port named like a reserved one can only be meant by number.
  if (numbers.has(known.toUpperCase())) return String(port);
  return /^[A-Za-z][A-Za-z0-9]*$/.test(known) ? known : JSON.stringify(known);
}
