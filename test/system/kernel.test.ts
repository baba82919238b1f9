/** Kernel ports of the whole switch: interfaces in network namespaces, with a host in each, and vhost-user guests. */
import { existsSync, statSync } from 'node:fs';
import test from 'ava';
import { Host, hostCounter } from '#guest/net.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { type NetnsLab, netnsMissing, withLab } from '../support/netns.ts';
import { eth, faultOf, filler, ipv4, ipv6, packet, pseudoSum, tcp, u16, udp, vlan } from '../support/packets.ts';
import { run, runOk, sleep, until, which } from '../support/process.ts';
import { alive, SwitchProcess, withSwitch } from '../support/switch.ts';

const kernel = (title: string, programs: string[], body: (lab: NetnsLab, sw: SwitchProcess) => Promise<void>): void => {
  const missing = netnsMissing(...programs);
  if (missing) {
    test.serial.skip(`${title} (${missing})`, () => undefined);
    return;
  }
  test.serial(title, async (t) => {
    t.timeout(5 * PATIENCE_MS);
    await withLab(async (lab) => {
      await lab.add('s');
      await withSwitch([], (sw) => body(lab, sw), lab.under('s'));
    });
    t.pass();
  });
};

const state = async (sw: SwitchProcess, port: string): Promise<string> =>
  (await sw.vsctl('get', 'Interface', port, 'status:state')).trim();
const fact = async (sw: SwitchProcess, port: string, key: string): Promise<string> =>
  (await sw.vsctl('get', 'Interface', port, `status:${key}`)).trim().replaceAll('"', '');
const counter = async (sw: SwitchProcess, port: string, key: string): Promise<number> =>
  Number(await sw.vsctl('get', 'Interface', port, `statistics:${key}`));

/** Two hosts `a` and `b` on system ports va and vb of br0. */
async function twoHosts(lab: NetnsLab, sw: SwitchProcess, ...options: string[]): Promise<void> {
  await lab.add('a');
  await lab.add('b');
  await lab.veth('s', 'va', 'a', '10.9.0.1/24', 'fd09::1/64');
  await lab.veth('s', 'vb', 'b', '10.9.0.2/24', 'fd09::2/64');
  await sw.vsctl('add-br', 'br0');
  for (const port of ['va', 'vb']) {
    const set = ['set', 'Interface', port, 'type=system', 'options:xdp-mode=off', ...options];
    await sw.vsctl('add-port', 'br0', port, '--', ...set);
  }
  await sw.linkUp('va', 'vb');
  await lab.reaches('a', '10.9.0.2');
}

