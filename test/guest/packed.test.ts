/** Packed rings of a guest, where the switch does what it may not; across the switch itself: wire.test.ts. */
import test from 'ava';
import fc from 'fast-check';
import { wantsKick } from '#guest/packed.ts';
import { ReceivedFrames } from '#guest/received.ts';
import { PackedRxQueue } from '#guest/rx-packed.ts';
import { FramesToSend } from '#guest/to-send.ts';
import { PackedTxQueue } from '#guest/tx-packed.ts';
import { noise, withPair } from '../support/guest-pair.ts';

test('kicks follow what the switch asks for', (t) => {
  const [enable, disable, descriptor] = [0, 1 << 16, 2 << 16];
  t.true(wantsKick(enable, 0x8003, 1, 8, true));
  t.false(wantsKick(disable, 0x8003, 1, 8, true));
  t.true(wantsKick(descriptor | 0x8002, 0x8003, 1, 8, true));
  t.false(wantsKick(descriptor | 0x8001, 0x8003, 1, 8, true));
  t.false(wantsKick(descriptor | 0x8003, 0x8003, 1, 8, true));
  t.true(wantsKick(descriptor | 0x8001, 0x8003, 1, 8, false), 'without EVENT_IDX the event means nothing');
  t.true(wantsKick(descriptor | 0x8007, 1, 3, 8, true), 'over the end of the ring');
  t.false(wantsKick(descriptor | 0x8005, 1, 3, 8, true));
});

test('sizes are any number in packed rings, and powers of two in split ones', async (t) => {
  await t.throwsAsync(
    withPair({ ringSize: 9 }, {}, () => {}),
    { message: /ringSize is 9; it must be a power of two, or the rings packed/ },
  );
  await withPair({ ringSize: 9, packed: true }, {}, (port) => {
    t.true(port.features.includes('RING_PACKED'));
    const { rx, tx } = port.queue(0);
    t.true(rx instanceof PackedRxQueue && rx instanceof ReceivedFrames);
    t.true(tx instanceof PackedTxQueue && tx instanceof FramesToSend);
  });
  await t.throwsAsync(
    withPair({ packed: true, timeoutMs: 2000 }, { features: 1n << 32n }, () => {}),
    { message: /does not offer RING_PACKED/ },
  );
});

test('a switch that writes garbage into packed rings is counted, never followed', async (t) => {
  await withPair({ ringSize: 17, packed: true, txBuffers: 11, rxBuffers: 13 }, {}, (port) => {
    const { rx, tx } = port.queue(0);
    const { u32 } = port.memory.blocks[0]!.file;
    const rings = port.memory.blocks.map((block) => block.ringAt / 4);
    fc.assert(
      fc.property(fc.infiniteStream(fc.integer({ min: 0, max: 0xffffffff })), (words) => {
        for (const ring of rings) {
          for (let i = 0; i < 17; i++) {
            const word = words.next().value;
            u32[ring + 4 * i + 2] = word & 1 ? word : word & 0xfff;
            u32[ring + 4 * i + 3] = (word & 2 ? 0x80800000 : word) + (word & 4 ? word & 15 : word & 0xffff);
          }
        }
        t.true(rx.poll() <= 13);
        rx.release();
        t.true(tx.pending <= 11);
        const sent = port.queue(0).send([noise(100, 1), noise(100, 2)]);
        t.true(sent <= 2);
      }),
      { numRuns: 200 },
    );
    t.true(rx.broken > 0);
    t.true(tx.broken > 0);
  });
});
