import test from 'ava';
import fc from 'fast-check';
import {
  decodeLink,
  encodeAddressAdd,
  encodeLinkGet,
  encodeLinkSet,
  messagesOf,
  RTM_NEWLINK,
  resultOf,
} from '#ports/kernel/rtnetlink.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

test('requests are laid out as rtnetlink(7) says', (t) => {
  // Header: length, type RTM_GETLINK, flags REQUEST, sequence, port; ifinfomsg; IFLA_IFNAME with its NUL.
  t.is(
    hex(encodeLinkGet(5, 'br0')),
    `28000000 1200 0100 05000000 00000000 ${'00'.repeat(16)} 0800 0300 62723000`.replaceAll(' ', ''),
  );
  const up = encodeLinkSet(1, 3, { up: true, mtu: 9000, mac: '02:00:00:00:00:0a' });
  t.is(hex(up.subarray(16, 32)), '00000000030000000100000001000000');
  t.is(hex(up.subarray(32)), '0800040028230000' + '0a00010002000000000a0000');
  const address = encodeAddressAdd(1, 3, { address: Uint8Array.of(10, 0, 0, 1), prefix: 24 });
  t.is(hex(address.subarray(16)), '0218000003000000' + '080002000a000001' + '080001000a000001');
  t.is(encodeAddressAdd(1, 3, { address: new Uint8Array(16), prefix: 64 })[16], 10);
});

test('what a change says is read back as an interface; an error by its errno', (t) => {
  const [message] = [...messagesOf(encodeLinkSet(9, 3, { up: true, mtu: 1400, mac: '02:00:00:00:00:0a' }))];
  t.is(message!.type, RTM_NEWLINK);
  t.is(message!.seq, 9);
  const link = decodeLink(message!.body)!;
  t.is(link.ifindex, 3);
  t.is(link.mtu, 1400);
  t.is(link.mac, '02:00:00:00:00:0a');
  t.true(link.up);
  t.false(link.running);
  t.is(resultOf(message!), undefined);
  const error = { type: 2, seq: 1, body: new Uint8Array(Int32Array.of(-19, 0, 0, 0, 0).buffer) };
  t.is(resultOf(error), 19);
  t.is(resultOf({ type: 3, seq: 1, body: new Uint8Array(4) }), 0);
});

test('nonsense is read without harm', (t) => {
  const header = fc.tuple(
    fc.integer({ min: 0, max: 80 }),
    fc.constantFrom(2, 3, 16, 17),
    fc.uint8Array({ maxLength: 90 }),
  );
  const datagram = header.map(([length, type, rest]) =>
    Uint8Array.of(length, 0, 0, 0, type, 0, 0, 0, 0, 0, 0, 0, ...rest),
  );
  t.notThrows(() =>
    fc.assert(
      fc.property(fc.oneof(datagram, fc.uint8Array({ maxLength: 200 })), (bytes) => {
        for (const message of messagesOf(bytes)) {
          if (message.body.length > bytes.length) return false;
          resultOf(message);
          decodeLink(message.body);
        }
        decodeLink(bytes);
        return true;
      }),
      { numRuns: 2000 },
    ),
  );
});
