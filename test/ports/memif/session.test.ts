import { existsSync, readdirSync, statSync } from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import { close, eventfd, memfd, pipe } from '#contract/os.ts';
import { SLOTS } from '#datapath/packet/batch.ts';
import { listen } from '#ports/memif/listener.ts';
import * as wire from '#ports/memif/wire.ts';
import type { WorkerPort } from '#ports/port.ts';
import { until } from '../../support/process.ts';
import { Client, Control, init, newPath, Rig } from './control.ts';
import { batch, settingsOf } from './peer.ts';

const list = Int32Array.from({ length: SLOTS }, (_, i) => i);
const openFds = (): number => readdirSync('/proc/self/fd').length;

/** Sends what one port got out of the other. */
function forward(from: WorkerPort, to: WorkerPort, queue = 0): number {
  const n = from.rx[queue]!.poll(batch);
  if (n > 0) {
    to.tx!.push(batch, list, n);
    batch.copy();
    to.tx!.publish();
    from.rx[queue]!.complete();
  }
  batch.clear();
  return n;
}

test.serial(
  'a client gets HELLO, has each request acknowledged, and its frames through; the port says who it is',
  async (t) => {
    const path = newPath();
    const rig = new Rig({ path });
    await rig.session.start();
    const client = await Client.connect(path);
    const hello = wire.HELLO_LAYOUT.decode(await client.control.expect(wire.HELLO), 2);
    t.deepEqual(hello, {
      name: 'ringway',
      minVersion: 0x200,
      maxVersion: 0x200,
      maxRegion: 63,
      maxM2sRing: 127,
      maxS2mRing: 127,
      maxLog2RingSize: 14,
    });
    for (const [i, [bytes, fds]] of client.steps({ name: 'prog\x01ram' }).entries()) {
      client.control.send(bytes, fds);
      const answer = await client.control.expect(i === 4 ? wire.CONNECTED : wire.ACK);
      if (i === 4) t.is(wire.CONNECT_LAYOUT.decode(answer, 2).name, 'p5');
    }
    await rig.reach('up');
    client.view.setUint16(128 + 256 + 6, 16, true);
    client.sendFrame(100);
    t.is(forward(rig.port!, rig.port!), 1);
    t.is(client.view.getUint32(128 + 256 + 128 + 4, true), 100);
    const { facts, linkUp, lastError } = rig.session.status();
    t.deepEqual(facts, {
      role: 'server',
      status: 'connected',
      socket: path,
      id: '0',
      mtu: '1500',
      peer_pid: String(process.pid),
      remote_app: 'prog?ram',
      peer_name: 'script0',
      memory: 'sealed',
      memory_regions: '1',
      memory_bytes: String(client.view.byteLength),
      rx_ring_0_size: '16',
      tx_ring_0_size: '16',
    });
    t.deepEqual([linkUp, lastError], [true, '']);
    client.close();
    await rig.reach('waiting-socket');
    t.is(rig.port, undefined);
    await rig.session.stop();
    t.false(existsSync(path));
  },
);

for (const secret of ['', 'open sesame, 24 bytes!!!']) {
  test.serial(`two ports of this switch are each other's peers, secret "${secret}"`, async (t) => {
    const path = newPath();
    const more: Record<string, string> = secret ? { secret } : {};
    const server = new Rig({ path, role: 'server', id: '7', ...more }, 1);
    const client = new Rig({ path, role: 'client', id: '7', n_rxq: '2', 'ring-size': '64', ...more }, 2);
    await client.session.start();
    await client.told(/ENOENT/);
    await server.session.start();
    await Promise.all([server.reach('up'), client.reach('up')]);
    const peers = () => [server, client].map(({ session }) => session.status().facts['peer_name']).join();
    await until('both names', () => peers() === 'p2,p1', 5000, peers);
    t.is(client.session.status().facts['rx_ring_1_size'], '64');
    // The ports stand back to back: a frame goes to and fro.
    batch.u8.fill(0x5a, 66, 130);
    batch.start[0] = 66;
    batch.headLength[0] = 64;
    batch.length[0] = 64;
    batch.segmentCount[0] = 0;
    batch.vnetFlags[0] = 0;
    batch.gsoType[0] = 0;
    t.is(client.port!.tx!.push(batch, list, 1), 1);
    batch.copy();
    client.port!.tx!.publish();
    for (let i = 0; i < 500; i++) {
      t.is(forward(server.port!, server.port!), 1);
      t.is(forward(client.port!, client.port!), 1);
    }
    t.is(server.port!.rx[0]!.poll(batch), 1);
    t.true(batch.u8.subarray(batch.start[0], batch.start[0]! + 64).every((byte) => byte === 0x5a));
    server.port!.rx[0]!.complete();
    batch.clear();
    await server.session.stop();
    await client.reach('connecting');
    await client.session.stop();
  });
}

