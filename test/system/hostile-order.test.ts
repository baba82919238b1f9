/**
 * Enemies that keep to single rules and break others: memory with holes and seals, regions that overlap, messages out of
 * order or in crumbs, and connects without end. The neighbours go on, and the next guest gets the port.
 */
import test from 'ava';
import { close, recvWithFds, sendWithFds, unixConnect } from '#contract/os.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { HostileGuest, RX, TX } from '../support/hostile-guest.ts';
import { runOk, sleep, until } from '../support/process.ts';
import { Stream } from '../support/stream.ts';
import type { SwitchProcess } from '../support/switch.ts';
import { errorOf, FRAME, recovers, served, VICTIM, withVictim } from '../support/victim.ts';

/** Gives pages of a guest's memory back to the kernel: zeros are read there from then on. */
const punch = (guest: HostileGuest, ring: number, offset: number, length: number): Promise<string> =>
  runOk('fallocate', [
    ...['--punch-hole', '--offset', String(offset), '--length', String(length)],
    `/proc/${process.pid}/fd/${guest.block(ring).file.fd}`,
  ]);

/** Offers buffer 0 of the transmit ring `count` times, from free-running index `from` on, and waits until all are back. */
async function transmit(guest: HostileGuest, from: number, count: number): Promise<void> {
  guest.descriptor(TX, 0, { address: guest.bufferAddress(TX, 0), length: 12 + FRAME.length });
  for (let i = from + 1; i <= from + count; i++) {
    guest.avail(TX, [0], i - 1);
    guest.publish(TX, i);
    await until('the frame to be taken', () => guest.usedIndex(TX) === i, PATIENCE_MS);
  }
}

const named = async (sw: SwitchProcess, wanted: RegExp): Promise<void> => {
  let said = '';
  const check = async () => {
    said = await errorOf(sw);
    return wanted.test(said);
  };
  await until(`the port to say ${wanted}`, check, PATIENCE_MS, () => said);
};

test.serial('holes in memory are zeros, seals change nothing, and regions that overlap are refused', async (t) => {
  await withVictim(async (sw, a, b) => {
    for (const sealed of [true, false]) {
      const guest = await HostileGuest.open({ path: sw.socket(VICTIM), memory: { sealed } });
      try {
        await sw.linkUp(VICTIM);
        guest.writeFrame(0, FRAME);
        await transmit(guest, 0, 20);
        if (sealed) {
          t.throws(() => guest.truncate(0), { code: 'EPERM' });
          await transmit(guest, 20, 20);
        } else {
          const { buffersAt, file } = guest.block(TX);
          await punch(guest, TX, buffersAt, file.size - buffersAt);
          await transmit(guest, 20, 20);
        }
        t.is(await errorOf(sw), '');
        if (!sealed) {
          // The available index is one of those zeros now: 40 back.
          await punch(guest, TX, 0, guest.block(TX).file.size);
          await named(sw, /ring 1: available index ahead/);
        }
        await served(sw, a, b, sealed ? 'sealed memory' : 'memory with holes');
      } finally {
        guest.close();
      }
      await recovers(sw);
    }

    for (const space of ['guestAddress', 'userAddress'] as const) {
      const guest = await HostileGuest.open({ path: sw.socket(VICTIM) }, false);
      try {
        const { size, fd } = guest.memory.files[0]!;
        const row = { size: BigInt(size), guestAddress: 0n, userAddress: 0n, mmapOffset: 0n };
        const apart = { ...row, guestAddress: BigInt(size), userAddress: BigInt(size) };
        const rows = [row, { ...apart, [space]: BigInt(size - 4096) }];
        guest.raw(wire.encodeRequest(wire.SET_MEM_TABLE, wire.encodeMemoryTable(rows)), [fd, fd]);
        await named(
          sw,
          space === 'guestAddress' ? /regions overlap at guest address/ : /regions overlap at user address/,
        );
        await served(sw, a, b, 'regions that overlap');
      } finally {
        guest.close();
      }
      await recovers(sw);
    }
  });
});

const u64 = (value: number): Uint8Array => wire.encodeU64(BigInt(value));
const state = (index: number, num: number): Uint8Array => wire.VRING_STATE.encode({ index, num });

