import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { PORT_ROW } from '#contract/catalogue.ts';
import { close, eventfdDrain, unixConnect, unixListen } from '#contract/os.ts';
import type { PortSession, PortStatus, WorkerPort } from '#ports/port.ts';
import { vhostPort, vhostSessions } from '#ports/vhost-user/factory.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { scratchDir, sleep, until } from '../../support/process.ts';
import { Driver } from './driver.ts';
import { FrontEnd } from './front-end.ts';
import { batch } from './test-port.ts';

const dir = scratchDir('rwvu');
const list = Int32Array.from({ length: 32 }, (_, i) => i);
let names = 0;

/** A session in a data process of one worker that does nothing by itself. */
class Rig {
  readonly path = join(dir, `p${names++}`);
  readonly counters = new Float64Array(PORT_ROW);
  readonly states: string[] = [];
  readonly session: PortSession;
  port: WorkerPort | undefined;
  attaches = 0;

  constructor(options: Record<string, string> = {}, type = 'vhost-user') {
    const config = { portNo: 5, name: 'p', type, options: { path: this.path, ...options }, mtu: 1500 };
    this.session = vhostSessions(dir)(config, {
      attach: async (_, attachment) => {
        this.attaches++;
        await sleep(1);
        const previous = this.port;
        const context = { worker: 0, workers: 1, counters: { slots: this.counters, base: 0 }, batch };
        this.port = attachment && vhostPort(attachment, context, previous);
        if (!attachment) previous?.close();
      },
      status: (_, status: PortStatus) => {
        if (this.states.at(-1) !== status.state) this.states.push(status.state);
      },
    });
  }

  reach(state: string): Promise<unknown> {
    return until(
      `state ${state}`,
      () => this.session.status().state === state,
      5000,
      () => JSON.stringify(this.session.status()),
    );
  }

  /** Both rings of the queue pair are there. */
  ready(): Promise<unknown> {
    return until(
      'both rings',
      () => this.port?.rx.length === 1 && this.port.tx !== undefined,
      5000,
      () => JSON.stringify(this.session.status()),
    );
  }

  /** Sends back what the guest sent. */
  echo(): number {
    const rx = this.port?.rx[0];
    const tx = this.port?.tx;
    if (!rx || !tx) return 0;
    const n = rx.poll(batch);
    if (n > 0) {
      tx.push(batch, list, n);
      batch.copy();
      tx.publish();
      rx.complete();
      batch.clear();
    }
    return n;
  }
}

const FEATURES = wire.bits(wire.VIRTIO_FEATURES, ['VERSION_1', 'MRG_RXBUF', 'PROTOCOL_FEATURES', 'INDIRECT_DESC']);
const frame = Buffer.from(Array.from({ length: 300 }, (_, i) => i & 0xff));

/** One frame out and back. */
async function exchange(rig: Rig, driver: Driver): Promise<Buffer | undefined> {
  driver.post(2048);
  driver.send(frame);
  rig.echo();
  driver.txRing.takeUsed();
  return driver.receive()[0]?.frame;
}

const driverOf = () => new Driver(0, { tx: { mergeable: true } });

for (const mode of ['server', 'client'] as const) {
  for (const order of ['virtioUser', 'qemu'] as const) {
    test.serial(
      `mode ${mode}: frames pass after the messages in the order of ${order}, and again after a reconnect`,
      async (t) => {
        const rig = new Rig({ mode });
        await rig.session.start();
        const driver = driverOf();
        let base = 0;
        for (let turn = 0; turn < 3; turn++) {
          const guest = await (mode === 'server' ? FrontEnd.connect(rig.path) : FrontEnd.listen(rig.path));
          await guest[order](driver, FEATURES, base);
          await rig.ready();
          t.true((await exchange(rig, driver))?.equals(frame));
          t.true(eventfdDrain(guest.events[0]!) >= 0 || order === 'qemu');
          base++;
          guest.close();
          await until('the port to be down', () => rig.port === undefined);
        }
        await rig.session.stop();
        t.false(existsSync(rig.path) && mode === 'server');
        driver.close();
      },
    );
  }
}

const PACKED = FEATURES | wire.bits(wire.VIRTIO_FEATURES, ['RING_PACKED', 'EVENT_IDX', 'IN_ORDER']);

