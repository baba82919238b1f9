/** The protocol features beside moving frames, message by message against a device. */
import test from 'ava';
import { PORT_ROW } from '#contract/catalogue.ts';
import { close, dup, eventfd, fileSize, memfd, recvWithFds, sendWithFds, socketPair } from '#contract/os.ts';
import type { WorkerPort } from '#ports/port.ts';
import { rarpFrame } from '#ports/vhost-user/announce.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { BackendChannel } from '#ports/vhost-user/backend-channel.ts';
import { NetConfig } from '#ports/vhost-user/config.ts';
import { VhostUserDevice } from '#ports/vhost-user/device.ts';
import { vhostPort } from '#ports/vhost-user/factory.ts';
import { OFFERED_PROTOCOL } from '#ports/vhost-user/features.ts';
import { parseOptions } from '#ports/vhost-user/options.ts';
import { Services } from '#ports/vhost-user/services.ts';
import * as wire from '#ports/vhost-user/wire.ts';
import { removeScratchDir, scratchDir, until } from '../../support/process.ts';
import { Driver, GUEST_BASE, MEMORY_BYTES } from './driver.ts';
import { batch, TestPort } from './test-port.ts';

const list = Int32Array.from({ length: 32 }, (_, i) => i);
const settings = parseOptions({ portNo: 1, name: 'p', type: 'vhost-user', options: { n_rxq: '1' }, mtu: 1500 }, '/tmp');
const FEATURES = wire.bits(wire.VIRTIO_FEATURES, ['VERSION_1', 'PROTOCOL_FEATURES', 'LOG_ALL']);

/** A device with one worker. */
class Rig {
  readonly dir = scratchDir('rwsv');
  readonly driver = new Driver(1);
  readonly device: VhostUserDevice;
  readonly attached: (VhostUserAttachment | undefined)[] = [];
  port: WorkerPort | undefined;

  constructor() {
    this.device = new VhostUserDevice({
      portNo: 1,
      mtu: 1500,
      settings,
      rundir: this.dir,
      attach: async (attachment) => {
        this.attached.push(attachment);
        const counters = { slots: new Float64Array(PORT_ROW), base: 0 };
        const previous = this.port;
        this.port = attachment && vhostPort(attachment, { worker: 0, workers: 1, counters, batch }, previous);
        if (!attachment) previous?.close();
      },
    });
  }

  async send(
    code: number,
    payload: Uint8Array = new Uint8Array(0),
    fds: number[] = [],
  ): Promise<wire.Message & { fd: number }> {
    const reply = await this.device.handle({ code, flags: wire.VERSION | wire.FLAG_NEED_REPLY, payload }, fds);
    const reader = new wire.MessageReader();
    reader.push(reply!.bytes.subarray(0, wire.HEADER_BYTES));
    const payloadOf = reply!.bytes.subarray(wire.HEADER_BYTES);
    return { code, flags: 0, payload: payloadOf, fd: reply!.fd };
  }

  async ok(code: number, payload?: Uint8Array, fds?: number[]): Promise<boolean> {
    return wire.decodeU64((await this.send(code, payload, fds)).payload) === 0n;
  }

  region(from: number, to: number): Uint8Array {
    return wire.encodeRegion({
      guestAddress: BigInt(GUEST_BASE + from),
      userAddress: BigInt(from),
      size: BigInt(to - from),
      mmapOffset: BigInt(from),
    });
  }

  /** Features and both rings, with memory given region by region. */
  async start(cut = MEMORY_BYTES / 2): Promise<void> {
    await this.device.handle({ code: wire.SET_FEATURES, flags: 1, payload: wire.encodeU64(FEATURES) }, []);
    const agreed = wire.encodeU64(OFFERED_PROTOCOL);
    await this.device.handle({ code: wire.SET_PROTOCOL_FEATURES, flags: 1, payload: agreed }, []);
    await this.ok(wire.ADD_MEM_REG, this.region(0, cut), [dup(this.driver.fd)]);
    await this.ok(wire.ADD_MEM_REG, this.region(cut, MEMORY_BYTES), [dup(this.driver.fd)]);
    for (const index of [0, 1]) {
      const ring = index === 0 ? this.driver.rxRing : this.driver.txRing;
      await this.ok(wire.SET_VRING_NUM, wire.VRING_STATE.encode({ index, num: ring.size }));
      const [descriptors, available, used] = [ring.base, ring.availAt, ring.usedAt].map(BigInt) as [
        bigint,
        bigint,
        bigint,
      ];
      await this.ok(
        wire.SET_VRING_ADDR,
        wire.VRING_ADDRESS.encode({ index, flags: 0, descriptors, available, used, log: 0n }),
      );
      await this.ok(wire.SET_VRING_KICK, wire.encodeU64(BigInt(index)), [eventfd()]);
      await this.ok(wire.SET_VRING_ENABLE, wire.VRING_STATE.encode({ index, num: 1 }));
    }
  }

