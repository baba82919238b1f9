import test from 'ava';
import fc from 'fast-check';
import * as wire from '#ports/memif/wire.ts';

const text = (bytes: number) => fc.stringMatching(new RegExp(`^[ -~]{0,${bytes}}$`));
const u8 = fc.nat(0xff);
const u16 = fc.nat(0xffff);
const u32 = fc.nat(0xffffffff);

const naive = (write: (out: Buffer) => void): Buffer => {
  const out = Buffer.alloc(128);
  write(out);
  return out;
};

test('HELLO and INIT are what a C compiler makes of the packed structures', (t) => {
  fc.assert(
    fc.property(text(32), u16, u16, u16, u16, u16, u8, (name, ...n) => {
      const [minVersion, maxVersion, maxRegion, maxM2sRing, maxS2mRing, maxLog2RingSize] = n;
      const bytes = wire.encodeHello({
        name,
        minVersion,
        maxVersion,
        maxRegion,
        maxM2sRing,
        maxS2mRing,
        maxLog2RingSize,
      });
      const wanted = naive((out) => {
        out.writeUInt16LE(2, 0);
        out.write(name, 2, 'latin1');
        [minVersion, maxVersion, maxRegion, maxM2sRing, maxS2mRing].forEach(
          (v, i) => void out.writeUInt16LE(v, 34 + 2 * i),
        );
        out.writeUInt8(maxLog2RingSize, 44);
      });
      t.true(wanted.equals(bytes));
    }),
  );
  fc.assert(
    fc.property(u16, u32, u8, text(24), text(32), (version, id, mode, secret, name) => {
      const bytes = wire.encodeInit({ version, id, mode, secret, name });
      const wanted = naive((out) => {
        out.writeUInt16LE(3, 0);
        out.writeUInt16LE(version, 2);
        out.writeUInt32LE(id, 4);
        out.writeUInt8(mode, 8);
        out.write(secret, 9, 'latin1');
        out.write(name, 33, 'latin1');
      });
      t.true(wanted.equals(bytes));
      t.deepEqual(wire.INIT_LAYOUT.decode(bytes, 2), { version, id, mode, secret, name });
    }),
  );
});

test('ADD_REGION and ADD_RING are packed too', (t) => {
  fc.assert(
    fc.property(u16, fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (index, size) => {
      const wanted = naive((out) => {
        out.writeUInt16LE(4, 0);
        out.writeUInt16LE(index, 2);
        out.writeBigUInt64LE(size, 4);
      });
      t.true(wanted.equals(wire.encodeAddRegion({ index, size })));
    }),
  );
  fc.assert(
    fc.property(u16, u16, u16, u32, u8, u16, (flags, index, region, offset, log2RingSize, privateHeader) => {
      const ring = { flags, index, region, offset, log2RingSize, privateHeader };
      const wanted = naive((out) => {
        out.writeUInt16LE(5, 0);
        [flags, index, region].forEach((v, i) => void out.writeUInt16LE(v, 2 + 2 * i));
        out.writeUInt32LE(offset, 8);
        out.writeUInt8(log2RingSize, 12);
        out.writeUInt16LE(privateHeader, 13);
      });
      t.true(wanted.equals(wire.encodeAddRing(ring)));
      t.deepEqual(wire.ADD_RING_LAYOUT.decode(wire.encodeAddRing(ring), 2), ring);
    }),
  );
});

test('a reason is cut to its field, a name to its own', (t) => {
  t.is(wire.DISCONNECT_LAYOUT.decode(wire.encodeDisconnect('x'.repeat(200)), 2).reason, 'x'.repeat(96));
  t.is(wire.CONNECT_LAYOUT.decode(wire.encodeConnect('y'.repeat(40)), 2).name, 'y'.repeat(32));
  t.is(wire.typeOf(wire.encodeConnected('')), wire.CONNECTED);
  t.is(wire.typeOf(wire.encodeAck()), wire.ACK);
});

test('a message is taken from its sender only, whole, and with its descriptors', (t) => {
  for (const [type, { name, from, fds }] of wire.MESSAGES) {
    const bytes = new Uint8Array(128);
    bytes[0] = type;
    for (const sender of ['client', 'server'] as const) {
      const wrong = wire.checkMessage(bytes, sender, fds);
      if (from === sender || from === 'both') t.is(wrong, undefined);
      else t.is(wrong, `${name} came from the ${sender}, whose message it is not`);
    }
    const sender = from === 'both' ? 'client' : from;
    t.is(wire.checkMessage(bytes, sender, fds + 1), `${name} came with ${fds + 1} descriptors, not ${fds}`);
    t.is(wire.checkMessage(bytes.subarray(1), sender, fds), 'a control message of 127 bytes came; all have 128');
  }
  const unknown = new Uint8Array(128);
  for (const type of [0, 9, 256 + 1, 0xffff]) {
    unknown[0] = type & 0xff;
    unknown[1] = type >> 8;
    t.is(wire.checkMessage(unknown, 'client', 0), `a message of unknown type ${type} came`);
  }
});
