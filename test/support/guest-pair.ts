/** A port of the guest and a naive back end that have found each other, for tests of the guest. */
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { type Feature, openVirtioPort, type PortOptions, type VirtioPort } from '#guest/index.ts';
import { bits, PROTOCOL_FEATURES, VIRTIO_FEATURES } from '#ports/vhost-user/wire.ts';
import { type BackendOptions, GuestBackend } from './guest-backend.ts';
import { removeScratchDir, scratchDir, until } from './process.ts';

export const ALL_FEATURES = bits(VIRTIO_FEATURES, Object.keys(VIRTIO_FEATURES) as Feature[]);
export const ALL_PROTOCOL = bits(PROTOCOL_FEATURES, ['MQ', 'REPLY_ACK', 'NET_MTU', 'STATUS']);

/** Runs `body` on the pair and takes both away afterwards. */
export async function withPair(
  options: Partial<PortOptions>,
  offer: Partial<BackendOptions>,
  body: (port: VirtioPort, backend: GuestBackend) => Promise<void> | void,
): Promise<void> {
  const dir = scratchDir('rwg');
  const path = join(dir, 's');
  const client = options.role !== 'server';
  const backend = new GuestBackend({
    path,
    role: client ? 'server' : 'client',
    features: ALL_FEATURES,
    protocol: ALL_PROTOCOL,
    ...offer,
  });
  let port: VirtioPort | undefined;
  try {
    const opening = openVirtioPort({ path, ...options });
    if (!client) await until('the socket of the guest', () => connected(backend));
    port = await opening;
    await body(port, backend);
  } finally {
    await port?.close({ abrupt: true });
    backend.close();
    removeScratchDir(dir);
  }
}

function connected(backend: GuestBackend): boolean {
  try {
    backend.connect();
    return true;
  } catch {
    return false;
  }
}

/** Bytes without a pattern, the same for the same seed. */
export function noise(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let x = (seed * 2654435761) >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    bytes[i] = x;
  }
  return bytes;
}

export const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

const OUT = { flags: 1, gsoType: 1, gsoSize: 1448, headerLength: 66, csumStart: 34, csumOffset: 16 };
const OUT_BYTES = [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0];
const IN_BYTES = Uint8Array.of(2, 4, 54, 0, 0xdc, 5, 14, 0, 6, 0);
const IN = { flags: 2, gsoType: 4, gsoSize: 1500, headerLength: 54, csumStart: 14, csumOffset: 6 };

/** Sends frames of these lengths both ways on a queue pair and compares every byte and every header field. */
export function exchange(t: ExecutionContext, port: VirtioPort, backend: GuestBackend, lengths: number[], q = 0): void {
  const queue = port.queue(q);
  const frames = lengths.map((length, i) => noise(length, i + 1));
  for (let at = 0; at < frames.length; ) {
    const sent = queue.send(frames.slice(at, at + 40), OUT);
    const taken = backend.take(q);
    if (sent === 0 || taken.length !== sent) throw new Error(`${sent} frames sent, ${taken.length} arrived`);
    for (const [i, { frame, header }] of taken.entries()) {
      if (!same(frame, frames[at + i]!))
        throw new Error(`sent frame ${at + i} of ${frames[at + i]!.length} bytes differs`);
      t.deepEqual([...header.subarray(0, 10)], OUT_BYTES);
    }
    at += sent;
  }
  for (let at = 0; at < frames.length; ) {
    const given = backend.deliver(
      frames.slice(at, at + 40).map((frame) => ({ frame, header: IN_BYTES })),
      q,
    );
    const received = queue.receiveWithOffload(given);
    if (given === 0 || received.length !== given) throw new Error(`${given} frames given, ${received.length} arrived`);
    for (const [i, { frame, ...fields }] of received.entries()) {
      if (!same(frame, frames[at + i]!))
        throw new Error(`received frame ${at + i} of ${frames[at + i]!.length} bytes differs`);
      t.deepEqual(fields, IN);
    }
    at += given;
  }
  t.is(queue.rx.broken + queue.tx.broken + queue.tx.rejected, 0);
}