  /** Sends back what the guest sent. */
  echo(): number {
    const rx = this.port!.rx[0]!;
    const n = rx.poll(batch);
    if (n > 0) {
      this.port!.tx!.push(batch, list, n);
      batch.copy();
      this.port!.tx!.publish();
      rx.complete();
    }
    batch.clear();
    return n;
  }

  async close(): Promise<void> {
    await this.device.close();
    this.driver.close();
    removeScratchDir(this.dir);
  }
}

test.serial('memory regions are added and removed while frames cross', async (t) => {
  const rig = new Rig();
  try {
    await rig.start();
    t.is(wire.decodeU64((await rig.send(wire.GET_MAX_MEM_SLOTS)).payload), BigInt(wire.MAX_REGIONS));
    const extra = memfd('extra', 1 << 20);
    for (let i = 0; i < 8; i++) {
      const row = wire.encodeRegion({
        guestAddress: BigInt(i + 1) << 36n,
        userAddress: BigInt(i + 1) << 36n,
        size: 1n << 20n,
        mmapOffset: 0n,
      });
      const exchange = () => {
        rig.driver.post(2048);
        rig.driver.send(new Uint8Array(300).fill(i));
        t.is(rig.echo(), 1);
        t.is(rig.driver.receive()[0]?.frame[299], i);
        rig.driver.txRing.takeUsed();
      };
      t.true(await rig.ok(wire.ADD_MEM_REG, row, [dup(extra)]));
      exchange();
      t.true(await rig.ok(wire.ADD_MEM_REG, row, [dup(extra)]), 'the same region twice');
      t.true(await rig.ok(wire.REM_MEM_REG, row));
      exchange();
      t.true(await rig.ok(wire.REM_MEM_REG, row));
      exchange();
      t.false(await rig.ok(wire.REM_MEM_REG, row), 'a region that is gone');
      t.not(rig.attached.at(-1), undefined);
    }
    close(extra);
    // Taking the buffers' region away leaves the rings; taking theirs stops them.
    t.true(await rig.ok(wire.REM_MEM_REG, rig.region(MEMORY_BYTES / 2, MEMORY_BYTES)));
    t.true(rig.device.up);
    t.true(await rig.ok(wire.REM_MEM_REG, rig.region(0, MEMORY_BYTES / 2)));
    t.false(rig.device.up);
    t.false(rig.device.hasMemory);
  } finally {
    await rig.close();
  }
});

