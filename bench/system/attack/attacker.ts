/**
 * A guest that attacks the switch through the port at argv[2], in the way argv[3], until it is killed. Whatever it does, it and
 * the threads of the processes argv[4…] that are no PMDs have the same share of their core together, so that the neighbours'
 * load generator beside them has the same rest.
 */
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, writeSync } from 'node:fs';
import { close, eventfd, eventfdSignal, sendWithFds, unixConnect } from '#contract/os.ts';
import { encodeRequest, SET_MEM_TABLE } from '#ports/vhost-user/wire.ts';
import { HostileGuest, RX, TX } from '../../../test/support/hostile-guest.ts';
import { sleep } from '../../../test/support/process.ts';

const [path, kind, ...pids] = process.argv.slice(2) as [string, string, ...string[]];
const open = (): Promise<HostileGuest> => HostileGuest.open({ path });
/** The same once the switch has done with the attacks before, which wait in the socket's backlog. */
async function opened(): Promise<HostileGuest> {
  for (let tries = 0; tries < 10; tries++) {
    const guest = await open().catch(() => undefined);
    if (guest) return guest;
  }
  return open();
}
const SIZE = 64;
const heads = Array.from({ length: SIZE }, (_, i) => i);

/** Share of a core that every attack has, and how long a stretch of it lasts. */
const SHARE = 0.3;
const WINDOW_MS = 10;

/** Accounts of the switch's threads but PMDs (proc_pid_schedstat: the first number is ns on a CPU). */
const accounts = pids.flatMap((pid) =>
  readdirSync(`/proc/${pid}/task`)
    .map((thread) => `/proc/${pid}/task/${thread}`)
    .filter((thread) => !readFileSync(`${thread}/comm`, 'latin1').startsWith('pmd'))
    .map((thread) => `${thread}/schedstat`),
);
const switchMs = (): number =>
  accounts.reduce((sum, account) => sum + Number.parseInt(readFileSync(account, 'latin1'), 10), 0) / 1e6;

/** CPU time of this process, and of the switch's threads when the stretch began, in ms. */
const cpuMs = (ofSwitch: number): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000 + ofSwitch;
};

/**
 * Does `act` in stretches until the share of the core is used up; what an attack does in between counts as well, and what it
 * took too much of in one stretch in those that follow.
 */
async function paced(act: () => void): Promise<never> {
  let wanted = cpuMs(switchMs());
  for (let wall = performance.now(); ; ) {
    await sleep(WINDOW_MS);
    const ofSwitch = switchMs();
    const now = performance.now();
    wanted += (now - wall) * SHARE;
    wall = now;
    while (cpuMs(ofSwitch) < wanted) for (let i = 0; i < 100; i++) act();
  }
}

const ready = (): void => void process.stdout.write('ready\n');

let burnt = 0;
/** Work that nobody sees. */
const burn = (): void => {
  burnt = (burnt + 1) | 0;
};

/** Connects again and again; each time `act` ends the connection. */
async function again(act: (guest: HostileGuest) => Promise<void> | void): Promise<never> {
  void paced(burn);
  ready();
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
  return flooding(await opened(), prepare);
}

async function flooding(guest: HostileGuest, prepare: (guest: HostileGuest, i: number) => void): Promise<never> {
  for (const i of heads) prepare(guest, i);
  guest.avail(TX, heads);
  ready();
  return paced(() => guest.publish(TX, (guest.usedIndex(TX) + SIZE) & 0xffff));
}

const plain = (guest: HostileGuest, i: number): void => {
  const length = guest.writeFrame(i, new Uint8Array(60).fill(2));
  guest.descriptor(TX, i, { address: guest.bufferAddress(TX, i), length });
};

const bytesOnly = async (send: (fd: number) => Promise<void> | void): Promise<never> => {
  void paced(burn);
  ready();
  for (;;) {
    try {
      const fd = unixConnect(path);
      await send(fd);
      close(fd);
    } catch {
      await sleep(1);
    }
    await sleep(1);
  }
};
const put = (fd: number, bytes: Uint8Array): number => sendWithFds(fd, bytes, 0, bytes.length, null, 0);

const KINDS: Record<string, () => Promise<never>> = {
  idle: async () => {
    await opened();
    ready();
    return paced(burn);
  },
  frames: () => flood(plain),
  'bad-descriptors': () => flood((guest, i) => guest.descriptor(TX, i, { address: 1n << 45n, length: 100 })),
  'bad-chains': () =>
    flood((guest, i) => guest.descriptor(TX, i, { address: guest.bufferAddress(TX, i), length: 9, flags: 2 })),
  kicks: async () => {
    const guest = await opened();
    const { kickFd } = guest.plan(TX);
    ready();
    return paced(() => eventfdSignal(kickFd));
  },
  'blocking-call': async () => {
    // One less than a counter can hold: the next signal but one would wait for ever.
    const callFd = eventfd();
    writeSync(callFd, Buffer.from(new BigUint64Array([2n ** 64n - 2n]).buffer));
    const guest = await HostileGuest.open({ path }, false);
    const plans = [guest.plan(RX), guest.plan(TX)].map((plan) => ({ ...plan, callFd }));
    await guest.start(guest.memory.regions, plans);
    return flooding(guest, plain);
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
await attack();
