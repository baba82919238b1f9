import test from 'ava';
import { type Feature, openVirtioPort, type VirtioPort } from '#guest/index.ts';
import { noise, same } from '../support/guest-pair.ts';
import { scratchDir, until } from '../support/process.ts';
import { Testpmd, unavailable } from '../support/testpmd.ts';

const why = unavailable();
const maybe = why ? test.skip : test.serial;
const title = (text: string): string => (why ? `${text} (skipped: ${why})` : text);

/** Sends frames that testpmd gives back with its addresses swapped, and compares them. */
async function echo(port: VirtioPort, lengths: number[]): Promise<number> {
  const queue = port.queue(0);
  const frames = lengths.map((length, i) => noise(length, i + 1));
  const got: Uint8Array[] = [];
  let sent = 0;
  await until('all frames to come back', async () => {
    if (sent < frames.length) sent += queue.send(frames.slice(sent, sent + 32));
    await queue.readable(50);
    got.push(...queue.receive());
    return got.length >= frames.length;
  });
  return got.filter((frame, i) => {
    const sentFrame = frames[i]!;
    return (
      same(frame.subarray(0, 6), sentFrame.subarray(6, 12)) &&
      same(frame.subarray(6, 12), sentFrame.subarray(0, 6)) &&
      same(frame.subarray(12), sentFrame.subarray(12))
    );
  }).length;
}

const LENGTHS = Array.from({ length: 300 }, (_, i) => 60 + ((i * 37) % 1440));

const VARIANTS: {
  name: string;
  features?: Feature[];
  order?: 'qemu' | 'virtio-user';
  ringSize?: number;
  indirect?: boolean;
  packed?: boolean;
}[] = [
  { name: 'defaults' },
  { name: 'the order of QEMU', order: 'qemu' },
  { name: 'a legacy header', features: [] },
  { name: 'VERSION_1 alone, a large ring', features: ['VERSION_1'], ringSize: 4096 },
  { name: 'mergeable buffers, no event index', features: ['VERSION_1', 'MRG_RXBUF'], ringSize: 128 },
  { name: 'indirect chains', indirect: true },
  { name: 'packed rings', packed: true },
];

maybe(title('DPDK as the back end listens: frames come back byte-exact, connection after connection'), async (t) => {
  const dir = scratchDir('rwt');
  const path = `${dir}/v`;
  const testpmd = await Testpmd.start({
    devices: [{ kind: 'vhost', path }],
    forward: 'macswap',
    topology: 'loop',
    memory: 128,
    mbufs: 4096,
  });
  try {
    await testpmd.startForwarding();
    for (const { name, indirect, ...options } of VARIANTS) {
      const port = await openVirtioPort({ path, ...options });
      if (indirect) port.queue(0).tx.setShape({ headerAlone: true, cuts: [14, 34], indirect: true });
      t.is(await echo(port, LENGTHS), LENGTHS.length, name);
      t.is(port.queue(0).rx.broken + port.queue(0).tx.broken, 0, name);
      await port.close();
    }
  } finally {
    await testpmd.quit();
  }
});

maybe(title('DPDK as the back end connects: a listening guest, and again after it was killed'), async (t) => {
  const dir = scratchDir('rwt');
  const path = `${dir}/v`;
  const opening = openVirtioPort({ path, role: 'server', timeoutMs: 40_000 });
  const start = (): Promise<Testpmd> =>
    Testpmd.start({
      devices: [{ kind: 'vhost', path, role: 'client' }],
      forward: 'macswap',
      topology: 'loop',
      memory: 128,
      mbufs: 4096,
    });
  let testpmd = await start();
  const port = await opening;
  try {
    await testpmd.startForwarding();
    t.is(await echo(port, LENGTHS), LENGTHS.length);
    await testpmd.kill();
    await until('the loss to be seen', () => port.state === 'waiting');
    testpmd = await start();
    await port.whenUp();
    await testpmd.startForwarding();
    t.is(await echo(port, LENGTHS), LENGTHS.length);
  } finally {
    await port.close();
    await testpmd.quit();
  }
});
