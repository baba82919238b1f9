/** Settings of a memif port: what its options mean, checked. */
import type { PortConfig } from '#ports/port.ts';
import { choice, integer, refuseUnknown, socketMode, socketOwner, socketPath } from '../options.ts';
import type { SocketSettings } from '../socket/endpoint.ts';
import { MAX_LOG2_RING_SIZE, MAX_QUEUES, SECRET_BYTES } from './wire.ts';

export interface Settings extends SocketSettings {
  readonly packets: true;
  /** Interface id on the socket: several interfaces may share one path. */
  readonly id: number;
  /** Empty: none asked for, none given. */
  readonly secret: string;
  /** Rings of each direction: asked for (client), or admitted (server). */
  readonly queues: number;
  /** Of a client's rings. */
  readonly log2RingSize: number;
  readonly bufferSize: number;
}

const OWN = ['path', 'role', 'id', 'secret', 'ring-size', 'buffer-size', 'socket-mode', 'socket-owner'];
/** Options of one role, and why the other has none of them. */
const OF_ROLE = [
  ['ring-size', 'client', 'the client makes the rings'],
  ['buffer-size', 'client', 'the client makes the buffers'],
  ['socket-mode', 'server', 'the server makes the socket'],
  ['socket-owner', 'server', 'the server makes the socket'],
] as const;
/** Offsets of buffers have 32 bits. */
const MAX_BUFFER_BYTES = 2 ** 32 - 2 ** 24;

/** @param rundir where relative paths start. @throws Error that names the option at fault and the fix. */
export function parseOptions(config: PortConfig, rundir: string): Settings {
  const { name, options } = config;
  refuseUnknown(config, OWN);
  const mode = choice(options, 'role', ['server', 'client'], 'server');
  for (const [key, role, why] of OF_ROLE) {
    if (options[key] !== undefined && mode !== role) {
      throw new Error(`option ${key} of port ${name} belongs to role=${role}: ${why}`);
    }
  }
  if (mode === 'client' && !options['path']) {
    throw new Error(`option path of port ${name} is missing: the socket that the peer listens on`);
  }
  const settings: Settings = {
    mode,
    packets: true,
    path: socketPath(name, options['path'] || `${name}.sock`, rundir),
    socketMode: socketMode(options),
    socketOwner: socketOwner(options),
    id: integer(options, 'id', 0, 0xffffffff, 0),
    secret: secretOf(options['secret']),
    queues: integer(options, 'n_rxq', 1, MAX_QUEUES, mode === 'server' ? MAX_QUEUES : 1),
    log2RingSize: ringSize(options['ring-size']),
    bufferSize: integer(options, 'buffer-size', 64, 0xffff, 2048),
  };
  if (mode === 'client') checkSize(settings);
  return settings;
}

function secretOf(secret = ''): string {
  const bytes = Buffer.byteLength(secret);
  if (bytes > SECRET_BYTES || secret.includes('\0')) {
    throw new Error(`option secret is ${bytes} bytes long; it takes up to ${SECRET_BYTES}, none of them NUL`);
  }
  return secret;
}

/** As a number of descriptors, or, up to the largest, as the logarithm that DPDK's `rsize` is. */
function ringSize(text: string | undefined): number {
  if (text === undefined) return 10;
  const value = /^\d+$/.test(text) ? Number(text) : 0;
  if (value >= 1 && value <= MAX_LOG2_RING_SIZE) return value;
  const log2 = Math.log2(value);
  if (Number.isInteger(log2) && log2 <= MAX_LOG2_RING_SIZE && log2 >= 1) return log2;
  throw new Error(
    `option ring-size is "${text}"; it takes a power of two up to ${1 << MAX_LOG2_RING_SIZE}, or its logarithm, 1 to ${MAX_LOG2_RING_SIZE}`,
  );
}

function checkSize({ queues, log2RingSize, bufferSize }: Settings): void {
  const bytes = 2 * queues * (1 << log2RingSize) * (bufferSize + 64);
  if (bytes > MAX_BUFFER_BYTES) {
    throw new Error(
      `options n_rxq, ring-size and buffer-size ask for ${bytes} bytes of buffers; up to ${MAX_BUFFER_BYTES} are possible`,
    );
  }
}
