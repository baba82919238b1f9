import test from 'ava';
import { openVirtioPort } from '#guest/index.ts';
import { noise, same } from './guest-pair.ts';
import { GuestWire } from './guest-wire.ts';
import { HostileGuest, TX } from './hostile-guest.ts';
import { removeScratchDir, scratchDir, until } from './process.ts';

/** A hostile guest on port 0 of a wire, an honest one on port 1. */
async function withHostile(
  body: (guest: HostileGuest, wire: GuestWire, honest: () => Uint8Array[]) => Promise<void>,
): Promise<void> {
  const dir = scratchDir('rwh');
  const wire = new GuestWire(dir);
  await wire.start();
  const guest = await HostileGuest.open({ path: wire.paths[0] });
  const port = await openVirtioPort({ path: wire.paths[1] });
  try {
    await until('both ports to be up', () => wire.state(0) === 'up' && wire.state(1) === 'up');
    await body(guest, wire, () => port.queue(0).receive());
    checkNeighbour(wire, port);
  } finally {
    guest.close();
    await port.close();
    await wire.stop();
    removeScratchDir(dir);
  }
}

/** The neighbour still gets through to the switch. */
function checkNeighbour(wire: GuestWire, port: Awaited<ReturnType<typeof openVirtioPort>>): void {
  const before = wire.counter(1, 'rx_packets');
  port.queue(0).send([noise(60, 9)]);
  wire.pump();
  if (wire.counter(1, 'rx_packets') !== before + 1) throw new Error('the neighbour was not served');
}

const send = (guest: HostileGuest, frame: Uint8Array): void => {
  const length = guest.writeFrame(0, frame);
  guest.descriptor(TX, 0, { address: guest.bufferAddress(TX, 0), length });
  guest.avail(TX, [0]);
  guest.publish(TX, 1);
};

test('what it writes as an honest guest would is carried', async (t) => {
  await withHostile(async (guest, wire, received) => {
    const frame = noise(100, 1);
    send(guest, frame);
    wire.pump();
    const [got] = received();
    t.true(got !== undefined && same(got, frame));
    t.is(guest.usedIndex(TX), 1);
  });
});

const ACTS: Record<string, (guest: HostileGuest) => void> = {
  'a chain that loops': (guest) => {
    const address = guest.bufferAddress(TX, 0);
    guest.descriptor(TX, 0, { address, length: 100, flags: 1, next: 1 });
    guest.descriptor(TX, 1, { address, length: 100, flags: 1, next: 0 });
    guest.avail(TX, [0]);
    guest.publish(TX, 1);
  },
  'an address outside memory': (guest) => {
    guest.descriptor(TX, 0, { address: 0x10n, length: 100 });
    guest.avail(TX, [0]);
    guest.publish(TX, 1);
  },
  'an address that overflows 64 bits': (guest) => {
    guest.descriptor(TX, 0, { address: 0xffff_ffff_ffff_fff0n, length: 100 });
    guest.avail(TX, [0]);
    guest.publish(TX, 1);
  },
  'a length past the region': (guest) => {
    guest.descriptor(TX, 0, { address: guest.bufferAddress(TX, 63), length: 0xffff_ffff });
    guest.avail(TX, [0]);
    guest.publish(TX, 1);
  },
  'a head beyond the ring': (guest) => {
    guest.avail(TX, [64]);
    guest.publish(TX, 1);
  },
  'an index that jumps': (guest) => guest.publish(TX, 1000),
};

for (const [name, act] of Object.entries(ACTS)) {
  test(`${name}: nothing of it is carried, and it is counted or closes the port with a reason`, async (t) => {
    await withHostile(async (guest, wire, received) => {
      act(guest);
      await until('the switch to notice', () => {
        wire.pump();
        const { lastError } = wire.sessions[0]!.status();
        return Object.keys(wire.drops(0)).length > 0 || lastError !== '';
      });
      t.is(received().length, 0);
    });
  });
}

test('memory taken away under the switch costs this guest its frame, and nobody else', async (t) => {
  await withHostile(async (guest, wire, received) => {
    guest.truncate(0);
    for (let i = 0; i < 3; i++) wire.pump();
    t.is(received().length, 0);
  });
});
