import { readdirSync, readFileSync } from 'node:fs';
import test from 'ava';
import { address, close, dup, eventfd, map, memfd, userfault } from '#contract/os.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { VhostUserDevice } from '#ports/vhost-user/device.ts';
import { type AnswerWithFd, RefusedError } from '#ports/vhost-user/device-host.ts';
import { GuestMemory } from '#ports/vhost-user/guest-memory.ts';
import { MemoryMessages } from '#ports/vhost-user/memory-messages.ts';
import { parseOptions } from '#ports/vhost-user/options.ts';
import { Postcopy, postcopyAvailable } from '#ports/vhost-user/postcopy.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { PATIENCE_MS, receive, send } from '../../support/datapath.ts';
import { until } from '../../support/process.ts';
import { SwitchProcess } from '../../support/switch.ts';
import { Driver, MEMORY_BYTES } from './driver.ts';
import { FrontEnd } from './front-end.ts';

const maybe = postcopyAvailable()
  ? test
  : (title: string, _body: unknown) => test.skip(`${title} (no userfaultfd for this process)`, () => {});
const PAGE = 4096;
const settings = parseOptions({ portNo: 1, name: 'p', type: 'vhost-user', options: {}, mtu: 1500 }, '/tmp');

/** Memory whose pages are missing but the first, as two mappings: the device's and the front end's. */
function missing() {
  const fd = memfd('missing', 8 * PAGE);
  const there = new Uint8Array(map(fd, 0, 8 * PAGE, { write: true, owner: 0 }));
  there[0] = 1;
  const here = map(fd, 0, 8 * PAGE, { write: true, owner: 0 });
  close(fd);
  return { here, there };
}

const listening = (): Postcopy => {
  const postcopy = new Postcopy();
  const fd = postcopy.advise();
  close(fd);
  postcopy.listen();
  return postcopy;
};

/** Whether a promise is settled after some turns of the event loop. */
async function settled(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  promise.then(
    () => {
      done = true;
    },
    () => {
      done = true;
    },
  );
  for (let i = 0; i < 50 && !done; i++) await new Promise((resolve) => setTimeout(resolve, 1));
  return done;
}

maybe('a missing page is waited for by another thread, and found when it has come', async (t) => {
  const { here, there } = missing();
  const postcopy = listening();
  postcopy.serve([here]);
  t.true(postcopy.awaiting);
  await postcopy.touch(address(here), 1);
  const waiting = postcopy.touch(address(here) + 3 * PAGE, 10);
  t.false(await settled(waiting));
  there[3 * PAGE] = 77;
  postcopy.end();
  await waiting;
  t.is(new Uint8Array(here)[3 * PAGE], 77);
  t.true(postcopy.shared);
});

maybe('who waits for a page that nobody brings goes on with zeros; the file stays as it is', async (t) => {
  const { here, there } = missing();
  const postcopy = listening();
  postcopy.serve([here]);
  const waiting = postcopy.touch(address(here) + 3 * PAGE, 10);
  t.false(await settled(waiting));
  postcopy.abandon();
  await waiting;
  new Uint8Array(here).fill(9);
  t.is(there[3 * PAGE], 0);
  t.is(there[0], 1);
  t.false(postcopy.shared);
});

maybe(
  'a worker that does not answer, or a ring that does not come, ends the migration after ten seconds',
  async (t) => {
    const never = (): Promise<void> => new Promise(() => {});
    const worker = listening();
    const now = performance.now() + 1_000_000;
    worker.tidy(never, now);
    worker.tidy(never, now + 9_000);
    t.throws(() => worker.tidy(never, now + 11_000), { message: /a page of the guest did not come for 10 s/ });
    worker.abandon();
    worker.tidy(never, now + 90_000);

    const { here } = missing();
    const ring = listening();
    ring.serve([here]);
    const waiting = ring.touch(address(here) + 3 * PAGE, 10);
    const prompt = async (): Promise<void> => {};
    ring.tidy(prompt);
    t.throws(() => ring.tidy(prompt, now), { message: /did not come/ });
    ring.abandon();
    await waiting;
  },
);

