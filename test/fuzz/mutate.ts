/** Hostile words for rings: one field changed at a time, most values just beside a border. */
import { GUEST_BASE } from './arena.ts';
import type { Random } from './random.ts';
import { BUFFERS_AT, FuzzRing } from './ring.ts';

const LENGTHS = [0, 1, 9, 10, 11, 12, 13, 22, 23, 24, 25, 26, 27, 4095, 4096, 16_384, 65_549, 65_569, 65_570];
const HUGE = [0x3fff_ffff, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, 0xffff_ffff];

/** An address of which some border is not far. */
const addressFor = (random: Random, ring: FuzzRing, bytes: number): [low: number, high: number] => {
  const part = random.pick(ring.arena.parts);
  const near = (at: number): [number, number] => {
    const moved = at + random.pick([-16, -4, -2, -1, 0, 0, 1, 2, 4, 16]);
    return [moved % 4294967296, Math.floor(moved / 4294967296)];
  };
  switch (random.below(10)) {
    case 0:
      return near(part.guestAddress);
    case 1:
      return near(part.guestAddress + part.bytes);
    case 2:
    case 3:
      return near(part.guestAddress + part.bytes - Math.min(bytes, part.bytes));
    case 4:
      return [random.below(4096), 0];
    case 5:
      // The sum with the length goes round 2^64.
      return [(0x1_0000_0000 - random.pick([1, 16, bytes % 65_536])) >>> 0, 0xffff_ffff];
    case 6:
      return [random.word(), random.pick([0x10_0000, 0x1f_ffff, 0x20_0000, 0x8000_0000, 0x7fff_ffff])];
    case 7:
      return near(GUEST_BASE + random.pick([0, 0x800, 0x900, 0x1000, BUFFERS_AT]));
    case 8:
      return [random.word(), random.word()];
    default:
      return near(part.guestAddress + random.below(part.bytes));
  }
};

/** Changes one field of one descriptor or of what the driver says. @returns what, for the replay. */
export function mutate(random: Random, ring: FuzzRing, running: boolean): string {
  const { arena, size, packed } = ring;
  const { driver } = FuzzRing.offsets;
  const descriptor =
    ring.descriptors.length > 0 && !random.once(8)
      ? random.pick(ring.descriptors)
      : GUEST_BASE + 16 * random.below(size);
  const bytes = arena.find(descriptor)!.view.getUint32(descriptor - GUEST_BASE + 8, true);
  const at = `0x${(descriptor - GUEST_BASE).toString(16)}`;
  switch (random.below(packed || running ? 6 : 8)) {
    case 0:
    case 1: {
      const [low, high] = addressFor(random, ring, bytes);
      arena.poke32(descriptor, low);
      arena.poke32(descriptor + 4, high);
      return `descriptor ${at}: address 0x${high.toString(16)}:${low.toString(16)}`;
    }
    case 2: {
      const length = random.once(3) ? random.pick(HUGE) : random.once(3) ? random.word() : random.pick(LENGTHS);
      arena.poke32(descriptor + 8, length);
      return `descriptor ${at}: length ${length}`;
    }
    case 3:
    case 4: {
      // Of a split ring flags, then next; of a packed one id, then flags.
      const offset = random.pick([12, 14]);
      const before = arena.find(descriptor)!.view.getUint16(descriptor - GUEST_BASE + offset, true);
      const value = random.pick([
        before ^ (1 << random.below(3)),
        before ^ 0x8080,
        before ^ (1 << random.below(16)),
        random.below(size),
        size,
        0xffff,
      ]);
      arena.poke16(descriptor + offset, value);
      return `descriptor ${at}: word ${offset} 0x${value.toString(16)}`;
    }
    case 5: {
      if (packed) {
        const value = random.word();
        arena.poke32(GUEST_BASE + driver, value);
        return `driver event 0x${value.toString(16)}`;
      }
      const entry = random.below(size);
      const value = random.pick([size, size - 1, 0xffff, 0, random.below(size), random.below(0x10000)]);
      arena.poke16(GUEST_BASE + driver + 4 + 2 * entry, value);
      return `head ${entry}: ${value}`;
    }
    case 6: {
      const value = (ring.place + random.pick([-1, size, size + 1, 0x8000, 0xfff0, random.below(0x10000)])) & 0xffff;
      arena.poke16(GUEST_BASE + driver + 2, value);
      return `available index ${value}, where ${ring.place} was due`;
    }
    default: {
      const value = random.below(0x10000);
      arena.poke16(GUEST_BASE + driver + (random.once(2) ? 0 : 4 + 2 * size), value);
      return `driver flags or event ${value}`;
    }
  }
}
