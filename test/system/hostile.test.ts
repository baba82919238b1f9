/**
 * Guests that are enemies, at a whole running switch: whatever one does to its port, its neighbours go on, the port says by
 * name what was wrong, and serves the next guest that behaves.
 */
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import test from 'ava';
import { close, eventfd, eventfdSignal, pipe, sendWithFds, socketPair, unixConnect } from '#contract/os.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { HostileGuest, RX, TX } from '../support/hostile-guest.ts';
import { sleep, until } from '../support/process.ts';
import { errorOf, FRAME, recovers, served, VICTIM, withVictim } from '../support/victim.ts';

/** What the port must say (`status:error`, or a statistic that has grown), and what the guest does. */
interface Act {
  readonly name: string;
  readonly error?: RegExp;
  readonly counter?: string;
  readonly started?: boolean;
  act(guest: HostileGuest): Promise<void> | void;
}

const offer = (guest: HostileGuest, ring: number, index = 1): void => {
  guest.avail(ring, [0]);
  guest.publish(ring, index);
};
const tables = (guest: HostileGuest, change: Partial<wire.MemoryRegion>, fd = guest.memory.files[0]!.fd): void => {
  const { size, guestAddress, userAddress } = guest.memory.files[0]!;
  const row = {
    size: BigInt(size),
    guestAddress: BigInt(guestAddress),
    userAddress: BigInt(userAddress),
    mmapOffset: 0n,
  };
  guest.raw(wire.encodeRequest(wire.SET_MEM_TABLE, wire.encodeMemoryTable([{ ...row, ...change }])), [fd]);
};

const ACTS: readonly Act[] = [
  { name: 'an available index that jumps', error: /ring 1: available index ahead/, act: (g) => g.publish(TX, 5000) },
  {
    name: 'an available index that runs backwards',
    error: /ring 1: available index ahead/,
    act: (g) => g.publish(TX, 0xffff),
  },
  {
    name: 'a descriptor chain that loops',
    error: /ring 1: descriptor chain loops/,
    act: (g) => {
      const address = g.bufferAddress(TX, 0);
      g.descriptor(TX, 0, { address, length: 100, flags: 1, next: 1 });
      g.descriptor(TX, 1, { address, length: 100, flags: 1, next: 0 });
      offer(g, TX);
    },
  },
  {
    name: 'a descriptor number outside the ring',
    error: /ring 1: descriptor number outside/,
    act: (g) => {
      g.avail(TX, [64]);
      g.publish(TX, 1);
    },
  },
  {
    name: 'an indirect table in an indirect table',
    counter: 'rx_bad_descriptor',
    act: (g) => {
      const { at, address } = g.table(TX, 0);
      g.descriptor(TX, 0, { address, length: 16, flags: 4 }, at);
      g.descriptor(TX, 0, { address, length: 16, flags: 4 });
      offer(g, TX);
    },
  },
  {
    name: 'an address that overflows 64 bits',
    counter: 'rx_bad_descriptor',
    act: (g) => {
      g.descriptor(TX, 0, { address: 0xffff_ffff_ffff_fff0n, length: 100 });
      offer(g, TX);
    },
  },
  { name: 'memory that is truncated', error: /truncated/, act: (g) => g.truncate(0) },
  {
    name: 'a region larger than its file',
    error: /ends at byte \d+ of a file of/,
    started: false,
    act: (g) => tables(g, { size: 1n << 40n }),
  },
  {
    name: 'a region that wraps',
    error: /memory region 0: guest address .* is too large/,
    started: false,
    act: (g) => tables(g, { guestAddress: 2n ** 64n - 4096n }),
  },
  {
    name: 'memory that is read-only',
    error: /EACCES/,
    started: false,
    act: (g) => {
      const fd = openSync(`/proc/self/fd/${g.memory.files[0]!.fd}`, constants.O_RDONLY);
      tables(g, {}, fd);
      closeSync(fd);
    },
  },
  {
    name: 'a message that is oversized',
    error: /\d{5,}/,
    started: false,
    act: (g) => {
      const bytes = wire.encodeRequest(wire.SET_FEATURES, new Uint8Array(8));
      new DataView(bytes.buffer, bytes.byteOffset).setUint32(8, 1_000_000, true);
      g.raw(bytes);
    },
  },
  {
    name: 'a message with too few descriptors',
    error: /descriptor/,
    started: false,
    act: (g) => {
      g.raw(wire.encodeRequest(wire.SET_VRING_KICK, wire.encodeU64(0n)));
    },
  },
  {
    name: 'a message with too many descriptors',
    error: /descriptor/,
    started: false,
    act: (g) => {
      g.raw(
        wire.encodeRequest(wire.SET_FEATURES, wire.encodeU64(0n)),
        Array.from({ length: 9 }, () => g.fd),
      );
    },
  },
  {
    name: 'a call descriptor that is a device',
    error: /event descriptor|EINVAL/,
    started: false,
    act: (g) => {
      const fd = openSync('/dev/null', constants.O_RDWR);
      g.raw(wire.encodeRequest(wire.SET_VRING_CALL, wire.encodeU64(0n)), [fd]);
      closeSync(fd);
    },
  },
];