test.serial(
  'a client that has no right to come in is told why, and so is the port; the right one comes in after it',
  async (t) => {
    const path = newPath();
    const rig = new Rig({ path, id: '3', secret: 'abc' });
    await rig.session.start();
    const cases: [Uint8Array, string][] = [
      [init({ id: 3 }), 'secret required'],
      [init({ id: 3, secret: 'abd' }), 'wrong secret'],
      [init({ id: 3, secret: 'abcd' }), 'wrong secret'],
      [init({ id: 4, secret: 'abc' }), 'no interface has the id 4; ids here are 3'],
      [init({ id: 3, secret: 'abc', mode: 1 }), 'interface mode 1 is not ethernet (0)'],
      [init({ id: 3, secret: 'abc', version: 0x100 }), 'INIT is of version 0x100, not 0x200'],
      [wire.encodeConnect('x'), 'CONNECT came before INIT'],
    ];
    for (const [bytes, reason] of cases) {
      const control = await Control.connect(path);
      await control.expect(wire.HELLO);
      control.send(bytes);
      t.is(await control.refusal(), reason);
      control.close();
    }
    await rig.told(/^a client was refused: wrong secret; option secret must be the same on both sides$/);
    const client = await Client.connect(path);
    await client.negotiate({ id: 3, secret: 'abc' });
    await rig.reach('up');
    t.is(rig.session.status().lastError, '');
    const second = await Client.connect(path);
    await second.control.expect(wire.HELLO);
    second.control.send(init({ id: 3, secret: 'abc' }));
    t.is(await second.control.refusal(), 'another client is connected');
    t.is(rig.session.status().state, 'up');
    second.close();
    // A client that comes back at once finds the port ready for it, again and again.
    let last = client;
    for (let i = 0; i < 5; i++) {
      const next = await Client.connect(path);
      last.close();
      await next.negotiate({ id: 3, secret: 'abc' });
      last = next;
    }
    last.close();
    await rig.session.stop();
  },
);

test.serial('several ports share a socket by their ids; it goes with the last of them', async (t) => {
  const path = newPath();
  const rigs = [1, 2].map((id) => new Rig({ path, id: String(id), n_rxq: String(id), 'socket-mode': '0600' }, id));
  for (const { session } of rigs) await session.start();
  t.is(statSync(path).mode & 0o777, 0o600);
  await t.throwsAsync(new Rig({ path, id: '2', 'socket-mode': '0600' }, 9).session.start(), {
    message: `port p2 has id 2 on ${path}; give each port there an option id of its own`,
  });
  await t.throwsAsync(new Rig({ path, id: '3' }, 9).session.start(), {
    message: `options socket-mode and socket-owner must be those of the other ports on ${path}`,
  });
  const clients = await Promise.all([1, 2].map(() => Client.connect(path)));
  for (const [i, client] of clients.entries()) await client.negotiate({ id: i + 1 });
  for (const rig of rigs) await rig.reach('up');
  await rigs[0]!.session.stop();
  t.is(await clients[0]!.control.refusal(), 'the port was removed');
  t.is(rigs[1]!.session.status().state, 'up');
  t.true(existsSync(path));
  const late = await Client.connect(path);
  const hello = wire.HELLO_LAYOUT.decode(await late.control.expect(wire.HELLO), 2);
  t.is(hello.maxS2mRing, 1);
  await rigs[1]!.session.stop();
  t.is(await late.control.refusal(), 'the port was removed');
  t.false(existsSync(path));
  for (const client of [...clients, late]) client.close();
});