for (const order of ['virtioUser', 'qemu'] as const) {
  test.serial(`packed rings go on after every reconnect in the order of ${order}, whatever base comes`, async (t) => {
    const rig = new Rig();
    await rig.session.start();
    // Seven entries: a size that a split ring cannot have, and a lap is short.
    const driver = new Driver(0, { packed: true, size: 7, tx: { mergeable: true } });
    for (const [turn, base] of [0x8000, 0, 0x8000_8000, 0x8000, 0, 0x8003].entries()) {
      const guest = await FrontEnd.connect(rig.path);
      await guest[order](driver, PACKED, base);
      await rig.ready();
      for (let i = 0; i < 4; i++) t.true((await exchange(rig, driver))?.equals(frame), `turn ${turn}`);
      guest.close();
      await until('the port to be down', () => rig.port === undefined);
    }
    await rig.session.stop();
    driver.close();
  });
}

test.serial('GET_VRING_BASE of a packed ring names entry and lap twice, and a ring begins there', async (t) => {
  const rig = new Rig();
  await rig.session.start();
  const driver = new Driver(0, { packed: true, size: 7, tx: { mergeable: true } });
  const guest = await FrontEnd.connect(rig.path);
  await guest.virtioUser(driver, PACKED, 0x8000);
  await rig.ready();
  for (const place of [0x8003, 0x8006, 2]) {
    for (let i = 0; i < 3; i++) t.true((await exchange(rig, driver))?.equals(frame));
    for (const index of [0, 1]) {
      guest.send(wire.GET_VRING_BASE, wire.VRING_STATE.encode({ index, num: 0 }));
      const { num } = wire.VRING_STATE.decode((await guest.reply()).payload);
      t.is(num, ((place << 16) | place) >>> 0);
      guest.ring(driver, index, num);
    }
    await rig.ready();
  }
  t.is(rig.session.status().facts['vring_0_size'], '7');
  guest.close();
  await rig.session.stop();
  driver.close();
});

test.serial(
  'a ring is refused that its kind cannot have, and packed rings are not offered where they are off',
  async (t) => {
    const rig = new Rig({ packed: 'off' });
    await rig.session.start();
    const guest = await FrontEnd.connect(rig.path);
    const offered = await guest.ask(wire.GET_FEATURES);
    t.false(wire.hasBit(offered, wire.VIRTIO_FEATURES.RING_PACKED));
    t.true(wire.hasBit(offered, wire.VIRTIO_FEATURES.IN_ORDER));
    guest.send(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index: 0, num: 7 }));
    await guest.closed();
    t.regex(rig.session.status().lastError, /7 entries; a split ring has a power of two/);
    await rig.session.stop();

    const packed = new Rig();
    await packed.session.start();
    const other = await FrontEnd.connect(packed.path);
    other.send(wire.SET_FEATURES, wire.encodeU64(PACKED));
    other.send(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index: 0, num: 7 }));
    other.send(wire.SET_VRING_BASE, wire.VRING_STATE.encode({ index: 0, num: 0x8007 }));
    await other.closed();
    t.regex(packed.session.status().lastError, /entry 7; it has 7/);
    await packed.session.stop();
    other.close();
    guest.close();
  },
);

test.serial('without the protocol features a kick enables a ring', async (t) => {
  const rig = new Rig();
  await rig.session.start();
  const guest = await FrontEnd.connect(rig.path);
  const driver = driverOf();
  guest.send(wire.SET_OWNER);
  t.true(wire.hasBit(await guest.ask(wire.GET_FEATURES), wire.VIRTIO_FEATURES.VERSION_1));
  guest.send(wire.SET_FEATURES, wire.encodeU64(wire.bits(wire.VIRTIO_FEATURES, ['VERSION_1', 'MRG_RXBUF'])));
  guest.send(wire.SET_MEM_TABLE, ...guest.memoryTable(driver));
  for (const index of [0, 1]) guest.ring(driver, index);
  await rig.ready();
  await rig.ready();
  t.true((await exchange(rig, driver))?.equals(frame));
  guest.close();
  await rig.session.stop();
  driver.close();
});

