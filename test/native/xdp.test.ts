import test from 'ava';
import * as kernel from '#contract/os/kernel.ts';
import * as os from '#contract/os.ts';

test('an alias shows the same memory at the same address, and ends within its map', (t) => {
  const memory = os.mapAnonymous(8192);
  const at = os.address(memory);
  const alias = os.alias(at + 4096, 4096);
  t.is(os.address(alias), at + 4096);
  new Uint8Array(memory)[5000] = 77;
  t.is(new Uint8Array(alias)[5000 - 4096], 77);
  t.throws(() => os.alias(at + 4096, 4097), { code: 'EINVAL' });
  t.throws(() => os.alias(4096, 1), { code: 'EINVAL' });
  t.is(memory.byteLength, 8192);
});

test('calls of AF_XDP and bpf give errors of the system as numbers and throw for wrong arguments', (t) => {
  const fd = os.eventfd();
  t.is(os.errnoName(kernel.xskSend(fd)), 'ENOTSOCK');
  t.is(os.errnoName(kernel.xskReceive(fd)), 'ENOTSOCK');
  t.is(os.errnoName(kernel.xskBind(fd, 0, 1, 0)), 'ENOTSOCK');
  t.is(os.errnoName(kernel.xskSet(fd, 283, 1, new Uint8Array(4))), 'ENOTSOCK');
  t.is(os.errnoName(kernel.xskGet(fd, 283, 1, new Uint8Array(4))), 'ENOTSOCK');
  t.true(kernel.bpf(999, new Uint8Array(8)) < 0);
  os.close(fd);
  t.is(os.errnoName(kernel.xskSend(fd)), 'EBADF');
  t.throws(() => kernel.xskBind(fd, 0, 0, 0), { message: /ifindex must be an integer from 1/ });
  t.throws(() => kernel.xskBind(fd, 70_000, 1, 0), { message: /flags must be/ });
  t.throws(() => kernel.bpf(-1, new Uint8Array(8)), { message: /command must be/ });
  t.throws(() => kernel.bpf(0, [] as unknown as Uint8Array), { message: /attributes must be a Uint8Array/ });
  t.throws(() => kernel.promiscuous(0x7fff_ffff), { instanceOf: os.OsError });
});
