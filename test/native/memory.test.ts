import { readFileSync } from 'node:fs';
import test from 'ava';
import * as os from '#contract/os.ts';

const PAGE = 4096;
const GIB = 2 ** 30;

/** Lines of the process's memory map that name the memfd. */
const mappings = (name: string): string[] =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(`memfd:${name}`));

const sum = (view: Uint8Array): number => {
  let total = 0;
  for (let i = 0; i < view.length; i += 512) total += view[i]!;
  return total;
};

const fill = (view: Uint8Array, value: number): void => {
  for (let i = 0; i < view.length; i += 512) view[i] = value;
};

test.serial('a mapped file is shared with other maps of it, at any offset', (t) => {
  const fd = os.memfd('offset', 4 * PAGE);
  const all = new Uint8Array(os.map(fd, 0, 4 * PAGE, { write: true, owner: 1 }));
  const part = new Uint8Array(os.map(fd, PAGE + 123, 1000, { write: true, owner: 1 }));
  t.is(part.length, 1000);
  part[0] = 77;
  part[999] = 88;
  t.is(all[PAGE + 123], 77);
  t.is(all[PAGE + 1122], 88);
  t.is(os.address(part.buffer as ArrayBuffer) % PAGE, 123);
  os.close(fd);
});

test.serial('stores to a map without write stay in this process', (t) => {
  const fd = os.memfd('private', PAGE);
  const writer = new Uint8Array(os.map(fd, 0, PAGE, { write: true, owner: 1 }));
  const reader = new Uint8Array(os.map(fd, 0, PAGE, { write: false, owner: 1 }));
  writer[5] = 9;
  t.is(reader[5], 9);
  reader[5] = 1;
  t.is(writer[5], 9);
  os.close(fd);
});

test.serial('mapping fails with an OsError that names the cause', (t) => {
  t.throws(() => os.map(1 << 20, 0, PAGE, { write: true, owner: 1 }), { instanceOf: os.OsError, code: 'EBADF' });
  const [reader, writer] = os.pipe();
  t.throws(() => os.map(reader, 0, PAGE, { write: true, owner: 1 }), { code: 'EACCES' });
  os.close(reader);
  os.close(writer);
});

test.serial('a sealed memfd has its size and refuses another', (t) => {
  const fd = os.memfd('sealed', 2 * PAGE, { seal: true });
  t.is(os.seals(fd), os.SEAL_SEAL | os.SEAL_SHRINK | os.SEAL_GROW);
  t.is(os.fileSize(fd), 2 * PAGE);
  t.throws(() => os.truncate(fd, PAGE), { code: 'EPERM' });
  t.throws(() => os.truncate(fd, 3 * PAGE), { code: 'EPERM' });
  os.close(fd);
  const open = os.memfd('open', PAGE);
  t.is(os.seals(open), 0);
  os.truncate(open, 3 * PAGE);
  t.is(os.fileSize(open), 3 * PAGE);
  os.close(open);
  const [reader, writer] = os.pipe();
  t.is(os.seals(reader), -1);
  os.close(reader);
  os.close(writer);
});

test.serial('one map of 10 GiB is read and written above 2^32', (t) => {
  const fd = os.memfd('large', 10 * GIB);
  const buffer = os.map(fd, 0, 10 * GIB, { write: true, owner: 1 });
  t.is(buffer.byteLength, 10 * GIB);
  const bytes = new Uint8Array(buffer);
  const words = new Uint32Array(buffer);
  words[(5 * GIB) / 4] = 0xdeadbeef;
  bytes[10 * GIB - 1] = 3;
  t.is(bytes[5 * GIB], 0xef);
  t.is(bytes[GIB], 0);
  const tail = new Uint8Array(os.map(fd, 10 * GIB - 2, 2, { write: false, owner: 1 }));
  t.deepEqual([...tail], [0, 3]);
  os.release(buffer);
  os.close(fd);
});

test.serial('anonymous memory is zero, page-aligned and registered nowhere as a file', (t) => {
  for (const length of [1, PAGE, 5 * 2 ** 20 + 1]) {
    const buffer = os.mapAnonymous(length);
    t.is(buffer.byteLength, length);
    t.is(os.address(buffer) % PAGE, 0);
    t.is(sum(new Uint8Array(buffer)), 0);
  }
});

