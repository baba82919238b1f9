import test from 'ava';
import { close, dup, map, memfd, release } from '#contract/os.ts';
import { MemoryTable } from '#ports/vhost-user/memory-table.ts';
import { placeRing, Ring, wrongSize } from '#ports/vhost-user/ring.ts';
import { MAX_REGIONS } from '#ports/vhost-user/wire.ts';

const row = (i: number, size = 65_536) => ({
  guestAddress: BigInt(i) << 20n,
  userAddress: BigInt(i + 100) << 20n,
  size: BigInt(size),
  mmapOffset: 0n,
});

test('regions come and go one by one; those that stay keep their mappings', (t) => {
  const fd = memfd('slots', 65_536);
  const mine = map(fd, 0, 65_536, { write: true, owner: 0 });
  const table = new MemoryTable(1);
  table.add(row(0), [dup(fd)]);
  const [first] = table.memory!.buffers;
  new Uint8Array(mine)[5] = 77;
  table.add(row(1), [dup(fd)]);
  t.is(table.memory!.buffers[0], first);
  t.is(table.memory!.count, 2);
  const generation = table.generation;
  const release0 = table.remove(row(0));
  t.true(table.generation > generation);
  t.is(new Uint8Array(first!)[5], 77, 'a region stays readable until workers have let go of it');
  release0();
  t.is(new Uint8Array(first!)[5], 0);
  t.is(new Uint8Array(table.memory!.buffers[0]!)[5], 77);
  table.remove(row(1))();
  t.is(table.memory, undefined);
  t.deepEqual(table.facts(), {});
  release(mine);
  close(fd);
});

test('a region that cannot be is refused by name and changes nothing', (t) => {
  const fd = memfd('slots', 65_536);
  const table = new MemoryTable(1);
  t.throws(() => table.add(row(0, 1 << 20), [fd]), { message: /ends at byte 1048576 of a file of 65536/ });
  t.regex(table.error, /is the guest's memory shared/);
  table.add(row(0), [dup(fd)]);
  t.is(table.error, '');
  const { generation } = table;
  t.throws(() => table.add(row(0, 4096), [fd]), { message: /overlap/ });
  t.throws(() => table.add({ ...row(0), mmapOffset: 4096n }, [fd]), { message: /overlap/ });
  t.throws(() => table.add(row(1), []), { message: /without a descriptor/ });
  t.throws(() => table.remove(row(7)), { message: /no memory region of 65536 bytes at 0x700000/ });
  t.throws(() => table.remove(row(0, 4096)), { message: /no memory region/ });
  t.is(table.generation, generation);
  for (let i = 1; i < MAX_REGIONS; i++) table.add(row(i), [dup(fd)]);
  t.throws(() => table.add(row(MAX_REGIONS), [fd]), { message: /32 memory regions already/ });
  table.clear();
  close(fd);
});

test('a region that each of several devices adds stays until each has removed it', (t) => {
  const fd = memfd('slots', 65_536);
  const table = new MemoryTable(1);
  table.add(row(0), [dup(fd)]);
  const { generation } = table;
  for (let device = 1; device < 3; device++) {
    const passed = [dup(fd)];
    table.add(row(0), passed);
    t.deepEqual(passed, [-1], 'the descriptor is taken over');
  }
  t.is(table.generation, generation, 'workers have nothing to do');
  for (let device = 0; device < 3; device++) {
    t.is(table.memory!.count, 1);
    table.remove(row(0))();
  }
  t.is(table.memory, undefined);
  t.throws(() => table.remove(row(0)), { message: /no memory region/ });
  close(fd);
});

test('a ring is where its addresses say, or the reason why not is told', (t) => {
  const fd = memfd('slots', 65_536);
  const table = new MemoryTable(1);
  const ring = new Ring(3);
  t.is(placeRing(ring, table, false), 'ring 3 has no addresses');
  ring.size = 8;
  const base = 100n << 20n;
  ring.addresses = { index: 3, flags: 1, descriptors: base, available: base + 4096n, used: base + 8192n, log: 0x5000n };
  t.is(placeRing(ring, table, false), 'ring 3: there is no memory');
  table.add(row(0), [dup(fd)]);
  const place = placeRing(ring, table, false);
  t.like(place, { index: 3, usedOffset: 8192, log: { usedAt: 0x5000, descriptorsAt: 0 } });
  ring.addresses = { ...ring.addresses, available: base + 65_530n };
  t.regex(placeRing(ring, table, false) as string, /available ring at .* is not in the memory table/);
  t.regex(wrongSize(7, false), /power of two/);
  t.is(wrongSize(7, true), '');
  table.clear();
  close(fd);
});