test.serial(
  'each attack on rings, memory and messages is named at its port, which then serves the next guest',
  async (t) => {
    await withVictim(async (sw, a, b) => {
      for (const { name, error: wanted, counter, started = true, act } of ACTS) {
        const guest = await HostileGuest.open({ path: sw.socket(VICTIM) }, started);
        try {
          if (started) await sw.linkUp(VICTIM);
          const counted = () => sw.vsctl('get', 'Interface', VICTIM, `statistics:${counter}`);
          const before = counter ? Number(await counted()) : 0;
          await act(guest);
          let said = '';
          const named = async () => {
            said = counter ? await counted() : await errorOf(sw);
            return counter ? Number(said) > before : wanted!.test(said);
          };
          await until(`the port to name ${name}`, named, PATIENCE_MS, () => said);
          await served(sw, a, b, name);
        } finally {
          guest.close();
        }
        await recovers(sw);
        t.pass(name);
      }
    });
  },
);

test.serial(
  'half a message, a byte at a time, kicks without end and calls that nobody takes harm nobody',
  async (t) => {
    await withVictim(async (sw, a, b) => {
      // Half a message for as long as it likes; then the rest, byte by byte.
      const slow = unixConnect(sw.socket(VICTIM));
      const bytes = wire.encodeRequest(wire.GET_FEATURES);
      for (const byte of bytes.subarray(0, 7)) {
        sendWithFds(slow, Uint8Array.of(byte), 0, 1, null, 0);
        await sleep(20);
      }
      await served(sw, a, b, 'half a message');
      close(slow);
      await recovers(sw);

      // Calls into a full pipe, a full socket and a full counter; kicks all the time.
      const [, full] = pipe();
      const [, stuffed] = socketPair();
      const counter = eventfd();
      writeSync(counter, Buffer.from(new BigUint64Array([2n ** 64n - 2n]).buffer));
      const chunk = new Uint8Array(4096);
      while (sendWithFds(stuffed, chunk, 0, chunk.length, null, 0) > 0);
      t.throws(
        () => {
          for (;;) writeSync(full, chunk);
        },
        { code: 'EAGAIN' },
      );
      for (const callFd of [full, stuffed, counter]) {
        const guest = await HostileGuest.open({ path: sw.socket(VICTIM) }, false);
        const plans = [guest.plan(RX), guest.plan(TX)].map((plan) => ({ ...plan, callFd }));
        await guest.start(guest.memory.regions, plans);
        await sw.linkUp(VICTIM);
        const length = guest.writeFrame(0, FRAME);
        guest.descriptor(TX, 0, { address: guest.bufferAddress(TX, 0), length });
        for (let i = 1; i <= 200; i++) {
          guest.avail(TX, [0], i - 1);
          guest.publish(TX, i);
          for (let kick = 0; kick < 50; kick++) for (const { kickFd } of plans) eventfdSignal(kickFd);
          if (i % 20 === 0) await until('the frame to be taken', () => guest.usedIndex(TX) === i, PATIENCE_MS);
        }
        await served(sw, a, b, 'kicks and calls');
        guest.close();
      }
      for (const fd of [full, stuffed, counter]) close(fd);
      await recovers(sw);
    });
  },
);