test.serial('what a client may not ask ends its connection by name, and leaves nothing open', async (t) => {
  const path = newPath();
  const rig = new Rig({ path, n_rxq: '2' });
  await rig.session.start();
  const ring = { flags: 1, index: 0, region: 0, offset: 0, log2RingSize: 4, privateHeader: 0 };
  const size = BigInt(2 * 384 + 32 * 2048);
  const [readEnd, writeEnd] = pipe();
  const short = memfd('short', 4096);
  const event = eventfd();
  const cases: [after: number, bytes: Uint8Array, fds: number[], reason: RegExp][] = [
    [1, new Uint8Array(127), [], /^a control message of 127 bytes came; all have 128$/],
    [1, new Uint8Array(200), [], /^a control message of 200 bytes came/],
    [1, new Uint8Array(128), [], /^a message of unknown type 0 came$/],
    [1, wire.encodeAck(), [], /^ACK came from the client, whose message it is not$/],
    [1, wire.encodeConnect(''), [event], /^CONNECT came with 1 descriptors, not 0$/],
    [1, wire.encodeConnect(''), [], /^CONNECT came before any ring$/],
    [1, init(), [], /^INIT came after the connection was made$/],
    [1, wire.encodeAddRegion({ index: 0, size }), [], /^ADD_REGION came with 0 descriptors, not 1$/],
    [1, wire.encodeAddRegion({ index: 1, size }), [short], /^region 1 came where region 0 was due$/],
    [1, wire.encodeAddRegion({ index: 0, size: 0n }), [short], /^region 0 of 0 bytes is impossible$/],
    [1, wire.encodeAddRegion({ index: 0, size: 2n ** 63n }), [short], /^region 0 of 9223372036854775808 bytes/],
    [1, wire.encodeAddRegion({ index: 0, size: 4097n }), [short], /^region 0: .* ends at byte 4097 of a file of 4096/],
    [1, wire.encodeAddRing(ring), [event], /^S2M ring 0 lies in region 0, which was not added$/],
    [2, wire.encodeAddRing({ ...ring, index: 2 }), [event], /^S2M ring 2 came; this port has 2 \(option n_rxq\)$/],
    [2, wire.encodeAddRing({ ...ring, log2RingSize: 15 }), [event], /^S2M ring 0 of 2\^15 descriptors/],
    [2, wire.encodeAddRing({ ...ring, flags: 0, log2RingSize: 0 }), [event], /^M2S ring 0 of 2\^0 descriptors/],
    [2, wire.encodeAddRing({ ...ring, offset: 2 }), [event], /^S2M ring 0 at byte 2 does not fit .* not aligned$/],
    [2, wire.encodeAddRing({ ...ring, offset: Number(size) - 380 }), [event], /^S2M ring 0 at byte \d+ does not fit/],
    [2, wire.encodeAddRing({ ...ring, offset: 0xfffffffc }), [event], /does not fit region 0/],
    [2, wire.encodeAddRing({ ...ring, privateHeader: 8 }), [event], /^S2M ring 0 wants a private header of 8 bytes/],
    [2, wire.encodeAddRing(ring), [writeEnd], /^the descriptor of S2M ring 0 is not a non-blocking eventfd/],
    [3, wire.encodeAddRing(ring), [event], /^S2M ring 0 came twice$/],
    [2, wire.encodeAddRing({ ...ring, offset: 768 }), [event], /.*/],
    [5, wire.encodeAddRing({ ...ring, index: 1 }), [event], /^ADD_RING came after the connection was made$/],
  ];
  const open = openFds();
  for (const [after, bytes, fds, reason] of cases) {
    const client = await Client.connect(path);
    await client.negotiate({}, after);
    client.control.send(bytes, fds);
    if (after === 2 && reason.source === '.*') {
      await client.control.expect(wire.ACK);
      client.control.send(wire.encodeConnect(''));
      t.regex(await client.control.refusal(), /^S2M ring 0 has the cookie 0x[0-9a-f]+, not 0x3e31f20$/);
    } else {
      t.regex(await client.control.refusal(), reason);
    }
    client.close();
    await rig.reach('error');
  }
  await until(
    'all descriptors to be closed',
    () => openFds() === open,
    5000,
    () => `${openFds()} not ${open}`,
  );
  const good = await Client.connect(path);
  await good.negotiate();
  await rig.reach('up');
  good.close();
  await rig.session.stop();
  for (const fd of [readEnd, writeEnd, short, event]) close(fd);
});

