import test from 'ava';
import { percentile } from '#guest/histogram.ts';
import { openVirtioPort } from '#guest/index.ts';
import { Host, type HostCounter, hostCounter, PING_HISTOGRAM_AT, STREAM_HISTOGRAM_AT } from '#guest/net.ts';
import { noise, withPair } from '../support/guest-pair.ts';
import { GuestWire } from '../support/guest-wire.ts';
import { eth, faultOf, icmp, ipv4, mac, packet } from '../support/packets.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';

const A = { mac: '02:00:00:00:00:01', ip: '10.0.0.1', peer: '10.0.0.2' };
const B = { mac: '02:00:00:00:00:02', ip: '10.0.0.2', peer: '10.0.0.1' };

test('two hosts resolve, ping and stream to each other', async (t) => {
  const dir = scratchDir('rwn');
  const wire = new GuestWire(dir);
  await wire.start();
  const ports = await Promise.all(wire.paths.map((path) => openVirtioPort({ path })));
  const [a, b] = [new Host(ports[0]!.queue(0), A), new Host(ports[1]!.queue(0), B)];
  const count = (host: Host, name: HostCounter): number => host.slots[hostCounter(name)]!;
  try {
    await until('the wire to be up', () => wire.state(0) === 'up' && wire.state(1) === 'up');
    const turn = (): void => {
      wire.pump();
      a.poll();
      b.poll();
    };
    t.false(a.ping(), 'the first ping asks who has the address');
    for (let i = 0; i < 4; i++) turn();
    t.true(a.resolved && b.resolved);
    t.is(count(b, 'arp_answered'), 1);
    for (let i = 0; i < 50; i++) {
      t.true(a.ping(60 + i));
      turn();
      turn();
      turn();
    }
    t.is(count(a, 'pings_answered'), 50);
    t.true(percentile(a.slots, PING_HISTOGRAM_AT, 0.5) > 0);
    let sent = 0;
    for (let i = 0; i < 200; i++) {
      sent += a.stream(32, 64 + i);
      for (let k = 0; k < 3; k++) turn();
    }
    t.is(sent, 6400);
    t.is(count(b, 'stream_received'), 6400);
    t.is(count(b, 'stream_lost') + count(b, 'stream_late'), 0);
    t.true(percentile(b.slots, STREAM_HISTOGRAM_AT, 0.99) > 0);
  } finally {
    for (const port of ports) await port.close();
    await wire.stop();
    removeScratchDir(dir);
  }
});

test('a host counts what is lost, late and twice, and keeps to its window', async (t) => {
  await withPair({}, {}, async (port, backend) => {
    const host = new Host(port.queue(0), { ...B, window: 64 });
    const slot = (name: HostCounter): number => host.slots[hostCounter(name)]!;
    const arpFrame = packet(eth(), { etherType: 0x0806, build: () => new Uint8Array(0) });
    t.is(arpFrame.length, 14);
    host.resolve();
    backend.take();
    const peer = new Host(port.queue(0), A);
    peer.resolve();
    const [request] = backend.take();
    backend.deliver([{ frame: request!.frame }]);
    host.poll();
    t.true(host.resolved);
    t.is(backend.take().length, 1, 'the request is answered');

    t.is(host.stream(32, 64) + host.stream(32, 64) + host.stream(32, 64), 64, 'no more than the window');
    const frames = backend.take().map(({ frame }) => frame);
    for (const frame of frames.slice(0, 3)) t.is(faultOf(frame), undefined);
    await until('the window to be given up', () => host.stream(1, 64) === 1);

    const order = [0, 1, 4, 3, 5, 5, 9];
    for (const i of order) {
      backend.deliver([{ frame: frames[i]! }]);
      host.poll();
    }
    // 2 and 3 are left out, then 3 comes late; the second 5 looks late; 6 to 8 are left out.
    t.is(slot('stream_received'), 7);
    t.is(slot('stream_late'), 2);
    t.is(slot('stream_lost'), 2 - 1 - 1 + 3);
  });
});

test('an echo request to somebody else, or damaged, is not answered', async (t) => {
  await withPair({}, {}, (port, backend) => {
    const host = new Host(port.queue(0), B);
    const good = packet(eth(), ipv4(), icmp(), noise(40, 1));
    const other = packet(eth(), ipv4({ dst: '10.0.0.3' }), icmp(), noise(40, 1));
    const bad = good.slice();
    bad[50]! ^= 1;
    backend.deliver([other, bad, good].map((frame) => ({ frame })));
    t.is(host.poll(), 3);
    const answers = backend.take();
    t.is(answers.length, 1);
    t.deepEqual(answers[0]!.frame.subarray(0, 6), mac('02:00:00:00:00:01'));
    t.is(faultOf(answers[0]!.frame), undefined);
  });
});
