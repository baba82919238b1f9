import test from 'ava';
import { type Feature, openVirtioPort, type PortOptions } from '#guest/index.ts';
import { checkOptions } from '#guest/options.ts';

test('options that cannot be are refused by name', async (t) => {
  const path = '/tmp/x';
  for (const [options, name] of [
    [{ ringSize: 100 }, 'ringSize'],
    [{ ringSize: 4 }, 'ringSize'],
    [{ queues: 0 }, 'queues'],
    [{ memory: { files: 3, splits: 3 } }, 'memory.files'],
    [{ mtu: 20 }, 'mtu'],
    [{ features: ['NOPE' as Feature] }, 'NOPE'],
  ] as [Partial<PortOptions>, string][]) {
    await t.throwsAsync(openVirtioPort({ path, ...options }), { instanceOf: RangeError, message: new RegExp(name) });
  }
});

test('buffers grow where segmentation offload makes frames long', (t) => {
  const bytes = (features: Feature[]) => {
    const { txFrameBytes, rxFrameBytes } = checkOptions({ path: '/x', features });
    return [txFrameBytes, rxFrameBytes];
  };
  t.deepEqual(bytes(['VERSION_1']), [2032, 2032]);
  t.deepEqual(bytes(['VERSION_1', 'HOST_TSO4']), [65_584, 2032]);
  t.deepEqual(bytes(['VERSION_1', 'GUEST_TSO4']), [2032, 65_584]);
  t.deepEqual(bytes(['VERSION_1', 'GUEST_TSO4', 'MRG_RXBUF']), [2032, 2032]);
});
