/** Event suppression of packed rings, the driver's side (virtio 1.2 section 2.8.14). */
import { EVENT_DESC, EVENT_DISABLE, WRAP_BIT } from './layout.ts';

/**
 * Whether the switch wants a kick for entries made available up to `place` (entry and wrap counter), `steps` of them.
 * @param word the device's event suppression: an event's place | flags << 16. An event of another lap counts from the
 * ring's end.
 */
export const wantsKick = (word: number, place: number, steps: number, size: number, eventIndex: boolean): boolean => {
  const flags = (word >>> 16) & 3;
  if (flags === EVENT_DISABLE) return false;
  if (flags !== EVENT_DESC || !eventIndex) return true;
  let event = word & (WRAP_BIT - 1);
  if ((word & WRAP_BIT) !== (place & WRAP_BIT)) event -= size;
  return (((place & (WRAP_BIT - 1)) - event - 1) & 0xffff) < steps;
};