test.serial('rings stop and go on where they were: GET_VRING_BASE, disable, new memory table', async (t) => {
  const rig = new Rig();
  await rig.session.start();
  const guest = await FrontEnd.connect(rig.path);
  const driver = driverOf();
  await guest.virtioUser(driver, FEATURES);
  await rig.ready();
  for (let i = 0; i < 3; i++) t.truthy(await exchange(rig, driver));

  guest.enable(1, false);
  await until('the rx queue to go', () => rig.port?.rx.length === 0);
  t.truthy(rig.port?.tx);
  guest.enable(1, true);
  await until('the rx queue to come', () => rig.port?.rx.length === 1);
  t.truthy(await exchange(rig, driver));

  t.is(await guest.acknowledged(wire.SET_MEM_TABLE, ...guest.memoryTable(driver)), 0n);
  t.truthy(await exchange(rig, driver));

  for (const index of [0, 1]) {
    guest.send(wire.GET_VRING_BASE, wire.VRING_STATE.encode({ index, num: 0 }));
    t.deepEqual(wire.VRING_STATE.decode((await guest.reply()).payload), { index, num: 5 });
  }
  t.is(rig.port, undefined);
  t.is(rig.session.status().state, 'rings-stopped');
  for (const index of [0, 1]) guest.ring(driver, index, 5);
  await rig.ready();
  t.truthy(await exchange(rig, driver));
  guest.close();
  await rig.session.stop();
  driver.close();
});

test.serial('the message that agrees on REPLY_ACK may ask for an answer itself', async (t) => {
  const rig = new Rig();
  await rig.session.start();
  const guest = await FrontEnd.connect(rig.path);
  t.is(await guest.acknowledged(wire.SET_PROTOCOL_FEATURES, wire.encodeU64(8n)), 0n);
  guest.close();
  await rig.session.stop();
});

test.serial('a front end that asks and goes before it is answered has done nothing wrong', async (t) => {
  const rig = new Rig();
  await rig.session.start();
  const [first, second] = [await FrontEnd.connect(rig.path), await FrontEnd.connect(rig.path)];
  await first.ask(wire.GET_FEATURES);
  // In the backlog, behind the first.
  second.send(wire.GET_FEATURES);
  second.close();
  first.close();
  const third = await FrontEnd.connect(rig.path);
  t.true(wire.hasBit(await third.ask(wire.GET_FEATURES), wire.VIRTIO_FEATURES.VERSION_1));
  t.is(rig.session.status().lastError, '');
  third.close();
  await rig.session.stop();
});

test.serial('what is unknown, wrong or impossible is answered where an answer was asked for', async (t) => {
  const rig = new Rig();
  await rig.session.start();
  const guest = await FrontEnd.connect(rig.path);
  const driver = driverOf();
  guest.send(99, new Uint8Array(40), [driver.fd, driver.fd]);
  guest.send(wire.SET_PROTOCOL_FEATURES, wire.encodeU64(0x10009n));
  t.is(await guest.acknowledged(99, new Uint8Array(100), [driver.fd]), 1n);
  t.is(await guest.acknowledged(wire.NET_SET_MTU, wire.encodeU64(1500n)), 1n, 'its feature was not negotiated');
  t.is(await guest.acknowledged(wire.SET_FEATURES, wire.encodeU64(1n << 63n)), 1n);
  t.is(await guest.acknowledged(wire.SET_FEATURES, new Uint8Array(4)), 1n);
  t.is(await guest.acknowledged(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index: 0, num: 100 })), 1n);
  t.is(await guest.acknowledged(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index: 999, num: 256 })), 1n);
  const region = { guestAddress: 0n, size: 1n << 30n, userAddress: 0n, mmapOffset: 0n };
  t.is(await guest.acknowledged(wire.SET_MEM_TABLE, wire.encodeMemoryTable([region]), [driver.fd]), 1n);
  t.is(rig.session.status().state, 'no-shared-memory');
  t.regex(rig.session.status().lastError, /region 0 ends at byte 1073741824 of a file of 16777216 bytes/);
  t.is(await guest.acknowledged(wire.SET_MEM_TABLE, ...guest.memoryTable(driver)), 0n);
  t.is(rig.session.status().state, 'rings-stopped');
  guest.send(wire.SET_FEATURES, new Uint8Array(4));
  await guest.closed();
  await rig.reach('error');
  t.regex(rig.session.status().lastError, /SET_FEATURES has a payload of 4 bytes, not 8/);
  guest.close();
  await rig.session.stop();
  driver.close();
});

