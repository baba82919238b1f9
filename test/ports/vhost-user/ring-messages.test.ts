import { readlinkSync } from 'node:fs';
import test from 'ava';
import { eventfd, eventfdDrain } from '#contract/os.ts';
import { RingMessages, type RingUser } from '#ports/vhost-user/ring-messages.ts';
import { STATE_CURSOR, STATE_WORDS } from '#ports/vhost-user/vring.ts';
import { packedBase, VRING_NO_FD, VRING_STATE } from '#ports/vhost-user/wire.ts';

const RINGS = 4;
// One test after another: a number that was closed is soon in use again.

/** Rings of a device that notes, at each apply, which of its rings workers would have. */
function lab(more: Partial<RingUser> = {}) {
  const applied: number[][] = [];
  const words = new Int32Array(RINGS * STATE_WORDS);
  const rings: RingMessages = new RingMessages(RINGS, words, {
    packed: () => false,
    enabledByKick: () => true,
    misplaced: () => undefined,
    apply: async () => {
      applied.push(rings.all.filter(({ started, enabled }) => started && enabled).map(({ index }) => index));
    },
    ...more,
  });
  return { rings, applied, words };
}

/** Whether it is an eventfd still: the number may be in use for something else by now. */
const isOpen = (fd: number): boolean => {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).includes('eventfd');
  } catch {
    return false;
  }
};

test.serial(
  'a ring that was not offered, and what no ring can be, is refused by name and leaves nothing',
  async (t) => {
    const { rings, applied } = lab();
    await t.throwsAsync(rings.setEnable({ index: 4, num: 1 }), {
      message: /ring 4 does not exist; 4 rings are offered/,
    });
    t.deepEqual(rings.all, []);
    await t.throwsAsync(rings.setSize({ index: 0, num: 3 }), { message: /ring 0 of 3 entries; .*power of two/ });
    await t.throwsAsync(rings.setBase({ index: 0, num: 0x10000 }), { message: /ring 0 at entry 65536/ });
    await t.throwsAsync(rings.setEnable({ index: 0, num: 2 }), { message: /0 or 1 is possible/ });
    await t.throwsAsync(rings.setFd('kickFd', 0n, []), { message: /ring 0: a descriptor is missing/ });
    t.deepEqual(applied, []);
    const packed = lab({ packed: () => true });
    await packed.rings.setSize({ index: 1, num: 3 });
    await t.throwsAsync(packed.rings.setBase({ index: 1, num: 0x8003 }), { message: /ring 1 at entry 3; it has 3/ });
  },
);

test.serial('addresses are refused once the size says that the ring cannot lie there', async (t) => {
  const { rings } = lab({ misplaced: ({ index }) => `ring ${index}: nowhere` });
  const addresses = { index: 2, flags: 0, descriptors: 0n, used: 0n, available: 0n, log: 0n };
  await rings.setAddresses(addresses);
  await rings.setSize({ index: 2, num: 256 });
  await t.throwsAsync(rings.setAddresses(addresses), { message: 'ring 2: nowhere' });
});

test.serial('workers do not have a ring while its size or its place changes', async (t) => {
  const { rings, applied, words } = lab();
  await rings.setFd('kickFd', 1n, [eventfd()]);
  t.deepEqual(applied, [[1]]);
  await rings.setSize({ index: 1, num: 128 });
  t.deepEqual(applied.splice(0), [[1], [], [1]]);
  await rings.setBase({ index: 1, num: 77 });
  t.deepEqual(applied.splice(0), [[], [1]]);
  t.is(words[STATE_WORDS + STATE_CURSOR], 77);
  rings.clear();
});

test.serial(
  'the place of a ring is told when workers have let go of it, of a packed one with both halves',
  async (t) => {
    for (const packed of [false, true]) {
      const { rings, applied, words } = lab({ packed: () => packed });
      const kick = eventfd();
      await rings.setFd('kickFd', 3n, [kick]);
      words[3 * STATE_WORDS + STATE_CURSOR] = 0x8005;
      const told = VRING_STATE.decode(await rings.getBase({ index: 3, num: 0 }));
      t.deepEqual(told, { index: 3, num: packed ? packedBase(0x8005) : 0x8005 });
      t.deepEqual(applied.at(-1), []);
      t.false(isOpen(kick));
      rings.clear();
    }
  },
);

test.serial('descriptors are taken over, closed when others come, and a new one to call by is signalled', async (t) => {
  const { rings } = lab({ enabledByKick: () => false });
  const [kick, first, second] = [eventfd(), eventfd(), eventfd()];
  const fds = [first];
  await rings.setFd('callFd', 0n, fds);
  t.deepEqual(fds, [-1]);
  await rings.setFd('kickFd', 0n, [kick]);
  t.deepEqual(
    rings.all.map(({ started, enabled }) => [started, enabled]),
    [[true, false]],
  );
  await rings.setFd('callFd', 0n, [second]);
  t.false(isOpen(first));
  t.is(eventfdDrain(second), 1);
  await rings.setFd('callFd', VRING_NO_FD, []);
  t.false(isOpen(second));
  rings.clear();
  t.false(isOpen(kick));
  t.deepEqual(rings.all, []);
});