const is = (got: unknown, wanted: unknown, what: string): void => {
  if (JSON.stringify(got) !== JSON.stringify(wanted))
    throw new Error(`${what}: ${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
};
const atLeast = (got: number, least: number, what: string): void => {
  if (!(got >= least)) throw new Error(`${what}: ${got} is not ${least} or more`);
};

kernel(
  'two namespaces on system ports: pings, fragments, IPv6, TCP and UDP',
  ['busybox', 'iperf3'],
  async (lab, sw) => {
    await twoHosts(lab, sw);
    is(await fact(sw, 'va', 'backend'), 'af_packet', 'backend');
    is(await fact(sw, 'va', 'driver_name'), 'veth', 'driver');
    const mac = /link\/ether (\S+)/.exec(await lab.ip('s', 'link', 'show', 'va'))![1];
    is((await sw.vsctl('get', 'Interface', 'va', 'mac_in_use')).trim().replaceAll('"', ''), mac, 'mac_in_use');
    is(await lab.ping('a', '10.9.0.2', 1, 20_000), { sent: 1, received: 1 }, 'ping in 14 fragments');
    is(await lab.ping('b', '10.9.0.1', 1, 0), { sent: 1, received: 1 }, 'ping without payload');
    is(await lab.ping('a', 'fd09::2', 1, 5000), { sent: 1, received: 1 }, 'IPv6 ping in fragments');
    // GSO frames pass whole: many bytes per packet.
    const before = await counter(sw, 'va', 'rx_packets');
    const { sum_received: received } = await lab.iperf('a', 'b', '10.9.0.2', '-n', '50M');
    atLeast(received.bytes, 40_000_000, 'bytes by TCP');
    const packets = (await counter(sw, 'va', 'rx_packets')) - before;
    atLeast(received.bytes / packets, 3000, 'bytes per packet by TCP');
    const six = await lab.iperf('b', 'a', 'fd09::1', '-n', '20M');
    atLeast(six.sum_received.bytes, 15_000_000, 'bytes by TCP over IPv6');
    const datagrams = (await lab.iperf('a', 'b', '10.9.0.2', '-u', '-b', '5M', '-l', '1000', '-n', '500K')).sum!;
    atLeast(datagrams.packets - datagrams.lost_packets, 250, 'datagrams received');
  },
);

kernel('VLAN tags that the kernel keeps beside a frame are put back, offsets and all', [], async (lab, sw) => {
  // A frame of guest g leaves by one end of a veth pair and comes in by the other, without its tag; it goes on to guest h.
  await runOk('ip', ['-n', lab.space('s'), 'link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1']);
  for (const end of ['v0', 'v1']) await lab.ip('s', 'link', 'set', end, 'up');
  await sw.vsctl('add-br', 'br0');
  for (const port of ['v0', 'v1'])
    await sw.vsctl('add-port', 'br0', port, '--', 'set', 'Interface', port, 'type=system', 'options:xdp-mode=off');
  for (const port of ['g', 'h'])
    await sw.vsctl('add-port', 'br0', port, '--', 'set', 'Interface', port, 'type=vhost-user');
  const g = (await sw.guest('g', { features: ['VERSION_1', 'CSUM', 'HOST_TSO4', 'HOST_USO', 'HOST_UFO'] })).queue(0);
  const h = (await sw.guest('h')).queue(0);
  await sw.linkUp('v0', 'v1', 'g', 'h');
  await sw.ofctl('del-flows', 'br0');
  await sw.ofctl('add-flow', 'br0', 'in_port=g,actions=output:v0');
  await sw.ofctl('add-flow', 'br0', 'in_port=v1,dl_vlan=7,actions=output:h');
  // The interfaces may lose what comes while the kernel still takes them up. Such a frame may come late.
  const first = packet(eth({ dst: '0e:00:00:00:00:01' }), vlan({ vid: 7 }), ipv4({}), udp({}), filler(20));
  const ours = (frame: Uint8Array) => frame[0] === 2 && frame[12] === 0x81;
  const through = async () => {
    g.send([first]);
    await sleep(200);
    return h.receive().some((frame) => frame[0] === first[0]);
  };
  await until('a way through', through, PATIENCE_MS);
  for (const bytes of [60, 400, 1400]) {
    const whole = packet(eth(), vlan({ vid: 7, pcp: 5 }), ipv4({}), udp({}), filler(bytes));
    is(g.send([whole]), 1, 'sent');
    const got = await until('the frame', () => h.receive().find(ours), PATIENCE_MS);
    is(Buffer.from(got).toString('hex'), Buffer.from(whole).toString('hex'), `${bytes} bytes in a tag`);
    // The same, checksum left to whoever needs it.
    const unfinished = whole.slice();
    const around = { src: whole.subarray(30, 34), dst: whole.subarray(34, 38) };
    unfinished.set(u16(pseudoSum(around, 17, whole.length - 38)), 44);
    is(g.send([unfinished], { flags: 1, csumStart: 38, csumOffset: 6 }), 1, 'sent');
    const summed = await until('the frame', () => h.receive().find(ours), PATIENCE_MS);
    is(Buffer.from(summed).toString('hex'), Buffer.from(whole).toString('hex'), `${bytes} bytes, unfinished`);
  }
  // A TCP segment of ten: the last of its parts ends with the payload's end.
  const payload = filler(14_000);
  const segment = packet(eth(), vlan({ vid: 7 }), ipv4({}), tcp({}), payload);
  const around = { src: segment.subarray(30, 34), dst: segment.subarray(34, 38) };
  segment.set(u16(pseudoSum(around, 6, segment.length - 38)), 54);
  const offload = { flags: 1, gsoType: 1, gsoSize: 1400, headerLength: 58, csumStart: 38, csumOffset: 16 };
  is(g.send([segment], offload), 1, 'sent');
  const parts: Uint8Array[] = [];
  await until('ten parts', () => parts.push(...h.receive().filter(ours)) >= 10, PATIENCE_MS);
  is(parts.map(faultOf), new Array(10).fill(null), 'faults of the parts');
  const together = Buffer.concat(parts.map((part) => part.subarray(58)));
  is(together.equals(payload), true, 'payload of the parts');
  // Datagrams of one size in one frame, as applications send them by UDP_SEGMENT.
  for (const layers of [[ipv4({})], [ipv6()]]) {
    const datagrams = packet(eth(), vlan({ vid: 7 }), ...layers, udp({}), payload);
    const l4 = datagrams.length - payload.length - 8;
    const one = { flags: 1, gsoType: 5, gsoSize: 1400, headerLength: l4 + 8, csumStart: l4, csumOffset: 6 };
    is(g.send([datagrams], one), 1, 'sent');
    const whole: Uint8Array[] = [];
    await until('ten datagrams', () => whole.push(...h.receive().filter(ours)) >= 10, PATIENCE_MS);
    is(whole.map(faultOf), new Array(10).fill(null), 'faults of the datagrams');
    is(Buffer.concat(whole.map((part) => part.subarray(l4 + 8))).equals(payload), true, 'their payload');
  }
  // A datagram that the kernel cuts into fragments.
  const long = packet(eth(), vlan({ vid: 7 }), ipv4({}), udp({}), payload);
  const sum = long.slice();
  sum.set(u16(pseudoSum({ src: long.subarray(30, 34), dst: long.subarray(34, 38) }, 17, long.length - 38)), 44);
  is(g.send([sum], { flags: 1, gsoType: 3, gsoSize: 1480, headerLength: 46, csumStart: 38, csumOffset: 6 }), 1, 'sent');
  const pieces: Uint8Array[] = [];
  await until('ten fragments', () => pieces.push(...h.receive().filter(ours)) >= 10, PATIENCE_MS);
  is(pieces.map(faultOf), new Array(10).fill(null), 'faults of the fragments');
  is(Buffer.concat(pieces.map((part) => part.subarray(38))).equals(long.subarray(38)), true, 'the datagram');
});

kernel(
  'checksums are whole on the far side, with offloads of the kernel on and off',
  ['busybox', 'iperf3', 'ethtool', 'tcpdump', 'tshark'],
  async (lab, sw) => {
    await twoHosts(lab, sw);
    for (const offloads of ['on', 'off']) {
      // Sender a; the far device, whose driver is told to complete checksums before they leave the switch.
      await lab.exec('a', 'ethtool', '-K', 'eth0', 'tx', offloads, 'tso', offloads, 'gso', offloads);
      await lab.exec('s', 'ethtool', '-K', 'vb', 'tx', 'off');
      await lab.exec('b', 'ethtool', '-K', 'eth0', 'tx', 'off', 'tso', 'off', 'gso', 'off', 'gro', 'off');
      const file = `${sw.rundir}/${offloads}.pcap`;
      const capture = lab.start('b', 'tcpdump', '-i', 'eth0', '-w', file, '-U', '--immediate-mode', '-Q', 'in', 'ip');
      await capture.waitFor(/listening on/, 'the capture', PATIENCE_MS);
      await lab.iperf('a', 'b', '10.9.0.2', '-n', '300K');
      await lab.iperf('a', 'b', '10.9.0.2', '-u', '-b', '20M', '-l', '1000', '-n', '100K');
      // A hundred full frames and more.
      const held = () => existsSync(file) && statSync(file).size > 180_000;
      await until('the capture to hold what came', held, PATIENCE_MS);
      await capture.stop('SIGINT', PATIENCE_MS);
      const checks = ['tcp', 'udp', 'ip'].flatMap((layer) => ['-o', `${layer}.check_checksum:TRUE`]);
      const fields = [
        '-T',
        'fields',
        '-e',
        'tcp.checksum.status',
        '-e',
        'udp.checksum.status',
        '-e',
        'ip.checksum.status',
      ];
      // A sum of 0 that Linux completes becomes all ones in TCP too (skb_checksum_help), which tshark calls bad.
      const judged = ['-Y', 'not tcp.checksum == 0xffff'];
      const { stdout } = await run('tshark', ['-r', file, ...judged, ...checks, ...fields], { timeoutMs: PATIENCE_MS });
      const lines = stdout.split('\n').filter((line) => line.trim() !== '');
      atLeast(lines.length, 100, 'frames captured');
      const bad = lines.filter((line) =>
        line
          .trim()
          .split(/\s+/)
          .some((status) => status !== '1'),
      );
      is(bad.slice(0, 3), [], `frames with a wrong checksum, offloads ${offloads}`);
    }
  },
);

kernel(
  'a vhost-user guest without offloads gets whole frames, and sends unfinished ones',
  ['busybox'],
  async (lab, sw) => {
    await lab.add('a');
    await lab.veth('s', 'va', 'a', '10.9.0.1/24');
    await sw.vsctl('add-br', 'br0');
    await sw.vsctl('add-port', 'br0', 'va', '--', 'set', 'Interface', 'va', 'type=system', 'options:xdp-mode=off');
    for (const port of ['g', 'h'])
      await sw.vsctl('add-port', 'br0', port, '--', 'set', 'Interface', port, 'type=vhost-user');
    const guest = await sw.guest('g');
    const offloading = await sw.guest('h', { features: ['CSUM', 'VERSION_1'] });
    await sw.linkUp('va', 'g', 'h');
    const mac = '02:00:00:00:00:50';
    const host = new Host(guest.queue(0), { mac, ip: '10.9.0.50', peer: '10.9.0.1' });
    let polling = true;
    const poll = async (): Promise<void> => {
      while (polling) {
        for (let i = 0; i < 50; i++) host.poll();
        await sleep(1);
      }
    };
    const polled = poll();
    try {
      await lab.reaches('a', '10.9.0.50');
      atLeast(host.slots[hostCounter('echo_answered')]!, 1, 'echoes answered');
    } finally {
      polling = false;
      await polled;
    }
    // UDP whose checksum the host leaves to its device.
    await lab.exec('a', 'ip', 'neighbour', 'replace', '10.9.0.50', 'lladdr', mac, 'dev', 'eth0');
    const queue = guest.queue(0);
    queue.receive();
    await lab.exec('a', 'bash', '-c', 'echo hello > /dev/udp/10.9.0.50/4242');
    const isDatagram = (frame: Uint8Array) => frame[23] === 17 && frame[36] === 0x10 && frame[37] === 0x92;
    const found = await until('the datagram', () => queue.receive().find(isDatagram), PATIENCE_MS);
    is(faultOf(found), undefined, 'the datagram as the guest sees it');
    // A guest that leaves checksums to its device: the host's kernel takes the frame (a closed port counts it).
    const closed = await lab.snmp('a', 'Udp', 'NoPorts');
    const errors = await lab.snmp('a', 'Udp', 'InCsumErrors');
    const to = /link\/ether (\S+)/.exec(await lab.ip('a', 'link', 'show', 'eth0'))![1]!;
    const layers = [eth({ src: '02:00:00:00:00:51', dst: to }), ipv4({ src: '10.9.0.51', dst: '10.9.0.1' })];
    const frame = packet(...layers, udp({ src: 1, dst: 4243 }), new Uint8Array(100));
    const around = { src: frame.subarray(26, 30), dst: frame.subarray(30, 34) };
    frame.set(u16(pseudoSum(around, 17, frame.length - 34)), 40);
    is(offloading.queue(0).send([frame], { flags: 1, csumStart: 34, csumOffset: 6 }), 1, 'frames sent');
    const counted = async () => (await lab.snmp('a', 'Udp', 'NoPorts')) > closed;
    await until('the host to take the frame', counted, PATIENCE_MS);
    is(await lab.snmp('a', 'Udp', 'InCsumErrors'), errors, 'checksum errors');
  },
);

kernel('interfaces vanish, go down, change their MTU, and come back', ['busybox'], async (lab, sw) => {
  await twoHosts(lab, sw);
  await lab.ip('s', 'link', 'set', 'va', 'down');
  await until('va to be missed', async () => (await state(sw, 'va')) === 'waiting-interface', PATIENCE_MS);
  await lab.ip('s', 'link', 'set', 'va', 'up');
  await sw.linkUp('va');
  await lab.reaches('a', '10.9.0.2');
  await lab.ip('s', 'link', 'del', 'va');
  await until('va to be missed', async () => (await state(sw, 'va')) === 'waiting-interface', PATIENCE_MS);
  await lab.veth('s', 'va', 'a', '10.9.0.1/24');
  await sw.linkUp('va');
  await lab.reaches('a', '10.9.0.2');
  // Carrier: the far end goes down.
  await lab.ip('b', 'link', 'set', 'eth0', 'down');
  const noCarrier = async () => (await sw.vsctl('get', 'Interface', 'vb', 'link_state')).trim() === 'down';
  await until('vb to lose its carrier', noCarrier, PATIENCE_MS);
  await lab.ip('b', 'link', 'set', 'eth0', 'up');
  await sw.linkUp('vb');
  // Jumbo frames, once every link of the way takes them; before, they are counted drops.
  await lab.ip('a', 'link', 'set', 'eth0', 'mtu', '9000');
  await lab.ip('b', 'link', 'set', 'eth0', 'mtu', '9000');
  await sw.vsctl('set', 'Interface', 'va', 'mtu_request=9000');
  const mtu = async (port: string) => (await sw.vsctl('get', 'Interface', port, 'mtu')).trim();
  await until('the MTU of va', async () => (await mtu('va')) === '9000', PATIENCE_MS);
  is(/mtu 9000/.test(await lab.ip('s', 'link', 'show', 'va')), true, 'mtu_request sets the MTU');
  is((await lab.ping('a', '10.9.0.2', 1, 8000, 1)).received, 0, 'a jumbo frame beyond the MTU of vb');
  await until('drops to name tx_mtu', async () => /tx_mtu +\d/.test(await sw.appctl('drops')), PATIENCE_MS);
  await lab.ip('s', 'link', 'set', 'vb', 'mtu', '9000');
  await until('the MTU of vb', async () => (await mtu('vb')) === '9000', PATIENCE_MS);
  await sw.ofctl('add-flow', 'br0', 'priority=9,icmp,actions=NORMAL');
  is((await lab.ping('a', '10.9.0.2', 1, 8000)).received, 1, 'a jumbo frame');
  const two = async () => Object.values(await sw.packets('br0', 'icmp'))[0] === 2;
  await until('one frame each way', two, PATIENCE_MS);
});

kernel(
  'the bridge has a device with an address; taps too; they go and come back with the switch',
  ['busybox'],
  async (lab, sw) => {
    await lab.add('a');
    await lab.add('c');
    await lab.veth('s', 'va', 'a', '10.9.0.1/24');
    await sw.vsctl('add-br', 'br0', '--', 'set', 'bridge', 'br0', 'other_config:local-address=10.9.0.9/24,fd09::9/64');
    await sw.vsctl('add-port', 'br0', 'va', '--', 'set', 'Interface', 'va', 'type=system', 'options:xdp-mode=off');
    await sw.vsctl('add-port', 'br0', 't0', '--', 'set', 'Interface', 't0', 'type=tap', 'options:n_rxq=2');
    await sw.linkUp('va', 't0');
    const shown = await lab.ip('s', 'address', 'show', 'br0');
    const mac = (await sw.vsctl('get', 'Interface', 'br0', 'mac_in_use')).trim().replaceAll('"', '');
    is(
      shown.includes(`link/ether ${mac}`) && shown.includes('10.9.0.9/24') && shown.includes('fd09::9/64'),
      true,
      shown,
    );
    await lab.reaches('a', '10.9.0.9');
    is(await lab.ping('s', '10.9.0.1', 1, 6000), { sent: 1, received: 1 }, 'from the host, in fragments');
    atLeast(await counter(sw, 'br0', 'rx_packets'), 1, 'rx_packets of LOCAL');
    // Flows name it LOCAL.
    await sw.ofctl('add-flow', 'br0', 'priority=9,in_port=LOCAL,icmp,actions=output:va');
    await sw.ofctl('add-flow', 'br0', 'priority=9,in_port=va,icmp,actions=LOCAL');
    is((await lab.ping('s', '10.9.0.1')).received, 1, 'by flows');
    await sw.ofctl('del-flows', 'br0', 'icmp');
    if (which('iperf3')) {
      atLeast((await lab.iperf('a', 's', '10.9.0.9', '-n', '20M')).sum_received.bytes, 15_000_000, 'TCP to LOCAL');
      atLeast((await lab.iperf('s', 'a', '10.9.0.1', '-n', '20M')).sum_received.bytes, 15_000_000, 'TCP from LOCAL');
    }
    // A tap that is given to a container goes on.
    await lab.ip('s', 'link', 'set', 't0', 'netns', lab.space('c'));
    await lab.ip('c', 'address', 'add', '10.9.0.3/24', 'dev', 't0');
    await lab.ip('c', 'link', 'set', 't0', 'up');
    await lab.reaches('a', '10.9.0.3');
    await until('fact netns', async () => (await fact(sw, 't0', 'netns')) === 'other', PATIENCE_MS);
    // Deleted by somebody, the device is made again; its MTU is followed.
    await lab.ip('s', 'link', 'del', 'br0');
    await until(
      'the device to be back',
      async () => (await lab.tryExec('s', 'ip', 'link', 'show', 'br0')).code === 0,
      PATIENCE_MS,
    );
    await lab.reaches('a', '10.9.0.9');
    await lab.ip('s', 'link', 'set', 'br0', 'mtu', '1300');
    const mtu = async () => (await sw.vsctl('get', 'Interface', 'br0', 'mtu')).trim() === '1300';
    await until('the MTU to be followed', mtu, PATIENCE_MS);
    // kill -9 of the data plane takes the devices; the control plane has them made again, with their addresses.
    const old = sw.datapathPid;
    process.kill(old, 'SIGKILL');
    await until('a new data plane', () => sw.datapathPid !== old && sw.datapathPid > 0, PATIENCE_MS);
    await lab.reaches('a', '10.9.0.9');
    // kill -9 of the control plane takes nothing. Its host must not ask for a's address then: broadcasts need an answer.
    const ofA = /link\/ether (\S+)/.exec(await lab.ip('a', 'link', 'show', 'eth0'))![1]!;
    const ofBridge = /link\/ether (\S+)/.exec(await lab.ip('s', 'link', 'show', 'br0'))![1]!;
    await lab.ip('s', 'neighbour', 'replace', '10.9.0.1', 'lladdr', ofA, 'dev', 'br0', 'nud', 'permanent');
    await lab.ip('a', 'neighbour', 'replace', '10.9.0.9', 'lladdr', ofBridge, 'dev', 'eth0', 'nud', 'permanent');
    await lab.reaches('a', '10.9.0.9');
    const { child } = sw;
    child.stop('SIGKILL').catch(() => undefined);
    await child.waitExit(PATIENCE_MS);
    is((await lab.ping('a', '10.9.0.9')).received, 1, 'without control plane');
    await sw.restart();
    is((await lab.ping('a', '10.9.0.9')).received, 1, 'after its restart');
    // Without other_config the device goes; with it, it comes.
    await sw.vsctl('set', 'bridge', 'br0', 'other_config:local-device=false');
    is((await lab.tryExec('s', 'ip', 'link', 'show', 'br0')).code !== 0, true, 'no device');
    is(await fact(sw, 'br0', 'reason'), 'other_config:local-device is false', 'reason');
    await sw.vsctl('remove', 'bridge', 'br0', 'other_config', 'local-device');
    await lab.reaches('a', '10.9.0.9');
    const datapath = sw.datapathPid;
    await sw.child.stop('SIGTERM', PATIENCE_MS);
    await until('the data plane to end', () => !alive(datapath), PATIENCE_MS);
    const left = (await lab.ip('s', '-o', 'link', 'show')).split('\n').map((line) => /^\d+: ([^:@]+)/.exec(line)?.[1]);
    is(
      left.filter((name) => name !== undefined),
      ['lo', 'va'],
      'interfaces that are left',
    );
  },
);

kernel(
  'without privileges a bridge has no device and says why; taps are refused, interfaces wait',
  ['setpriv'],
  async (lab, sw) => {
    await sw.close();
    const reduced = ['--bounding-set', '-net_admin,-net_raw', '--inh-caps', '-all'];
    const bare = await SwitchProcess.startUnder([...lab.under('s'), 'setpriv', ...reduced]);
    try {
      await lab.add('a');
      await lab.veth('s', 'va', 'a', '10.9.0.1/24');
      await bare.vsctl('add-br', 'br0');
      is(await fact(bare, 'br0', 'device'), 'none', 'device');
      is(/CAP_NET_ADMIN/.test(await fact(bare, 'br0', 'reason')), true, 'reason');
      const refused = await bare.tool('rw-vsctl', 'add-port', 'br0', 't0', '--', 'set', 'Interface', 't0', 'type=tap');
      is(refused.code !== 0 && /CAP_NET_ADMIN/.test(refused.stderr), true, refused.stderr);
      await bare.vsctl('add-port', 'br0', 'va', '--', 'set', 'Interface', 'va', 'type=system');
      is(await state(bare, 'va'), 'error', 'state');
      is(/CAP_NET_RAW/.test(await bare.vsctl('get', 'Interface', 'va', 'error')), true, 'error');
      is(existsSync(`${bare.rundir}/rw-vswitchd.pid`), true, 'the switch runs');
    } finally {
      await bare.close();
    }
  },
);
