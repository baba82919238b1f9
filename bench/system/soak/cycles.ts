/** What guests of one port do, from their connection to their end. Each cycle leaves nothing behind that it could know of. */
import { fileURLToPath } from 'node:url';
import { close, memfd, truncate } from '#contract/os.ts';
import type { VirtioPort } from '#guest/index.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { PATIENCE_MS } from '../../../test/support/datapath.ts';
import { HostileGuest, TX } from '../../../test/support/hostile-guest.ts';
import { Child, sleep, until } from '../../../test/support/process.ts';
import type { SwitchProcess } from '../../../test/support/switch.ts';

/** The port whose guests come and go. */
export const PORT = 'soak';
const GUEST = fileURLToPath(new URL('guest.ts', import.meta.url));
const FRAMES = 64;
const REGION = 1 << 20;

export interface Cycle {
  readonly name: string;
  run(sw: SwitchProcess): Promise<void>;
}

/** A broadcast that every port gets. */
const frame = new Uint8Array(200).fill(0xff, 0, 6);
frame.set([0x02, 0, 0, 0, 0, 8, 0x88, 0xb6], 6);

async function exchange(guest: VirtioPort): Promise<void> {
  guest.queue(0).send(Array.from({ length: FRAMES }, () => frame));
  const taken = (): boolean => {
    guest.queue(0).receive();
    return guest.queue(0).tx.pending === 0;
  };
  await until('the frames to be taken', taken, PATIENCE_MS);
}

const withGuest =
  (packed: boolean, end: (guest: VirtioPort) => Promise<void>) =>
  async (sw: SwitchProcess): Promise<void> => {
    const guest = await sw.guest(PORT, { ringSize: 128, packed, memory: { sealed: false } });
    try {
      await exchange(guest);
      await end(guest);
    } finally {
      await guest.close({ abrupt: true });
    }
  };

async function killed(sw: SwitchProcess): Promise<void> {
  const child = new Child(process.execPath, [GUEST, sw.socket(PORT)], { name: 'guest' });
  try {
    await child.waitFor(/up\n/, 'the guest to be up', PATIENCE_MS);
    await sleep(20);
  } finally {
    await child.stop('SIGKILL');
  }
}

async function half(sw: SwitchProcess): Promise<void> {
  const guest = await HostileGuest.open({ path: sw.socket(PORT) });
  const fd = memfd('soak-half', REGION);
  try {
    // A message of which the payload never comes, and a descriptor with it.
    guest.raw(wire.encodeRequest(wire.SET_MEM_TABLE, new Uint8Array(40)).subarray(0, 20), [fd]);
    await sleep(5);
  } finally {
    close(fd);
    guest.close();
  }
}

/** Regions come and go while frames are taken from the rings. */
async function regions(sw: SwitchProcess): Promise<void> {
  const protocol = ['MQ', 'REPLY_ACK', 'CONFIGURE_MEM_SLOTS'] as const;
  const guest = await HostileGuest.open({ path: sw.socket(PORT), protocol });
  try {
    for (let i = 0; i < 16; i++)
      guest.descriptor(TX, i, { address: guest.bufferAddress(TX, i), length: guest.writeFrame(i, frame) });
    let index = 0;
    for (let round = 0; round < 4; round++) {
      const fd = memfd('soak-region', REGION);
      const row = { guestAddress: 1n << 40n, size: BigInt(REGION), userAddress: 1n << 40n, mmapOffset: 0n };
      for (const [code, fds] of [
        [wire.ADD_MEM_REG, [fd]],
        [wire.REM_MEM_REG, []],
      ] as const) {
        guest.avail(
          TX,
          Array.from({ length: 16 }, (_, i) => i),
          index,
        );
        index += 16;
        guest.publish(TX, index);
        await guest.connection.acknowledged(code, wire.encodeRegion(row), fds);
      }
      close(fd);
    }
    await until('the frames to be taken', () => guest.usedIndex(TX) === index, PATIENCE_MS);
  } finally {
    guest.close();
  }
}

async function portComesAndGoes(sw: SwitchProcess): Promise<void> {
  await sw.vsctl('add-port', 'br0', 'passing', '--', 'set', 'Interface', 'passing', 'type=vhost-user');
  const guest = await sw.guest('passing', { ringSize: 128 });
  try {
    await exchange(guest);
    await sw.vsctl('del-port', 'br0', 'passing');
  } finally {
    await guest.close({ abrupt: true });
  }
}

export const CYCLES: readonly Cycle[] = [
  { name: 'polite', run: withGuest(false, (guest) => guest.close()) },
  { name: 'polite, packed rings', run: withGuest(true, (guest) => guest.close()) },
  { name: 'hung up', run: withGuest(false, (guest) => guest.close({ abrupt: true })) },
  {
    name: 'truncated memory',
    run: withGuest(false, async (guest) => {
      for (const { fd } of guest.memory.files) truncate(fd, 0);
      await until('the connection to end', () => guest.state !== 'up', PATIENCE_MS);
    }),
  },
  { name: 'half a message', run: half },
  { name: 'regions', run: regions },
  { name: 'killed', run: killed },
  { name: 'port added and deleted', run: portComesAndGoes },
];
