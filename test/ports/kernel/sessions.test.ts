import test from 'ava';
import type { Backend, BackendRequest, OpenBackend } from '#ports/kernel/backend.ts';
import { kernelSessions } from '#ports/kernel/factory.ts';
import { findLink, InterfaceMonitor } from '#ports/kernel/interfaces.ts';
import { openPacket, packetPort } from '#ports/kernel/packet.ts';
import { type SystemBackends, SystemSession } from '#ports/kernel/system.ts';
import { TapSession } from '#ports/kernel/tap.ts';
import { type TapAttachment, tapPort } from '#ports/kernel/tap-attachment.ts';
import type { Attachment, PortConfig, PortHost, PortStatus } from '#ports/port.ts';
import { netnsMissing } from '../../support/netns.ts';
import { run, runOk, until } from '../../support/process.ts';
import { QueueRig } from './rig.ts';

class FakeHost implements PortHost {
  readonly log: string[] = [];
  attachment: Attachment | undefined;
  last: PortStatus | undefined;

  async attach(_portNo: number, attachment: Attachment | undefined): Promise<void> {
    this.attachment = attachment;
    this.log.push(attachment ? `attach ${attachment.kind}` : 'detach');
  }

  status(_portNo: number, status: PortStatus): void {
    this.last = status;
  }
}

const config = (name: string, options: Record<string, string> = {}, mtu = 0): PortConfig => ({
  portNo: 3,
  name,
  type: 'system',
  options,
  mtu,
});

const backends = (log: string[], ...open: OpenBackend[]): SystemBackends => ({
  options: ['way'],
  check: ({ way }) => {
    if (way === 'wrong') throw new Error('option way is "wrong"');
  },
  choose: () =>
    open.map((each) => (request: BackendRequest) => {
      log.push(`open ${request.link.name}`);
      return each(request);
    }),
});

const works =
  (log: string[]): OpenBackend =>
  ({ portNo }): Backend => ({
    name: 'good',
    attachment: () => ({ kind: 'good', portNo, rxQueues: [0] }),
    facts: () => ({ extra: 'yes' }),
    close: () => log.push('close'),
  });
const fails: OpenBackend = () => {
  throw new Error('not on this one');
};

test('the best way that works is taken, and the status says why others were not', async (t) => {
  const host = new FakeHost();
  const session = new SystemSession(
    config('lo'),
    host,
    new InterfaceMonitor(),
    backends(host.log, fails, works(host.log)),
  );
  await session.start();
  const { state, lastError, facts } = session.status();
  t.deepEqual([state, lastError], ['up', '']);
  t.like(facts, { backend: 'good', extra: 'yes', xdp_refused: 'not on this one', mtu: String(findLink('lo')!.mtu) });
  t.true(await session.reconfigure({ 'pmd-rxq-affinity': '0:1' }));
  t.false(await session.reconfigure({ way: 'other' }));
  await session.stop();
  t.deepEqual(host.log, ['open lo', 'open lo', 'attach good', 'detach', 'close']);
});

test('a port waits for an interface that is not there; options and failures are told', async (t) => {
  const host = new FakeHost();
  const monitor = new InterfaceMonitor();
  const absent = new SystemSession(config('rw-no-such'), host, monitor, backends(host.log, works(host.log)));
  await absent.start();
  t.is(absent.status().state, 'waiting-interface');
  t.regex(absent.status().lastError, /there is no interface rw-no-such/);
  t.false(absent.status().linkUp);
  await absent.stop();
  const broken = new SystemSession(config('lo'), host, monitor, backends([], fails, fails));
  await broken.start();
  t.is(broken.status().state, 'error');
  t.regex(broken.status().lastError, /lo cannot be used: not on this one; not on this one/);
  await broken.stop();
  const refused = (options: Record<string, string>) => () =>
    new SystemSession(config('lo', options), host, monitor, backends([], fails));
  t.throws(refused({ way: 'wrong' }), { message: /option way/ });
  t.throws(refused({ speed: '1' }), { message: /option speed of port lo is not known/ });
  t.deepEqual(host.log, []);
});

test('the types of kernel ports check their options when they are made', (t) => {
  const types = new Map(kernelSessions());
  const make = (type: string, options: Record<string, string>) => () =>
    types.get(type)!({ ...config('lo', options), type }, new FakeHost());
  t.throws(make('system', { 'xdp-mode': 'fast' }), { message: /xdp-mode is "fast"/ });
  t.notThrows(make('system', { 'xdp-mode': 'off' }));
  t.throws(make('tap', { offload: '1' }), { message: /option offload/ });
  t.throws(make('internal', { speed: '1' }), { message: /option speed/ });
});

