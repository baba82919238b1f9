import { randomBytes } from 'node:crypto';
import test from 'ava';
import { close, map, memfd, release } from '#contract/os.ts';
import * as layout from '#ports/ivshmem/layout.ts';
import { Pool } from '#ports/ivshmem/pool.ts';
import { Peer } from './peer.ts';
import { endPool, forward, frameOf, makePool, SHAPE, Side } from './rig.ts';

const settings = { queues: 1, mtu: 1500, portNo: 7, name: 'port', plain: false };

test('whatever was in the object, it is a pool with free slots afterwards', (t) => {
  const fd = memfd('old', SHAPE.size);
  const memory = map(fd, 0, SHAPE.size, { write: true, owner: 0 });
  new Uint8Array(memory).set(randomBytes(1 << 16));
  const pool = new Pool(fd, SHAPE, 0);
  t.deepEqual(layout.readGeometry(memory, SHAPE.size), pool.geometry);
  const words = new Int32Array(memory);
  for (let slot = 0; slot < SHAPE.slots; slot++) {
    t.is(words[layout.slotAt(slot) >> 2], layout.STATE_FREE);
    t.is(pool.hello(slot), 0);
    t.false(pool.resetWanted(slot));
  }
  const { total, free } = pool.audit();
  t.is(free, total);
  t.is(total, pool.geometry.bufferCount);
  release(memory);
  pool.close();
  close(fd);
});

test('a pool made anew in the same object gives its slots generations that no client has seen', (t) => {
  const pool = makePool();
  const first = pool.open(1, settings);
  const again = new Pool(pool.place.fd, SHAPE, 0);
  t.not(again.open(1, settings), first);
  t.not(again.place.number, pool.place.number);
  again.close();
  endPool(pool);
});

test('each opening is another generation, with empty rings and all its buffers', (t) => {
  const pool = makePool();
  const seen = new Set<number>();
  for (let i = 0; i < 5; i++) {
    seen.add(pool.open(2, settings));
    const peer = new Peer(pool, 2);
    t.is(peer.slotWord(layout.S_STATE), layout.STATE_READY);
    t.is(peer.waiting(layout.RING_FREE), SHAPE.credit);
    t.is(peer.waiting(layout.RING_RX), 0);
    t.is(pool.hello(2), peer.slotWord(layout.S_GENERATION));
    peer.send(frameOf(60));
  }
  t.is(seen.size, 5);
  t.false(seen.has(0));
  t.is(pool.audit().sending, SHAPE.credit);
  endPool(pool);
});

test('a row says what the client must know', (t) => {
  const pool = makePool();
  pool.open(3, { queues: 2, mtu: 9000, portNo: 12, name: 'größter Port der ganzen Welt, ja', plain: true });
  const peer = new Peer(pool, 3);
  t.is(peer.slotWord(layout.S_QUEUES), 2);
  t.is(peer.slotWord(layout.S_MTU), 9000);
  t.is(peer.slotWord(layout.S_PORT), 12);
  t.is(peer.slotWord(layout.S_FLAGS), layout.FLAG_PLAIN | layout.FLAG_LINK);
  const at = layout.slotAt(3) + layout.S_NAME;
  t.is(
    Buffer.from(peer.u8.subarray(at, at + 32))
      .toString()
      .replaceAll('\0', ''),
    'größter Port der ganzen Welt, ',
  );
  pool.shut(3, layout.STATE_CLOSED);
  t.is(peer.slotWord(layout.S_STATE), layout.STATE_CLOSED);
  t.is(peer.slotWord(layout.S_FLAGS) & layout.FLAG_LINK, 0);
  endPool(pool);
});

test('what a client writes into its row is told: hello, reset, heart-beat, name', (t) => {
  const pool = makePool();
  const generation = pool.open(1, settings);
  const peer = new Peer(pool, 1);
  const put = (field: number, value: number) => {
    peer.words[(layout.slotAt(1) + field) >> 2] = value;
  };
  t.is(pool.hello(1), generation);
  put(layout.S_RESET, generation);
  t.false(pool.resetWanted(1));
  put(layout.S_RESET, generation + 1);
  t.true(pool.resetWanted(1));
  t.is(pool.open(1, settings), generation + 1);
  t.false(pool.resetWanted(1));
  put(layout.S_HEARTBEAT, 9);
  t.is(pool.heartbeat(1), 9);
  const name = Buffer.from('dpi\x1b[31m\n engine');
  peer.u8.set(name, layout.slotAt(1) + layout.S_CLIENT_NAME);
  t.is(pool.clientName(1), 'dpi[31m engine');
  peer.u8.fill(0xff, layout.slotAt(1) + layout.S_CLIENT_NAME, layout.slotAt(1) + layout.S_CLIENT_NAME + 32);
  t.is(typeof pool.clientName(1), 'string');
  const before = peer.words[layout.H_HEARTBEAT >> 2]!;
  pool.beat();
  t.is(peer.words[layout.H_HEARTBEAT >> 2], before + 1);
  endPool(pool);
});

test('slots and queues that the pool has not are refused', (t) => {
  const pool = makePool();
  for (const slot of [0, 6, -1, 1.5]) t.throws(() => pool.open(slot, settings), { message: /slots 1 to 5/ });
  for (const queues of [0, 3]) t.throws(() => pool.open(1, { ...settings, queues }), { message: /1 to 2 queues/ });
  t.is(pool.audit().sending, 0);
  endPool(pool);
});

test('what a slot held is free again; what it shared stays with the others', (t) => {
  const pool = makePool();
  const [a, b, c] = [1, 2, 3].map((slot) => new Side(pool, slot));
  a!.peer.send(frameOf(60));
  forward(a!, [b!, c!]);
  a!.peer.send(frameOf(60));
  forward(a!, [b!]);
  t.deepEqual(pool.holdings(2), { sending: SHAPE.credit, receiving: 2 });
  const before = pool.audit();
  b!.kill();
  const after = pool.audit();
  t.is(after.free, before.free + SHAPE.credit + 1);
  t.is(after.shared, 0);
  t.is(after.receiving, 1);
  t.is(pool.reclaim(2), 0);
  a!.kill();
  c!.kill();
  endPool(pool);
});

test('a client refuses a header page that contradicts itself', (t) => {
  const pool = makePool();
  const memory = map(pool.place.fd, 0, pool.geometry.size, { write: true, owner: 0 });
  const words = new Uint32Array(memory);
  const refused = (field: number, value: number, message: RegExp) => {
    const before = words[field >> 2]!;
    words[field >> 2] = value;
    t.throws(() => layout.readGeometry(memory, SHAPE.size), { instanceOf: RangeError, message });
    words[field >> 2] = before;
  };
  refused(layout.H_MAGIC_HIGH, 0, /magic/);
  refused(layout.H_VERSION, 2, /version 2/);
  refused(layout.H_FEATURES, 4, /unknown features 0x4/);
  refused(layout.H_SIZE, SHAPE.size * 2, /contradict/);
  refused(layout.H_BUFFER_OFFSET, 0, /contradict/);
  refused(layout.H_BUFFER_COUNT, 1 << 30, /contradict/);
  refused(layout.H_QUEUE_STRIDE, 4, /contradict/);
  refused(layout.H_RING_ENTRIES, 0, /rings of 0/);
  t.deepEqual(layout.readGeometry(memory, SHAPE.size), pool.geometry);
  release(memory);
  endPool(pool);
});
