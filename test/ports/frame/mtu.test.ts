import test from 'ava';
import { address, mapAnonymous } from '#contract/os.ts';
import { GSO_TCPV4, GSO_UDP, HEADROOM, PacketBatch } from '#datapath/packet/batch.ts';
import { fitsMtu } from '#ports/frame/mtu.ts';

const LONGEST = 1514;
const batch = new PacketBatch();

/** A frame in slot 0 with these Ethernet types behind its addresses; `read` = its head is in the scratch. */
const place = (length: number, types: readonly number[], read: boolean): void => {
  const memory = mapAnonymous(4096);
  const view = new DataView(memory);
  types.forEach((type, i) => void view.setUint16(12 + 4 * i, type));
  batch.clear();
  batch.start[0] = HEADROOM;
  batch.length[0] = length;
  batch.headLength[0] = read ? 190 : 0;
  batch.u8.set(read ? new Uint8Array(memory, 0, 190) : new Uint8Array(190).fill(0xff), HEADROOM);
  batch.segmentFirst[0] = 0;
  batch.segmentCount[0] = 1;
  batch.segmentAddress[0] = address(memory);
  batch.segmentLength[0] = length;
  batch.gsoType[0] = 0;
};

for (const read of [true, false]) {
  test(`VLAN tags do not count against the MTU, ${read ? 'seen in the scratch' : 'looked up where the frame lies'}`, (t) => {
    const cases: [number, number[], boolean][] = [
      [1514, [0x0800], true],
      [1515, [0x0800], false],
      [1518, [0x8100, 0x0800], true],
      [1519, [0x8100, 0x0800], false],
      [1522, [0x88a8, 0x8100, 0x0800], true],
      [1523, [0x88a8, 0x8100, 0x0800], false],
    ];
    for (const [length, types, fits] of cases) {
      place(length, types, read);
      t.is(fitsMtu(batch, 0, LONGEST), fits, `${length} ${types}`);
    }
  });
}

test('of a GSO frame the segments count, not the frame', (t) => {
  place(40_000, [0x0800], true);
  batch.gsoType[0] = GSO_TCPV4;
  batch.vnetHeaderLength[0] = 54;
  batch.gsoSize[0] = 1460;
  t.true(fitsMtu(batch, 0, LONGEST));
  batch.gsoSize[0] = 1461;
  t.false(fitsMtu(batch, 0, LONGEST));
});

test('of a datagram to be cut the fragments count, the UDP header within the first', (t) => {
  for (const [type, network] of [
    [0x0800, 20],
    [0x86dd, 40 + 8],
  ] as const) {
    place(40_000, [type], true);
    batch.gsoType[0] = GSO_UDP;
    batch.vnetHeaderLength[0] = 14 + (type === 0x0800 ? 28 : 48);
    batch.gsoSize[0] = 1500 - network;
    t.true(fitsMtu(batch, 0, LONGEST), String(type));
    batch.gsoSize[0] = 1500 - network + 8;
    t.false(fitsMtu(batch, 0, LONGEST), String(type));
  }
});
