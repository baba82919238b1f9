/** A guest that attacks the switch through the port at argv[2], in the way argv[3], until it is killed. */
import { randomBytes } from 'node:crypto';
import { close, eventfdSignal, sendWithFds, unixConnect } from '#contract/os.ts';
import { encodeRequest, SET_MEM_TABLE } from '#ports/vhost-user/wire.ts';
import { HostileGuest, TX } from '../../../test/support/hostile-guest.ts';
import { sleep } from '../../../test/support/process.ts';

const [path, kind] = process.argv.slice(2) as [string, string];
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const open = (): Promise<HostileGuest> => HostileGuest.open({ path });
const SIZE = 64;
const heads = Array.from({ length: SIZE }, (_, i) => i);

/** Connects again and again; each time `act` ends the connection. */
async function again(act: (guest: HostileGuest) => Promise<void> | void): Promise<never> {
  for (;;) {
    const guest = await open().catch(() => undefined);
    if (!guest) {
      await sleep(1);
      continue;
    }
    await act(guest);
    for (let i = 0; i < 200 && guest.closedBecause === ''; i++) await sleep(1);
    guest.close();
  }
}

/** Publishes the same descriptors as fast as they come back. */
async function flood(prepare: (guest: HostileGuest, i: number) => void): Promise<never> {
  const guest = await open();
  for (const i of heads) prepare(guest, i);
  guest.avail(TX, heads);
  let index = 0;
  for (;;) {
    for (let round = 0; round < 1000; round++) {
      index = (guest.usedIndex(TX) + SIZE) & 0xffff;
      guest.publish(TX, index);
    }
    await turn();
  }
}

const plain = (guest: HostileGuest, i: number): void => {
  const length = guest.writeFrame(i, new Uint8Array(60).fill(2));
  guest.descriptor(TX, i, { address: guest.bufferAddress(TX, i), length });
};

const bytesOnly = async (send: (fd: number) => Promise<void> | void): Promise<never> => {
  for (;;) {
    try {
      const fd = unixConnect(path);
      await send(fd);
      close(fd);
    } catch {
      await sleep(1);
    }
    await turn();
  }
};
const put = (fd: number, bytes: Uint8Array): number => sendWithFds(fd, bytes, 0, bytes.length, null, 0);

const KINDS: Record<string, () => Promise<never>> = {
  // As busy as the others, on memory of its own.
  idle: async () => {
    const guest = await open();
    for (;;) {
      for (let i = 0; i < 1000; i++) guest.view(TX).setUint32(guest.block(TX).buffersAt, i);
      await turn();
    }
  },
  frames: () => flood(plain),
  'bad-descriptors': () => flood((guest, i) => guest.descriptor(TX, i, { address: 1n << 45n, length: 100 })),
  'bad-chains': () =>
    flood((guest, i) => guest.descriptor(TX, i, { address: guest.bufferAddress(TX, i), length: 9, flags: 2 })),
  kicks: async () => {
    const guest = await open();
    const { kickFd } = guest.plan(TX);
    for (;;) {
      for (let i = 0; i < 1000; i++) eventfdSignal(kickFd);
      await turn();
    }
  },
  loops: () =>
    again((guest) => {
      guest.descriptor(TX, 0, { address: guest.bufferAddress(TX, 0), length: 100, flags: 1, next: 0 });
      guest.avail(TX, [0]);
      guest.publish(TX, 1);
    }),
  indices: () => again((guest) => guest.publish(TX, 5000)),
  truncated: () =>
    again((guest) => {
      for (const i of heads) plain(guest, i);
      guest.avail(TX, heads);
      guest.truncate(0);
      eventfdSignal(guest.plan(TX).kickFd);
    }),
  connects: () => bytesOnly(() => sleep(1)),
  messages: () => bytesOnly((fd) => void put(fd, randomBytes(200))),
  slow: () =>
    bytesOnly(async (fd) => {
      for (const byte of encodeRequest(SET_MEM_TABLE, new Uint8Array(40))) {
        put(fd, Uint8Array.of(byte));
        await sleep(1000);
      }
    }),
};

const attack = KINDS[kind];
if (!attack) throw new Error(`no attack ${kind}; there are ${Object.keys(KINDS).join(', ')}`);
process.stdout.write('ready\n');
await attack();