/** Messages that come before those which they need. */
const EARLY: readonly (readonly [name: string, send: (guest: HostileGuest) => unknown])[] = [
  ['kick before memory', (g) => g.raw(wire.encodeRequest(wire.SET_VRING_KICK, u64(TX)), [g.plan(TX).kickFd])],
  ['enable before features', (g) => g.raw(wire.encodeRequest(wire.SET_VRING_ENABLE, state(TX, 1)))],
  [
    'addresses before memory',
    (g) => {
      const at = { descriptors: 4096n, used: 8192n, available: 12288n, log: 0n };
      g.raw(wire.encodeRequest(wire.SET_VRING_ADDR, wire.VRING_ADDRESS.encode({ index: TX, flags: 0, ...at })));
    },
  ],
  ['stop before start', (g) => g.connection.request(wire.GET_VRING_BASE, state(RX, 0))],
];

test.serial('a message before its time waits for the others, and its guest is served then', async (t) => {
  await withVictim(async (sw, a, b) => {
    for (const [name, send] of EARLY) {
      const guest = await HostileGuest.open({ path: sw.socket(VICTIM) }, false);
      try {
        await send(guest);
        t.true(await answers(guest), `${name}: ${guest.closedBecause}`);
        t.is(await errorOf(sw), '', name);
        t.not((await sw.vsctl('get', 'Interface', VICTIM, 'link_state')).trim(), 'up', name);
        await served(sw, a, b, name);
        await guest.start();
        await sw.linkUp(VICTIM);
        guest.writeFrame(0, FRAME);
        await transmit(guest, 0, 20);
        t.is(await errorOf(sw), '', name);
      } finally {
        guest.close();
      }
      await recovers(sw);
    }
  });
});

/** Whether the switch still talks to this guest: it has then seen everything sent before. */
const answers = (guest: HostileGuest): Promise<boolean> =>
  guest.connection.requestU64(wire.GET_FEATURES).then(
    () => true,
    () => false,
  );

test.serial('a message that comes byte by byte is obeyed, and connects without end harm nobody', async (t) => {
  await withVictim(async (sw, a, b) => {
    const fd = unixConnect(sw.socket(VICTIM));
    try {
      for (const byte of wire.encodeRequest(wire.GET_FEATURES)) {
        sendWithFds(fd, Uint8Array.of(byte), 0, 1, null, 0);
        await sleep(20);
      }
      const reply = new Uint8Array(64);
      let got = 0;
      const fds = new Int32Array(8);
      await until('the answer', () => (got = recvWithFds(fd, reply, 0, reply.length, fds)) > 0, PATIENCE_MS);
      t.is(got, 20);
      t.is(reply[0], wire.GET_FEATURES);
      await served(sw, a, b, 'a slow guest');
    } finally {
      close(fd);
    }
    await recovers(sw);

    // A thousand attempts and three seconds of them at least, while the neighbours exchange frames.
    const stream = new Stream(a, b, { src: '02:00:00:00:00:01', dst: '02:00:00:00:00:02' });
    let attempts = 0;
    let connects = 0;
    const started = performance.now();
    const over = (): boolean => {
      const ms = performance.now() - started;
      return ms > PATIENCE_MS || (ms > 3000 && attempts >= 1000 && connects >= 100 && stream.received >= 1000);
    };
    while (!over()) {
      attempts++;
      try {
        const one = unixConnect(sw.socket(VICTIM));
        connects++;
        if (connects % 3 === 0) sendWithFds(one, wire.encodeRequest(wire.SET_OWNER), 0, 12, null, 0);
        close(one);
      } catch {
        // The backlog is full for a moment.
      }
      if (attempts % 8 !== 0) continue;
      stream.step();
      await new Promise((resolve) => setImmediate(resolve));
    }
    t.log(`${attempts} attempts, ${connects} connects, ${stream.received} of ${stream.sent} frames meanwhile`);
    t.true(connects >= 100, `${connects} connects`);
    t.true(stream.received >= 1000, `${stream.received} of ${stream.sent} frames`);
    t.is(await stream.finish(), 0, 'frames lost');
    await served(sw, a, b, 'connects without end');
    await recovers(sw);
  });
});