test.serial('a guest that arrived is announced once, as if it had spoken itself', async (t) => {
  const rig = new Rig();
  const mac = Uint8Array.of(2, 0, 0, 0, 0xab, 0xcd);
  try {
    await rig.start();
    t.true(await rig.ok(wire.SEND_RARP, Uint8Array.of(...mac, 0, 0)));
    const rx = rig.port!.rx[0]!;
    t.true(rx.arm(), 'an announcement waits');
    t.is(rx.poll(batch), 1);
    t.deepEqual(batch.u8.slice(batch.start[0]!, batch.start[0]! + 60), rarpFrame(mac));
    t.is(batch.inPort, 1);
    const other = new TestPort(2);
    other.driver.post(2048);
    other.port.tx!.push(batch, list, 1);
    batch.copy();
    other.port.tx!.publish();
    t.deepEqual(
      other.driver.receive().map(({ frame }) => new Uint8Array(frame)),
      [rarpFrame(mac)],
    );
    other.close();
    rx.complete();
    batch.clear();
    t.is(rx.poll(batch), 0);
    await rig.device.tidy();
    t.is(rig.attached.at(-1)!.announce, undefined);
    rig.driver.post(2048);
    rig.driver.send(new Uint8Array(60).fill(9));
    t.is(rig.echo(), 1);
    t.deepEqual([...rarpFrame(mac).subarray(12, 22)], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
  } finally {
    await rig.close();
  }
});

test.serial('a log is taken, replaced and let go; one that is too short is refused', async (t) => {
  const rig = new Rig();
  try {
    await rig.start();
    const fd = memfd('log', 8192);
    const base = (size: bigint, offset = 0n) => wire.LOG.encode({ size, offset });
    t.deepEqual(await rig.ok(wire.SET_LOG_BASE, base(4096n), [dup(fd)]), true);
    t.like(rig.attached.at(-1), { logAll: true, log: { size: 4096, offset: 0 } });
    t.true(await rig.ok(wire.SET_LOG_BASE, base(4096n, 4096n), [dup(fd)]));
    t.like(rig.attached.at(-1), { log: { offset: 4096 } });
    t.is(batch.copyLogs.length, 1);
    await t.throwsAsync(rig.send(wire.SET_LOG_BASE, base(8193n), [fd]), { message: /file of 8192/ });
    await rig.send(wire.RESET_DEVICE);
    t.is(rig.attached.at(-1), undefined);
    t.is(batch.copyLogs.length, 0);
    close(fd);
  } finally {
    await rig.close();
  }
});

test.serial('the configuration is that of a network card; only its address can be written', async (t) => {
  const rig = new Rig();
  try {
    await rig.start();
    const ask = async (offset: number, size: number) =>
      (await rig.send(wire.GET_CONFIG, wire.encodeConfig({ offset, flags: 0, bytes: new Uint8Array(size) }))).payload;
    const { bytes } = wire.decodeConfig(await ask(0, 24));
    t.deepEqual([...bytes], [0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0xdc, 5, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0]);
    t.deepEqual([...wire.decodeConfig(await ask(10, 2)).bytes], [0xdc, 5]);
    t.deepEqual([...wire.decodeConfig(await ask(22, 6)).bytes], [0, 0, 0, 0, 0, 0]);
    const mac = Uint8Array.of(2, 3, 4, 5, 6, 7);
    t.true(await rig.ok(wire.SET_CONFIG, wire.encodeConfig({ offset: 0, flags: 0, bytes: mac })));
    t.deepEqual(wire.decodeConfig(await ask(0, 6)).bytes, mac);
    t.false(await rig.ok(wire.SET_CONFIG, wire.encodeConfig({ offset: 4, flags: 0, bytes: mac })));
    await rig.device.setMtu(9000);
    t.deepEqual([...wire.decodeConfig(await ask(10, 2)).bytes], [0x28, 0x23]);
    t.is(rig.attached.at(-1)!.tx.mtu, 9000);
    t.throws(() => new NetConfig(1, 1500).write({ offset: 6, flags: 0, bytes: Uint8Array.of(0) }));
  } finally {
    await rig.close();
  }
});

test.serial('requests of the back end go out on their channel, answers are taken, nonsense ends it', async (t) => {
  const rig = new Rig();
  const [mine, theirs] = socketPair();
  const input = new Uint8Array(64);
  const fds = new Int32Array(4);
  try {
    await rig.start();
    t.true(await rig.ok(wire.SET_BACKEND_REQ_FD, undefined, [theirs]));
    t.is(rig.device.facts()['backend_channel'], 'open');
    await rig.device.setMtu(2000);
    t.is(recvWithFds(mine, input, 0, 64, fds), wire.HEADER_BYTES);
    t.deepEqual([...input.subarray(0, 12)], [wire.BACKEND_CONFIG_CHANGE, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    const answer = wire.encodeReply(wire.BACKEND_CONFIG_CHANGE, wire.encodeU64(0n));
    sendWithFds(mine, answer, 0, answer.length, null, 0);
    await rig.device.setMtu(2100);
    t.is(recvWithFds(mine, input, 0, 64, fds), wire.HEADER_BYTES);
    // Nobody asked for this.
    const nonsense = wire.encodeReply(77, wire.encodeU64(0n));
    sendWithFds(mine, nonsense, 0, nonsense.length, null, 0);
    await until('the channel to be closed', () => rig.device.facts()['backend_channel'] === undefined);
    t.true(rig.device.up, 'the connection stays');
    const zero = memfd('no socket', 1);
    t.throws(() => new BackendChannel(zero, true));
    close(zero);
  } finally {
    close(mine);
    await rig.close();
  }
});

test.serial('an inflight area is made, named and known again', async (t) => {
  const rig = new Rig();
  try {
    await rig.start();
    const wish = wire.INFLIGHT.encode({ size: 0n, offset: 0n, queues: 2, queueSize: 256 }, new Uint8Array(24));
    const { payload, fd } = await rig.send(wire.GET_INFLIGHT_FD, wish);
    t.is(payload.length, 24);
    t.deepEqual(wire.INFLIGHT.decode(payload), { size: 4096n, offset: 0n, queues: 2, queueSize: 256 });
    t.is(fileSize(fd), 4096);
    t.true(await rig.ok(wire.SET_INFLIGHT_FD, payload, [fd]));
    const first = rig.attached.at(-1)!.inflight!;
    t.true(await rig.ok(wire.SET_INFLIGHT_FD, payload, [fd]));
    t.deepEqual(rig.attached.at(-1)!.inflight, first);
    t.false(await rig.ok(wire.SET_INFLIGHT_FD, payload, []));
    t.false(
      await rig.ok(wire.SET_INFLIGHT_FD, wire.INFLIGHT.encode({ size: 9000n, offset: 0n, queues: 2, queueSize: 1 }), [
        fd,
      ]),
    );
    close(fd);
  } finally {
    await rig.close();
  }
});

test.serial('descriptors that are no events are refused at the door', async (t) => {
  const rig = new Rig();
  try {
    await rig.start();
    const file = memfd('no event', 1);
    t.false(await rig.ok(wire.SET_VRING_CALL, wire.encodeU64(0n), [file]));
    t.true(rig.device.up);
    close(file);
  } finally {
    await rig.close();
  }
});

test('a reset forgets an announcement that was not made', (t) => {
  const words = new Int32Array(64);
  const services = new Services(1, '/tmp', 1, 1500, words);
  services.announce(Uint8Array.of(2, 0, 0, 0, 0, 1, 0, 0));
  t.deepEqual(services.parts(), { announce: [2, 0, 0, 0, 0, 1] });
  t.false(services.announced());
  services.reset()();
  t.deepEqual(services.parts(), {});
  t.true(words.every((word) => word === 0));
  services.close();
});
