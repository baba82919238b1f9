import { readFileSync } from 'node:fs';
import test from 'ava';
import * as layout from '#ports/ivshmem/layout.ts';

const SHAPE = { size: 1 << 22, slots: 4, queues: 2, entries: 256, bufferBytes: 2048, headroom: 128, credit: 128 };

test('the parts of a pool follow each other without overlap and fill the object', (t) => {
  const g = layout.geometry(SHAPE);
  t.true(g.queueOffset >= layout.slotAt(SHAPE.slots));
  t.is(layout.queueAt(g, 1, 0), g.queueOffset + 2 * g.queueStride);
  t.true(g.bufferOffset >= layout.queueAt(g, SHAPE.slots, 0));
  t.true(layout.bufferAt(g, g.bufferCount) <= SHAPE.size);
  t.true(layout.bufferAt(g, g.bufferCount + 1) > SHAPE.size);
  t.is(g.bufferOffset % 4096, 0);
  t.is(g.queueStride % 64, 0);
});

test('a shape that cannot be is refused with the value at fault', (t) => {
  const refused = (change: Partial<layout.PoolShape>, said: RegExp) =>
    t.throws(() => layout.geometry({ ...SHAPE, ...change }), { instanceOf: RangeError, message: said });
  refused({ size: 3 << 20 }, /size 3145728 is not a power of two/);
  refused({ size: 1 << 16 }, /leaves room for \d+ buffers/);
  refused({ slots: 33 }, /33 slots/);
  refused({ slots: 1 }, /1 slots/);
  refused({ queues: 9 }, /9 queues/);
  refused({ entries: 100 }, /rings of 100/);
  refused({ entries: 32 }, /rings of 32/);
  refused({ bufferBytes: 2000 }, /buffers of 2000 bytes/);
  refused({ bufferBytes: 65_536 }, /buffers of 65536 bytes/);
  refused({ headroom: 1025 }, /head-room of 1025/);
  refused({ credit: 257 }, /credit of 257/);
});

test('the page states the offsets that the code uses', (t) => {
  const page = readFileSync(new URL('../../../docs/ivshmem-layout.md', import.meta.url), 'utf8');
  const rows: [number, string][] = [
    [layout.H_VERSION, 'version'],
    [layout.H_FEATURES, 'features'],
    [layout.H_SIZE, 'size'],
    [layout.H_SLOT_OFFSET, 'slot_offset'],
    [layout.H_SLOT_STRIDE, 'slot_stride'],
    [layout.H_SLOT_COUNT, 'slot_count'],
    [layout.H_QUEUE_COUNT, 'queue_count'],
    [layout.H_QUEUE_OFFSET, 'queue_offset'],
    [layout.H_QUEUE_STRIDE, 'queue_stride'],
    [layout.H_RING_ENTRIES, 'ring_entries'],
    [layout.H_BUFFER_OFFSET, 'buffer_offset'],
    [layout.H_BUFFER_BYTES, 'buffer_bytes'],
    [layout.H_BUFFER_COUNT, 'buffer_count'],
    [layout.H_HEADROOM, 'headroom'],
    [layout.H_CREDIT, 'credit'],
    [layout.H_EPOCH, 'epoch'],
    [layout.H_HEARTBEAT, 'heartbeat'],
    [layout.S_STATE, 'state'],
    [layout.S_GENERATION, 'generation'],
    [layout.S_QUEUES, 'queues'],
    [layout.S_MTU, 'mtu'],
    [layout.S_PORT, 'port'],
    [layout.S_FLAGS, 'flags'],
    [layout.S_ERROR, 'error'],
    [layout.S_NAME, 'port_name'],
    [layout.S_HELLO, 'hello'],
    [layout.S_RESET, 'reset'],
    [layout.S_HEARTBEAT, 'heartbeat'],
    [layout.S_CLIENT_NAME, 'client_name'],
    [layout.R_PRODUCER, 'producer'],
    [layout.R_WAKE, 'wake'],
    [layout.R_CONSUMER, 'consumer'],
    [4 * layout.D_BUFFER, 'buffer'],
    [4 * layout.D_OFFSET, 'offset'],
    [4 * layout.D_LENGTH, 'length'],
    [4 * layout.D_FLAGS, 'flags'],
  ];
  for (const [offset, name] of rows) t.regex(page, new RegExp(`^\\| ${offset} \\| \`${name}\``, 'm'), name);
  const places: [number, string][] = [
    [layout.RING_TX, 'tx'],
    [layout.RING_RX, 'rx'],
    [layout.RING_FREE, 'tx_free'],
    [layout.RING_RETURN, 'rx_return'],
  ];
  for (const [ring, name] of places) {
    t.true(page.includes(`| ${ring} | \`${name}\` |`), name);
    const base = layout.ringEntriesAt(ring, 0);
    const perEntry = layout.ringEntriesAt(ring, 64) - base;
    const at = perEntry === 0 ? `| ${base} |` : `| ${base} + ${perEntry / 64} E |`;
    t.true(page.includes(`${at} entries of \`${name}\``), name);
  }
});