test('addresses that are in no map are refused at the door', (t) => {
  t.throws(() => userfault.register(0, 4096), { message: /is not that of a map/ });
  t.throws(() => userfault.abandon(0, 4096), { message: /is not that of a map/ });
  const buffer = map(memfd('m', PAGE), 0, PAGE, { write: true, owner: 0 });
  t.throws(() => userfault.touch(address(buffer), 2 * PAGE), { message: /leads out of the map/ });
});

function rig(driver: Driver) {
  const attached: (VhostUserAttachment | undefined)[] = [];
  const attach = async (a: VhostUserAttachment | undefined) => void attached.push(a);
  const device = new VhostUserDevice({ portNo: 1, mtu: 1500, settings, rundir: '/tmp', attach });
  const handle = (code: number, payload: Uint8Array = new Uint8Array(0), fds: number[] = []) =>
    device.handle({ code, flags: wire.VERSION, payload }, fds);
  const region = { guestAddress: 0n, userAddress: 0n, size: BigInt(MEMORY_BYTES), mmapOffset: 0n };
  const start = async () => {
    const features = wire.bits(wire.PROTOCOL_FEATURES, ['PAGEFAULT', 'CONFIGURE_MEM_SLOTS']);
    await handle(wire.SET_PROTOCOL_FEATURES, wire.encodeU64(features));
    await handle(
      wire.SET_FEATURES,
      wire.encodeU64(wire.bits(wire.VIRTIO_FEATURES, ['VERSION_1', 'PROTOCOL_FEATURES'])),
    );
    const { txRing } = driver;
    await handle(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index: 1, num: txRing.size }));
    const [descriptors, available, used] = [txRing.base, txRing.availAt, txRing.usedAt].map(BigInt) as [
      bigint,
      bigint,
      bigint,
    ];
    await handle(
      wire.SET_VRING_ADDR,
      wire.VRING_ADDRESS.encode({ index: 1, flags: 0, descriptors, available, used, log: 0n }),
    );
    await handle(wire.SET_VRING_ENABLE, wire.VRING_STATE.encode({ index: 1, num: 1 }));
    await handle(wire.SET_VRING_KICK, wire.encodeU64(1n), [eventfd()]);
  };
  return { device, attached, handle, region, start };
}

const OK = wire.encodeU64(0n);

for (const one of [false, true]) {
  maybe(
    `regions are told by address, and used once the front end brings their pages (${one ? 'ADD_MEM_REG' : 'SET_MEM_TABLE'})`,
    async (t) => {
      const driver = new Driver(1);
      driver.bytes.fill(0, 0, 1 << 20);
      const { device, attached, handle, region, start } = rig(driver);
      await start();
      await t.throwsAsync(handle(wire.POSTCOPY_LISTEN), { message: /without POSTCOPY_ADVISE/ });
      for (let pair = 0; pair < 2; pair++) {
        const advice = (await handle(wire.POSTCOPY_ADVISE))!;
        t.is(advice.bytes.length, wire.HEADER_BYTES);
        t.true(advice.fd >= 0);
        close(advice.fd);
      }
      await handle(wire.POSTCOPY_LISTEN);
      const code = one ? wire.ADD_MEM_REG : wire.SET_MEM_TABLE;
      const payload = one ? wire.encodeRegion(region) : wire.encodeMemoryTable([region]);
      const told = (await handle(code, payload, [dup(driver.fd)]))!.bytes.subarray(wire.HEADER_BYTES);
      t.is(told.length, payload.length);
      const { userAddress, ...rest } = one ? wire.decodeRegion(told) : wire.decodeMemoryTable(told)[0]!;
      t.deepEqual(rest, { guestAddress: 0n, size: region.size, mmapOffset: 0n });
      t.deepEqual(attached, []);
      t.is(await handle(code, OK), undefined);
      const { regions } = attached.at(-1)!;
      t.is(regions[0]!.mapped, Number(userAddress));
      // Workers share the mapping.
      const memory = new GuestMemory(regions, 1);
      t.is(memory.base[0], Number(userAddress));
      driver.bytes[5] = 55;
      t.is(new Uint8Array(memory.buffers[0]!)[5], 55);
      memory.close();
      t.is(new Uint8Array(memory.buffers[0]!)[5], 55);
      t.is(device.facts()['postcopy'], 'listening');
      t.is(wire.decodeU64((await handle(wire.POSTCOPY_END))!.bytes.subarray(wire.HEADER_BYTES)), 0n);
      t.false('postcopy' in device.facts());
      t.truthy(attached.at(-1));
      await device.close();
      driver.close();
    },
  );
}