test.serial('a truncated file reads as zeros in a JIT-compiled loop, and its owner is reported', (t) => {
  const pages = 64;
  const fd = os.memfd('jit', pages * PAGE);
  const view = new Uint8Array(os.map(fd, 0, pages * PAGE, { write: true, owner: 42 }));
  const other = os.memfd('other', PAGE);
  const intact = new Uint8Array(os.map(other, 0, PAGE, { write: true, owner: 43 })).fill(1);
  fill(view, 1);
  for (let round = 0; round < 5000; round++) t.true(sum(view) === pages * 8 || t.fail());
  os.takeFaults();
  const before = os.faultWord[0]!;
  os.truncate(fd, PAGE);
  t.is(sum(view), 8);
  const faults = os.faultWord[0]! - before;
  t.true(faults >= 1 && faults < pages);
  t.deepEqual(os.takeFaults(), [{ owner: 42, faults }]);
  t.deepEqual(os.takeFaults(), []);
  t.is(sum(view), 8);
  t.is(sum(intact), 8);
  t.is(os.faultWord[0], before + faults);
  os.close(fd);
  os.close(other);
});

test.serial('stores into a truncated file are survived and stay in this process', (t) => {
  const fd = os.memfd('store', 8 * PAGE);
  const view = new Uint8Array(os.map(fd, 0, 8 * PAGE, { write: true, owner: 7 }));
  for (let round = 0; round < 5000; round++) fill(view, round & 255);
  os.takeFaults();
  os.truncate(fd, 0);
  fill(view, 5);
  t.is(sum(view), 5 * 64);
  t.is(os.takeFaults()[0]!.owner, 7);
  t.is(os.fileSize(fd), 0);
  os.close(fd);
});

test.serial('a copy from and into truncated files goes on with zeros', (t) => {
  const from = os.memfd('from', 4 * PAGE);
  const to = os.memfd('to', 4 * PAGE);
  const source = os.map(from, 0, 4 * PAGE, { write: true, owner: 11 });
  const target = os.map(to, 0, 4 * PAGE, { write: true, owner: 12 });
  new Uint8Array(source).fill(9);
  const rows = Float64Array.of(os.address(target) + 100, os.address(source) + 100, 3 * PAGE);
  t.is(os.copyRows(rows, 1), 0);
  t.is(new Uint8Array(target)[3 * PAGE], 9);
  os.takeFaults();
  os.truncate(from, PAGE);
  t.is(os.copyRows(rows, 1), 0);
  t.is(new Uint8Array(target)[PAGE - 1], 9);
  t.is(new Uint8Array(target)[PAGE], 0);
  t.deepEqual(
    os.takeFaults().map((row) => row.owner),
    [11],
  );
  os.truncate(to, 0);
  t.is(os.copyRows(rows, 1), 0);
  t.deepEqual(
    os.takeFaults().map((row) => row.owner),
    [12],
  );
  os.close(from);
  os.close(to);
});

test.serial('a system call on a truncated buffer fails with EFAULT and harms nothing', (t) => {
  const fd = os.memfd('efault', PAGE);
  const view = new Uint8Array(os.map(fd, 0, PAGE, { write: true, owner: 13 }));
  os.truncate(fd, 0);
  const [left, right] = os.socketPair();
  t.is(os.errnoName(os.sendWithFds(left, view, 0, 100, null, 0)), 'EFAULT');
  os.close(left);
  os.close(right);
  os.close(fd);
});

test.serial('release leaves zeros behind and lets go of the file at once', (t) => {
  const fd = os.memfd('released', 16 * PAGE);
  const buffer = os.map(fd, 100, 8 * PAGE, { write: true, owner: 1 });
  const view = new Uint8Array(buffer).fill(6);
  t.is(mappings('released').length, 1);
  os.release(buffer);
  t.is(mappings('released').length, 0);
  t.is(sum(view), 0);
  view[0] = 1;
  t.is(view[0], 1);
  t.notThrows(() => os.release(buffer), 'a second time it does nothing');
  t.is(view[0], 1);
  os.close(fd);
  t.throws(() => os.release(new ArrayBuffer(8)), { code: 'EINVAL' });
});

test('maps that were released do not count, before any of them is collected', (t) => {
  const fd = os.memfd('again', 4096);
  // More than the registry holds, without a turn of the event loop in which buffers could be finalized.
  for (let i = 0; i < 10_000; i++) os.release(os.map(fd, 0, 4096, { write: true, owner: 7 }));
  const last = os.map(fd, 0, 4096, { write: true, owner: 7 });
  new Uint8Array(last)[0] = 1;
  t.is(new Uint8Array(last)[0], 1);
  os.release(last);
  t.is(new Uint8Array(last)[0], 0);
  os.close(fd);
});