test.serial(
  'a fault, and a ring that makes no sense, close the connection by name; the next client comes up',
  async (t) => {
    const path = newPath();
    const rig = new Rig({ path });
    await rig.session.start();
    const first = await Client.connect(path);
    await first.negotiate();
    await rig.reach('up');
    rig.session.fault('guest memory was truncated');
    t.is(await first.control.refusal(), 'guest memory was truncated');
    await rig.reach('error');
    t.is(rig.session.status().lastError, 'guest memory was truncated');
    const second = await Client.connect(path);
    await second.negotiate();
    await rig.reach('up');
    second.sendFrame(64);
    second.view.setUint16(128 + 256 + 6, 17, true);
    t.is(forward(rig.port!, rig.port!), 1);
    t.is(
      await second.control.refusal(),
      'the peer broke a ring: M2S ring 0: the index of taken packets or offered buffers is ahead by mor',
    );
    await rig.reach('error');
    const third = await Client.connect(path);
    await third.negotiate();
    await rig.reach('up');
    third.control.send(wire.encodeDisconnect('going\nhome'));
    await rig.reach('waiting-socket');
    t.is(rig.session.status().lastError, 'the peer disconnected: going?home');
    for (const client of [first, second, third]) client.close();
    await rig.session.stop();
  },
);

test.serial(
  'role client: asks one thing at a time and no more than the server takes; what makes no sense ends it',
  async (t) => {
    const path = newPath();
    const rig = new Rig({
      path,
      role: 'client',
      id: '9',
      secret: 's',
      n_rxq: '4',
      'ring-size': '10',
      'buffer-size': '1500',
    });
    const hello = {
      name: 'srv',
      minVersion: 0x100,
      maxVersion: 0x300,
      maxRegion: 0,
      maxM2sRing: 1,
      maxS2mRing: 5,
      maxLog2RingSize: 8,
    };
    await rig.session.start();
    const server = await Control.listen(path);
    server.send(wire.encodeHello(hello));
    t.deepEqual(wire.INIT_LAYOUT.decode(await server.expect(wire.INIT), 2), {
      version: 0x200,
      id: 9,
      mode: 0,
      secret: 's',
      name: 'ringway',
    });
    server.send(wire.encodeAck());
    await server.expect(wire.ADD_REGION);
    for (const [flags, index] of [
      [1, 0],
      [1, 1],
      [0, 0],
      [0, 1],
    ]) {
      server.send(wire.encodeAck());
      const ring = wire.ADD_RING_LAYOUT.decode(await server.expect(wire.ADD_RING), 2);
      t.deepEqual([ring.flags, ring.index, ring.region, ring.log2RingSize], [flags, index, 0, 8]);
    }
    server.send(wire.encodeAck());
    t.is(wire.CONNECT_LAYOUT.decode(await server.expect(wire.CONNECT), 2).name, 'p5');
    t.is(rig.session.status().state, 'negotiating');
    server.send(wire.encodeConnected('their0'));
    await rig.reach('up');
    t.is(rig.session.status().facts['remote_app'], 'srv');
    t.is(rig.session.status().facts['peer_name'], 'their0');
    t.is(server.kept.length, 5);
    server.close();
    await rig.reach('connecting');

    const cases: [Uint8Array[], RegExp][] = [
      [[wire.encodeHello({ ...hello, minVersion: 0x300 })], /^the server speaks memif 3.0 to 3.0, not 2.0$/],
      [[wire.encodeHello({ ...hello, maxLog2RingSize: 0 })], /^the server takes no rings$/],
      [[wire.encodeHello(hello), wire.encodeHello(hello)], /^HELLO came twice$/],
      [[wire.encodeAck()], /^ACK came for nothing$/],
      [[wire.encodeConnected('')], /^CONNECTED came before all was asked for$/],
      [[wire.encodeHello(hello), wire.encodeConnected('')], /^CONNECTED came before all was asked for$/],
      [[wire.encodeConnect('')], /^CONNECT came from the server, whose message it is not$/],
    ];
    for (const [messages, reason] of cases) {
      const odd = await Control.listen(path);
      for (const bytes of messages) odd.send(bytes);
      let message = await odd.receive();
      while (message && wire.typeOf(message) !== wire.DISCONNECT) message = await odd.receive();
      t.regex(wire.DISCONNECT_LAYOUT.decode(message!, 2).reason, reason);
      odd.close();
    }
    const strict = await Control.listen(path);
    strict.send(wire.encodeHello(hello));
    await strict.expect(wire.INIT);
    strict.send(wire.encodeDisconnect('Incorrect secret'));
    await rig.told(/^the peer disconnected: Incorrect secret; option secret must be the same on both sides$/);
    strict.close();
    await rig.session.stop();
  },
);

