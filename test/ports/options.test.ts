import test from 'ava';
import fc from 'fast-check';
import {
  bytes,
  choice,
  integer,
  refuseUnknown,
  type SocketOwner,
  socketMode,
  socketOwner,
  socketPath,
} from '#ports/options.ts';

const config = (options: Record<string, string>) => ({ portNo: 1, name: 'p1', type: 'x', options, mtu: 1500 });

test('an option that the type does not have is refused by its name, with those that there are', (t) => {
  t.throws(() => refuseUnknown(config({ path: 'a', pth: 'b' }), ['path', 'id']), {
    message: 'option pth of port p1 is not known; known are path, id, n_rxq, pmd-rxq-affinity, mtu_request',
  });
  t.notThrows(() => refuseUnknown(config({ path: 'a', n_rxq: '2', mtu_request: '9000' }), ['path']));
});

test('a relative path starts at the run directory, an absolute one stays', (t) => {
  t.is(socketPath('p1', 'a.sock', '/run/x'), '/run/x/a.sock');
  t.is(socketPath('p1', '/tmp/a.sock', '/run/x'), '/tmp/a.sock');
});

test('a path fits a socket up to 107 bytes, counted in UTF-8', (t) => {
  t.is(socketPath('p1', `/${'a'.repeat(106)}`, '').length, 107);
  t.throws(() => socketPath('p1', `/${'a'.repeat(107)}`, ''), { message: /of port p1 is 108 bytes long, at most 107/ });
  t.throws(() => socketPath('p1', `/${'ä'.repeat(60)}`, ''), { message: /121 bytes/ });
});

test('a choice takes its values only, and its default without one', (t) => {
  t.is(choice({}, 'role', ['server', 'client'], 'server'), 'server');
  t.is(choice({ role: 'client' }, 'role', ['server', 'client'], 'server'), 'client');
  for (const role of ['Client', '', 'serverclient']) {
    t.throws(() => choice({ role }, 'role', ['server', 'client'], 'server'), {
      message: `option role is "${role}"; it takes server or client`,
    });
  }
});

test('a number is decimal digits within its range; anything else is refused with the range', (t) => {
  t.is(integer({}, 'id', 1, 10, 7), 7);
  fc.assert(
    fc.property(fc.nat(20), (value) => {
      const read = () => integer({ id: String(value) }, 'id', 3, 10, 7);
      if (value >= 3 && value <= 10) t.is(read(), value);
      else t.throws(read, { message: `option id is "${value}"; it takes 3 to 10` });
    }),
  );
  for (const id of ['', ' 5', '5 ', '0x5', '5.0', '-5', '+5', '5e0', 'five']) {
    t.throws(() => integer({ id }, 'id', 3, 10, 7), { message: `option id is "${id}"; it takes 3 to 10` });
  }
});

test('permissions of a socket are three octal digits', (t) => {
  t.is(socketMode({}), undefined);
  t.is(socketMode({ 'socket-mode': '0660' }), 0o660);
  t.is(socketMode({ 'socket-mode': '777' }), 0o777);
  for (const mode of ['', '66', '0668', '1777', 'rw', '07777']) {
    t.throws(() => socketMode({ 'socket-mode': mode }), { message: /^option socket-mode is "/ });
  }
});

test('the owner of a socket is uid:gid, where an empty part leaves things as they are', (t) => {
  const cases: [string, SocketOwner][] = [
    ['107:992', { uid: 107, gid: 992 }],
    [':992', { uid: -1, gid: 992 }],
    ['107:', { uid: 107, gid: -1 }],
    [':', { uid: -1, gid: -1 }],
  ];
  t.is(socketOwner({}), undefined);
  for (const [text, owner] of cases) t.deepEqual(socketOwner({ 'socket-owner': text }), owner);
  for (const text of ['', '107', 'qemu:qemu', '1:2:3', '-1:2']) {
    t.throws(() => socketOwner({ 'socket-owner': text }), { message: /^option socket-owner is "/ });
  }
});

test('a size is a number of bytes, with or without K, M or G', (t) => {
  t.is(bytes({}, 'size'), undefined);
  for (const [size, value] of [
    ['4096', 4096],
    ['64K', 65_536],
    ['16M', 2 ** 24],
    ['16m', 2 ** 24],
    ['1GiB', 2 ** 30],
    ['2GB', 2 ** 31],
  ] as const)
    t.is(bytes({ size }, 'size'), value);
  for (const size of ['', 'M', '1.5M', '-1', '1T', '0x10', '16 M', '1234567890123456']) {
    t.throws(() => bytes({ size }, 'size'), {
      message: /^option size is ".*"; it takes bytes, or a number with K, M or G/,
    });
  }
});
