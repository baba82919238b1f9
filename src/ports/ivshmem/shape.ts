/** How a pool of some size is divided. */
import { MAX_QUEUES, MAX_SLOTS, MIN_ENTRIES, type PoolShape } from './layout.ts';

/** Smallest pool. */
export const MIN_SIZE = 4 * 2 ** 20;
/** Largest: taking back what a client held looks at every buffer. */
export const MAX_SIZE = 4 * 2 ** 30;
/** A frame of 1500 bytes with tags fits behind the head-room. */
export const BUFFER_BYTES = 2048;
const HEADROOM = 128;

/**
 * Rings are as long as leaves most of the memory to buffers when every queue pair of every slot has its four. Memory of
 * slots that nobody uses is never touched.
 * @param isolated one client only, in slot 1.
 */
export function shapeOf(size: number, isolated: boolean, bufferBytes: number): PoolShape {
  const slots = isolated ? 2 : MAX_SLOTS;
  let entries = isolated || size >= 64 * 2 ** 20 ? 512 : size >= 16 * 2 ** 20 ? 256 : MIN_ENTRIES;
  // Full rings both ways, of the one client or of two, must not exhaust the pool.
  const full = isolated ? 2 : 4;
  while (entries > MIN_ENTRIES && full * entries * bufferBytes > 0.7 * size) entries /= 2;
  return { size, slots, queues: MAX_QUEUES, entries, bufferBytes, headroom: HEADROOM, credit: entries };
}