test.serial('connections that ask for nothing are few: the oldest goes', async (t) => {
  const path = newPath();
  const stop = listen({ name: 'p', settings: { ...settingsOf({}), path }, take: async () => {}, refused: () => {} });
  const controls: Control[] = [];
  for (let i = 0; i < 17; i++) {
    controls.push(await Control.connect(path));
    await controls[i]!.expect(wire.HELLO);
  }
  t.is(await controls[0]!.refusal(), 'too many connections that ask for no interface');
  stop();
  t.is(await controls[1]!.refusal(), 'the port was removed');
  for (const control of controls) control.close();
});

test.serial('whatever a client says, in whatever order, the next one comes up and no descriptor is left', async (t) => {
  const path = newPath();
  const rig = new Rig({ path });
  await rig.session.start();
  const event = eventfd();
  const region = memfd('fuzz', 65_536);
  const u16 = fc.oneof(fc.nat(3), fc.nat(0xffff));
  const u32 = fc.oneof(fc.nat(1024), fc.nat(0xffffffff));
  const fds = fc.array(fc.constantFrom(event, region), { maxLength: 3 });
  const message = fc.oneof(
    fc.constant(init()),
    fc.uint8Array({ minLength: 1, maxLength: 160 }),
    fc.record({ index: u16, size: fc.bigInt({ min: 0n, max: 70_000n }) }).map(wire.encodeAddRegion),
    fc
      .record({
        flags: fc.nat(1),
        index: u16,
        region: u16,
        offset: u32,
        log2RingSize: fc.nat(16),
        privateHeader: fc.constantFrom(0, 0, 0, 4),
      })
      .map(wire.encodeAddRing),
    fc.constant(wire.encodeConnect('fuzz')),
  );
  const open = openFds();
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(message, fds), { maxLength: 12 }), fc.boolean(), async (messages, polite) => {
      const control = await Control.connect(path);
      if (polite) control.send(init());
      for (const [bytes, some] of messages) {
        const wanted = bytes[0] === 4 && polite ? [region] : bytes[0] === 5 && polite ? [event] : some;
        control.send(bytes, wanted);
      }
      control.close();
      const good = await Client.connect(path);
      await good.negotiate();
      good.sendFrame(64);
      t.is(forward(rig.port!, rig.port!), 1);
      good.close();
    }),
    { numRuns: 30 },
  );
  await until(
    'all descriptors to be closed',
    () => openFds() === open,
    5000,
    () => `${openFds()} not ${open}`,
  );
  await rig.session.stop();
  close(event);
  close(region);
});
