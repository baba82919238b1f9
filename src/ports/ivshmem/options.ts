/** Settings of an ivshmem port: what its options mean, checked. */
import { isAbsolute } from 'node:path';
import type { PortConfig } from '#ports/port.ts';
import {
  bytes,
  choice,
  fileOwner,
  integer,
  permissions,
  refuseUnknown,
  socketMode,
  socketOwner,
  socketPath,
} from '../options.ts';
import type { SocketSettings } from '../socket/endpoint.ts';
import type { FileSettings } from './backing.ts';
import { LINE, MAX_BUFFER_BYTES, MAX_QUEUES, MIN_BUFFER_BYTES } from './layout.ts';
import { MAX_SIZE, MIN_SIZE } from './shape.ts';
import { MAX_VECTORS } from './wire.ts';

/** Of a pool whose ports name no size. Memory is taken from the system when it is first used. */
export const DEFAULT_SIZE = 64 * 2 ** 20;
/** Pool of ports that name none and belong to no bridge; the control plane names the bridge. */
const DEFAULT_POOL = 'default';

/** What all ports of a pool must agree on. */
export interface PoolSettings {
  readonly name: string;
  /** Bytes, a power of two; undefined: whatever the pool has, or DEFAULT_SIZE. */
  readonly size: number | undefined;
  /** Bytes of a buffer, head-room included; undefined: whatever the pool has, or enough for a frame of 1500 bytes. */
  readonly bufferBytes: number | undefined;
  /** Undefined: whatever the pool has, or a memfd. */
  readonly backing: 'memfd' | FileSettings | undefined;
  /** One port's own: no other may join. */
  readonly isolated: boolean;
}

export interface Settings extends SocketSettings {
  readonly pool: PoolSettings;
  /** Interrupt vectors of the guest, and of the switch for it. */
  readonly vectors: number;
  /** Queue pairs. */
  readonly queuePairs: number;
}

const OWN = [
  'path',
  'size',
  'buffer-size',
  'vectors',
  'pool',
  'isolation',
  'backing',
  'backing-path',
  'backing-mode',
  'backing-owner',
  'socket-mode',
  'socket-owner',
];
const POOL_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,62}$/;

/** @param rundir where relative socket paths start. @throws Error that names the option at fault and the fix. */
export function parseOptions(config: PortConfig, rundir: string): Settings {
  const { name, options } = config;
  refuseUnknown(config, OWN);
  const queuePairs = integer(options, 'n_rxq', 1, MAX_QUEUES, 1);
  return {
    mode: 'server',
    path: socketPath(name, options['path'] || `${name}.sock`, rundir),
    socketMode: socketMode(options),
    socketOwner: socketOwner(options),
    pool: parsePool(config),
    vectors: integer(options, 'vectors', 1, MAX_VECTORS, queuePairs),
    queuePairs,
  };
}

function parsePool({ name, options }: PortConfig): PoolSettings {
  const isolated = choice(options, 'isolation', ['none', 'copy'], 'none') === 'copy';
  const given = options['pool'];
  if (isolated && given !== undefined) {
    throw new Error(
      `option pool of port ${name} contradicts isolation=copy, which gives the port a pool of its own; remove one of them`,
    );
  }
  if (given !== undefined && !POOL_NAME.test(given)) {
    throw new Error(`option pool is "${given}"; it takes up to 63 letters, digits, and _ . : @ -`);
  }
  // A port's name may be a pool's too: the mark keeps them apart.
  const pool = isolated ? `${name}!` : (given ?? DEFAULT_POOL);
  return {
    name: pool,
    size: parseSize(options),
    bufferBytes: parseBufferSize(options),
    backing: parseBacking(options, isolated ? name : pool),
    isolated,
  };
}

function parseBufferSize(options: PortConfig['options']): number | undefined {
  const size = bytes(options, 'buffer-size');
  if (size === undefined) return undefined;
  if (size < MIN_BUFFER_BYTES || size > MAX_BUFFER_BYTES || size % LINE !== 0)
    throw new Error(
      `option buffer-size is "${options['buffer-size']}"; it takes multiples of ${LINE} from ${MIN_BUFFER_BYTES} to ${MAX_BUFFER_BYTES}`,
    );
  return size;
}

function parseSize(options: PortConfig['options']): number | undefined {
  const size = bytes(options, 'size');
  if (size === undefined) return undefined;
  const wrong = `option size is "${options['size']}"`;
  if (size < MIN_SIZE || size > MAX_SIZE)
    throw new Error(`${wrong}; it takes ${MIN_SIZE / 2 ** 20}M to ${MAX_SIZE / 2 ** 30}G`);
  if (!Number.isInteger(Math.log2(size))) {
    const next = 2 ** Math.ceil(Math.log2(size));
    throw new Error(`${wrong}, not a power of two, which a PCI BAR must be; give ${next / 2 ** 20}M`);
  }
  return size;
}

function parseBacking(options: PortConfig['options'], name: string): PoolSettings['backing'] {
  const path = options['backing-path'];
  const kind =
    options['backing'] === undefined && path === undefined
      ? undefined
      : choice(options, 'backing', ['memfd', 'file'], 'file');
  const mode = permissions(options, 'backing-mode');
  const owner = fileOwner(options, 'backing-owner');
  if (kind === 'file') {
    if (path !== undefined && !isAbsolute(path))
      throw new Error(`option backing-path is "${path}"; it takes a full path, such as /dev/shm/${name}`);
    return { path: path ?? `/dev/shm/ringway-${name}`, mode, owner };
  }
  for (const key of ['backing-path', 'backing-mode', 'backing-owner']) {
    if (options[key] !== undefined)
      throw new Error(`option ${key} has no meaning without a file; set backing=file or remove it`);
  }
  return kind;
}
