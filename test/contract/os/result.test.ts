import test from 'ava';
import { checked, checkedBuffer, checkedList, EAGAIN, errnoName, OsError } from '#contract/os/result.ts';

test('a failed call says what failed, in words and by name', (t) => {
  const error = t.throws(() => checked('connect', -111, '/tmp/s'), { instanceOf: OsError })!;
  t.like(error, { code: 'ECONNREFUSED', errno: 111, syscall: 'connect' });
  t.is(error.message, 'connect /tmp/s: connection refused (ECONNREFUSED)');
  t.throws(() => checkedList('pipe', -24), { message: 'pipe: too many open files (EMFILE)' });
  t.throws(() => checkedBuffer('mmap', -12, 'fd 3'), { code: 'ENOMEM' });
});

test('results of calls that succeed are passed on', (t) => {
  t.is(checked('open', 0), 0);
  t.deepEqual(checkedList('pipe', [3, 4]), [3, 4]);
  t.is(checkedBuffer('mmap', new ArrayBuffer(8), '').byteLength, 8);
});

test('errno names take either sign', (t) => {
  t.deepEqual([errnoName(EAGAIN), errnoName(-EAGAIN)], ['EAGAIN', 'EAGAIN']);
});