maybe('listening with memory in use, and a front end that cannot bring pages, are refused', async (t) => {
  const user = { detach: async () => {}, apply: async () => {}, forget: async () => {} };
  const driver = new Driver(1);
  const early = new MemoryMessages(1, user);
  const region = { guestAddress: 0n, userAddress: 0n, size: BigInt(MEMORY_BYTES), mmapOffset: 0n };
  t.is(await early.set(wire.encodeMemoryTable([region]), [dup(driver.fd)]), undefined);
  const { fd } = (await early.advise()) as AnswerWithFd;
  close(fd);
  await t.throwsAsync(early.listen(), { instanceOf: RefusedError, message: /with memory in use/ });
  await t.throwsAsync(early.confirmed(wire.encodeU64(1n)), { instanceOf: RefusedError });
  early.clear();
  driver.close();
});

maybe('a front end that goes while a worker waits for a page lets the worker go on', async (t) => {
  const sw = await SwitchProcess.start('--default');
  const driver = new Driver(1);
  let front: FrontEnd | undefined;
  try {
    await sw.vsctl('add-port', 'br0', 'late', '--', 'set', 'Interface', 'late', 'type=vhost-user');
    front = await FrontEnd.connect(sw.socket('late'));
    // All that rings are made of is there.
    driver.bytes.fill(0, 0, 1 << 20);
    const protocol = wire.bits(wire.PROTOCOL_FEATURES, ['PAGEFAULT', 'REPLY_ACK']);
    front.send(wire.SET_PROTOCOL_FEATURES, wire.encodeU64(protocol));
    front.send(wire.SET_FEATURES, wire.encodeU64(wire.bits(wire.VIRTIO_FEATURES, ['VERSION_1', 'PROTOCOL_FEATURES'])));
    front.send(wire.POSTCOPY_ADVISE);
    await front.reply();
    t.is(await front.acknowledged(wire.POSTCOPY_LISTEN), 0n);
    front.send(wire.SET_MEM_TABLE, ...front.memoryTable(driver));
    await front.reply();
    front.send(wire.SET_MEM_TABLE, OK);
    // The frame lies in a page that was never written.
    driver.txRing.addChain([[MEMORY_BYTES / 2, 100]], false, false);
    front.ring(driver, 1);
    front.enable(1, true);
    await sw.linkUp('late');
    await until('a worker to wait for the page', () => (waitsForPage(sw.datapathPid) ? true : undefined), PATIENCE_MS);
    front.close();
    front = undefined;
    const [a, b] = [await sw.guest('vhost0'), await sw.guest('vhost1')];
    await sw.linkUp('vhost0', 'vhost1');
    const frame = Buffer.alloc(60, 0xff);
    frame.writeUInt16BE(0x88b5, 12);
    await send(a, [frame]);
    t.is((await receive(b, 1)).length, 1);
  } finally {
    front?.close();
    driver.close();
    await sw.close();
  }
});

/** Whether a thread is in a page fault that another process serves; where the system does not say, it may be. */
function waitsForPage(pid: number): boolean {
  const tasks = readdirSync(`/proc/${pid}/task`);
  const where = tasks.map((task) => readFileSync(`/proc/${pid}/task/${task}/wchan`, 'utf8'));
  return where.some((name) => name.includes('userfault')) || where.every((name) => name === '0');
}
