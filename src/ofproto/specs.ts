/** Bridges and ports as management specifies them: checks, and what follows for the data plane. */
import { type BridgeSpec, type PortSpec, RequestError } from './api.ts';
import type { DatapathPortConfig } from './datapath.ts';

const DEFAULT_MTU = 1500;

/** What the data plane is asked for. An interface that was there before has an MTU already, which 0 leaves to it. */
export const datapathConfig = ({ name, type, options, mtuRequest }: PortSpec): DatapathPortConfig => ({
  name,
  type,
  options,
  mtu: mtuRequest || (type === 'system' ? 0 : DEFAULT_MTU),
});

export function sameConfig(a: DatapathPortConfig, b: DatapathPortConfig): boolean {
  const keys = Object.keys(a.options);
  if (a.type !== b.type || a.mtu !== b.mtu || keys.length !== Object.keys(b.options).length) return false;
  return keys.every((key) => a.options[key] === b.options[key]);
}

/** A locally administered address that a name always gets. */
export function makeMac(name: string): string {
  let low = 0x811c9dc5;
  let high = 0x9747b28c;
  for (let i = 0; i < name.length; i++) {
    low = Math.imul(low ^ name.charCodeAt(i), 0x01000193) >>> 0;
    high = Math.imul(high ^ name.charCodeAt(i), 0x5bd1e995) >>> 0;
  }
  const bytes = [
    0x02 | ((high >>> 24) & 0xfc),
    (high >>> 16) & 0xff,
    low >>> 24,
    (low >>> 16) & 0xff,
    (low >>> 8) & 0xff,
    low & 0xff,
  ];
  return bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** @throws RequestError at the first setting that makes no sense. */
export function checkBridgeSpec(spec: BridgeSpec): void {
  const bad = (field: string, message: string, hint: string): RequestError =>
    new RequestError('bad_value', message, { field, hint });
  if (!/^[A-Za-z0-9_.:@-]{1,63}$/.test(spec.name))
    throw bad('name', `"${spec.name}" is no bridge name`, 'letters, digits, _ . : @ -');
  if (!/^([0-9a-f]{16})?$/i.test(spec.datapathId))
    throw bad('datapathId', `"${spec.datapathId}" is no datapath id`, '16 hex digits');
  const range = (key: string, low: number, high: number): void => {
    const text = spec.otherConfig[key];
    if (text === undefined) return;
    const value = Number(text);
    if (!Number.isInteger(value) || value < low || value > high)
      throw bad(`otherConfig.${key}`, `${key}=${text} is out of range`, `${low} to ${high}`);
  };
  range('mac-table-size', 1, 1_000_000);
  range('mac-aging-time', 15, 3600);
}