const missing = netnsMissing();
const root = missing ? test.serial.skip : test.serial;
const why = missing && ` (${missing})`;

root(`a tap is made with the port, changed with it, made again when deleted, and goes with it${why}`, async (t) => {
  const name = `rwt${process.pid}`;
  const host = new FakeHost();
  const monitor = new InterfaceMonitor();
  const options = { mac: '02:00:00:00:00:31', n_rxq: '2' };
  const session = new TapSession({ ...config(name, options, 1400), type: 'tap' }, host, monitor);
  await session.start();
  try {
    const link = findLink(name)!;
    t.deepEqual([link.mtu, link.mac, link.up, link.kind], [1400, '02:00:00:00:00:31', true, 'tun']);
    t.is(session.status().state, 'up');
    t.is((host.attachment as TapAttachment).fds.length, 2);
    const rig = new QueueRig();
    const context = { worker: 1, workers: 2, counters: rig.counters, batch: rig.batch };
    const port = tapPort(host.attachment!, context, undefined);
    t.deepEqual([port.rx.map(({ queue }) => queue), port.tx!.queue], [[0, 1], 1]);
    port.close();
    rig.close();
    const other = new TapSession({ ...config(name, {}, 1400), type: 'tap' }, new FakeHost(), monitor);
    await t.throwsAsync(other.start(), { message: /EBUSY.*may be there already/ });
    await other.stop();
    t.true(await session.setMtu(1600));
    await until('the MTU to be followed', () => (host.attachment as TapAttachment).mtu === 1600);
    t.true(await session.reconfigure({ ...options, address: '192.0.2.5/31' }));
    t.regex(await runOk('ip', ['address', 'show', name]), /192\.0\.2\.5\/31/);
    t.false(await session.reconfigure({ ...options, n_rxq: '1' }));
    await runOk('ip', ['link', 'del', name]);
    await until('another device', () => (findLink(name)?.ifindex ?? link.ifindex) !== link.ifindex);
    await until('the port to be up', () => session.status().state === 'up' && host.log.at(-1) === 'attach tap');
    t.regex(await runOk('ip', ['address', 'show', name]), /192\.0\.2\.5\/31/);
    t.is(findLink(name)!.mtu, 1600);
  } finally {
    await session.stop();
    await run('ip', ['link', 'del', name]);
  }
  t.is(findLink(name), undefined);
  t.is(host.log.at(-1), 'detach');
});

root(`a packet socket receives an interface's frames into its ring${why}`, async (t) => {
  const name = `rwp${process.pid}`;
  await runOk('ip', ['link', 'add', name, 'type', 'veth', 'peer', 'name', `${name}p`]);
  const rig = new QueueRig();
  try {
    for (const end of [name, `${name}p`]) await runOk('ip', ['link', 'set', end, 'up']);
    const open = (ifname: string) => openPacket({ portNo: 3, link: findLink(ifname)!, options: {} });
    const [a, b] = [open(name), open(`${name}p`)];
    const context = { worker: 0, workers: 1, counters: rig.counters, batch: rig.batch };
    const one = packetPort(a.attachment(1500), context, undefined);
    const two = packetPort(b.attachment(1500), context, undefined);
    const frame = Uint8Array.from({ length: 700 }, (_, i) => i);
    frame.set([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5]);
    one.tx!.push(rig.batch, rig.place(frame), 1);
    one.tx!.publish();
    rig.batch.clear();
    const [rx] = two.rx;
    const mine = (slot: number) => Buffer.from(rig.frame(slot)).equals(frame);
    await until('the frame', () => {
      rig.batch.clear();
      return Array.from({ length: rx!.poll(rig.batch) }, (_, slot) => mine(slot)).includes(true);
    });
    rx!.complete();
    rig.batch.clear();
    const [own] = one.rx;
    for (let slot = own!.poll(rig.batch) - 1; slot >= 0; slot--) t.false(mine(slot), 'own frames are left out');
    // Another MTU keeps the ring.
    const again = packetPort(a.attachment(400), context, one);
    rig.batch.clear();
    t.is(again.tx!.push(rig.batch, rig.place(frame), 1), 0);
    for (const port of [again, two]) port.close();
    for (const backend of [a, b]) backend.close();
  } finally {
    rig.close();
    await run('ip', ['link', 'del', name]);
  }
});