test.serial(
  'a fault, or a ring that makes no sense, closes the connection with a name; the next guest comes up',
  async (t) => {
    const rig = new Rig();
    await rig.session.start();
    const driver = driverOf();
    const guest = await FrontEnd.connect(rig.path);
    await guest.virtioUser(driver, FEATURES);
    await rig.ready();
    rig.session.fault('guest memory was truncated');
    await guest.closed();
    await rig.reach('error');
    t.is(rig.session.status().lastError, 'guest memory was truncated');
    guest.close();

    const hostile = await FrontEnd.connect(rig.path);
    await hostile.virtioUser(driver, FEATURES);
    await rig.ready();
    driver.txRing.setAvailIndex(5000);
    t.is(rig.port?.rx[0]?.poll(batch), 0);
    await hostile.closed();
    await rig.reach('error');
    t.regex(rig.session.status().lastError, /ring 1: available index ahead/);
    hostile.close();

    driver.startAt(0);
    const good = await FrontEnd.connect(rig.path);
    await good.virtioUser(driver, FEATURES);
    await rig.ready();
    await rig.reach('up');
    t.is(rig.session.status().lastError, '');
    good.close();
    await rig.session.stop();
    driver.close();
  },
);

test.serial('a stale socket is replaced; a live one and other files are left alone', async (t) => {
  const stale = new Rig();
  close(unixListen(stale.path));
  t.true(statSync(stale.path).isSocket());
  await stale.session.start();
  close(unixConnect(stale.path));

  const second = new Rig({ path: stale.path });
  await t.throwsAsync(second.session.start(), { message: /another process listens on/ });
  await second.session.stop();
  t.true(existsSync(stale.path));
  await stale.session.stop();
  t.false(existsSync(stale.path));

  const file = new Rig();
  writeFileSync(file.path, 'precious');
  await t.throwsAsync(file.session.start(), { message: /is not a socket/ });
  await file.session.stop();
  t.is(readFileSync(file.path, 'utf8'), 'precious');
  const folder = new Rig();
  mkdirSync(folder.path);
  await t.throwsAsync(folder.session.start(), { message: /is not a socket/ });
  await folder.session.stop();
});

test.serial('socket permissions follow the option, and options that make no sense are named', async (t) => {
  const rig = new Rig({ 'socket-mode': '0600' });
  await rig.session.start();
  t.is(statSync(rig.path).mode & 0o777, 0o600);
  await rig.session.stop();
  t.throws(() => new Rig({ mode: 'both' }), { message: /option mode is "both"; it takes server or client/ });
  t.throws(() => new Rig({ colour: 'red' }), { message: /option colour of port p is not known/ });
  t.throws(() => new Rig({ 'tx-retries-max': '33' }), { message: /tx-retries-max is "33"; it takes 0 to 32/ });
  t.throws(() => new Rig({}, 'dpdkvhostuserclient'), { message: /vhost-server-path of port p is missing/ });
  t.throws(() => new Rig({ path: `/${'x'.repeat(120)}` }), { message: /at most 107 fit/ });
});

test.serial('dropped connections at any message leave no descriptor and no mapping behind', async (t) => {
  const rig = new Rig();
  await rig.session.start();
  const driver = driverOf();
  const maps = () =>
    readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .filter((line) => line.includes('memfd:driver')).length;
  const fds = () => readdirSync('/proc/self/fd').length;
  let before = { maps: 0, fds: 0 };
  for (let turn = 0; turn < 30; turn++) {
    // The first turns open what stays open: watcher, epoll.
    if (turn === 3) before = { maps: maps(), fds: fds() };
    const guest = await FrontEnd.connect(rig.path);
    const steps: (() => void)[] = [
      () => guest.send(wire.SET_OWNER),
      () => guest.send(wire.SET_MEM_TABLE, ...guest.memoryTable(driver)),
      () => guest.call(0),
      () => guest.ring(driver, 0),
      () => guest.enable(0, true),
      () => guest.send(wire.SET_MEM_TABLE, ...guest.memoryTable(driver)),
      () => guest.ring(driver, 1),
      () => guest.enable(1, true),
      () => guest.send(77, new Uint8Array(8), [driver.fd, driver.fd]),
    ];
    for (const step of steps.slice(0, turn % (steps.length + 1))) step();
    if (turn % 2 === 0) await sleep(5);
    guest.close();
    await until(
      'the connection to be gone',
      () => rig.session.status().facts['status'] === 'disconnected' && !rig.session.status().facts['features'],
    );
  }
  t.deepEqual({ maps: maps(), fds: fds() }, before);
  await rig.session.stop();
  driver.close();
});
