import { join } from 'node:path';
import test from 'ava';
import { removeScratchDir, scratchDir } from './process.ts';
import { Testpmd, testpmdArguments, unavailable } from './testpmd.ts';

const reason = unavailable();
const peer = reason ? test.skip : test;
const why = reason ? ` (${reason})` : '';

test('options become the arguments that DPDK wants', (t) => {
  const args = testpmdArguments(
    {
      devices: [
        { path: '/a.sock', role: 'server', queueSize: 256, mrgRxbuf: false, inOrder: true, vectorized: true },
        { path: '/b.sock', packedVq: false, mac: '02:00:00:00:00:01', queues: 1 },
        { kind: 'vhost', path: '/c.sock' },
        { kind: 'memif', path: '/d.sock', role: 'client', id: 3, secret: 'abc', log2RingSize: 8 },
      ],
      queues: 2,
      forward: 'flowgen',
      flowgenFlows: 1024,
      packetLength: 1500,
      core: 1,
    },
    'id',
  );
  const line = args.join(' ');
  t.true(
    line.includes('net_virtio_user0,path=/a.sock,server=1,queues=2,queue_size=256,mrg_rxbuf=0,in_order=1,vectorized=1'),
  );
  t.true(
    line.includes('net_virtio_user1,path=/b.sock,server=0,queues=1,queue_size=1024,mac=02:00:00:00:00:01,packed_vq=0'),
  );
  t.true(line.includes('net_vhost2,iface=/c.sock,queues=2'));
  t.true(
    line.includes(
      'net_memif3,role=client,id=3,socket=/d.sock,socket-abstract=no,bsize=2048,rsize=8,zero-copy=no,secret=abc',
    ),
  );
  t.true(line.includes('--lcores 0@0-1,1@1'));
  t.true(line.includes('--no-huge'));
  t.true(line.endsWith('--forward-mode=flowgen --port-topology=paired --txpkts=1500 --flowgen-flows=1024'));
});

peer(`frames of a virtio-user guest come back from a vhost back end that reflects them${why}`, async (t) => {
  const dir = scratchDir('tp');
  t.teardown(() => removeScratchDir(dir));
  const path = join(dir, 'v.sock');
  const back = await Testpmd.start({
    devices: [{ kind: 'vhost', path }],
    forward: 'macswap',
    topology: 'loop',
    core: 1,
  });
  t.teardown(() => back.kill());
  await back.startForwarding();
  const front = await Testpmd.start({ devices: [{ path }], topology: 'loop', core: 0 });
  t.teardown(() => front.kill());
  await front.waitLinkUp();
  await back.waitLinkUp();

  await front.startForwarding(1);
  const [stats] = await front.waitReceived(0, 1000);
  t.true(stats!.txPackets >= 1000);
  const totals = await front.stopForwarding();
  t.is(totals.txDropped, 0);
  // While it runs, testpmd reads its two counters one after the other.
  const [end] = await front.portStats();
  t.is(end!.txBytes, end!.txPackets * 64);

  await front.kill();
  await back.waitLinkDown();
});

peer(`the end of testpmd is reported with its last words${why}`, async (t) => {
  const error = await t.throwsAsync(Testpmd.start({ devices: [{ path: '/nonexistent/a.sock' }] }));
  t.regex(error!.message, /ended \(.*\) before the prompt of testpmd/);
  t.regex(error!.message, /nonexistent/);
});
