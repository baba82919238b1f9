/** Whether a message has the shape that its kind demands, before anything of it is believed. */
import {
  CONFIG_HEADER,
  INFLIGHT,
  INFLIGHT_PADDED,
  IOTLB_BYTES,
  LOG,
  MAX_CONFIG,
  MAX_REGIONS,
  MEMORY_HEADER,
  MEMORY_REGION,
  type MessageRow,
  type PayloadKind,
  U64,
  VRING_ADDRESS,
  VRING_STATE,
} from './wire.ts';

const PAYLOAD_BYTES: Readonly<Partial<Record<PayloadKind, number>>> = {
  none: 0,
  u64: U64.bytes,
  vringState: VRING_STATE.bytes,
  vringAddress: VRING_ADDRESS.bytes,
  region: 8 + MEMORY_REGION.bytes,
  iotlb: IOTLB_BYTES,
};

/** What is wrong with the size of a payload, or with its descriptors; undefined when nothing is. */
export function checkPayload(row: MessageRow, payload: Uint8Array, fds: number): string | undefined {
  if (fds > row.fds) return `${row.name} came with ${fds} descriptors, at most ${row.fds} belong to it`;
  const bytes = PAYLOAD_BYTES[row.payload];
  if (bytes !== undefined && payload.length !== bytes) {
    return `${row.name} has a payload of ${payload.length} bytes, not ${bytes}`;
  }
  if (row.payload === 'log') return checkLog(row, payload);
  if (row.payload === 'inflight' && payload.length !== INFLIGHT.bytes && payload.length !== INFLIGHT_PADDED) {
    return `${row.name} has a payload of ${payload.length} bytes, not ${INFLIGHT.bytes} or ${INFLIGHT_PADDED}`;
  }
  if (row.payload === 'config') return checkConfig(row, payload);
  if (row.payload !== 'memory') return undefined;
  if (payload.length < MEMORY_HEADER.bytes) return `${row.name} has a payload of ${payload.length} bytes`;
  const { count } = MEMORY_HEADER.decode(payload);
  if (count === 0 || count > MAX_REGIONS) return `${row.name} has ${count} regions; 1 to ${MAX_REGIONS} are taken`;
  // Front ends may send the whole fixed-size union: rows past `count` are ignored.
  if (payload.length < MEMORY_HEADER.bytes + count * MEMORY_REGION.bytes)
    return `${row.name} is shorter than its ${count} regions`;
  if (fds !== count) return `${row.name} has ${count} regions and ${fds} descriptors`;
  return undefined;
}

/** A front end whose log is no file sends a 64-bit number instead; nobody but its own process could use it. */
const checkLog = (row: MessageRow, payload: Uint8Array): string | undefined =>
  payload.length === LOG.bytes || payload.length === U64.bytes
    ? undefined
    : `${row.name} has a payload of ${payload.length} bytes, not ${LOG.bytes}`;

function checkConfig(row: MessageRow, payload: Uint8Array): string | undefined {
  if (payload.length < CONFIG_HEADER.bytes) return `${row.name} has a payload of ${payload.length} bytes`;
  const { size } = CONFIG_HEADER.decode(payload);
  if (size > MAX_CONFIG) return `${row.name} is about ${size} bytes, at most ${MAX_CONFIG} are possible`;
  if (payload.length !== CONFIG_HEADER.bytes + size) return `${row.name} has ${payload.length} bytes for ${size}`;
  return undefined;
}
