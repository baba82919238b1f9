import { fileURLToPath } from 'node:url';
import test from 'ava';
import { address, bpf, close, mapAnonymous } from '#contract/os.ts';
import { kernelFunction } from '#ports/kernel/xdp/btf.ts';
import { XdpDevice } from '#ports/kernel/xdp/open.ts';
import { readXdpOptions } from '#ports/kernel/xdp/options.ts';
import { kernelMakes } from '../../../support/netns.ts';
import { Child, run, runOk, until, which } from '../../../support/process.ts';
import { VethPair, type VethShape, XdpWire } from './veth-pair.ts';

const PATIENCE_MS = 30_000;
const missing = ['ip', 'busybox', 'iperf3', 'tshark'].filter((program) => !which(program));
const reason = process.getuid?.() !== 0 ? 'needs root' : missing.length > 0 ? `needs ${missing.join(', ')}` : '';
const onVeth = reason ? test.skip : test.serial;
const why = reason ? ` (skipped: ${reason})` : '';

/** Runs `body` with two namespaces whose interfaces end here. */
async function withPairs(shape: VethShape, body: (a: VethPair, b: VethPair) => Promise<void>): Promise<void> {
  const pairs: VethPair[] = [];
  try {
    for (const host of [1, 2]) pairs.push(await VethPair.make(host, shape));
    await body(pairs[0]!, pairs[1]!);
  } finally {
    for (const pair of pairs) await pair.remove();
  }
}

/** The same with the two joined. */
const withWire = (
  options: Record<string, string>,
  shape: VethShape,
  body: (wire: XdpWire, a: VethPair, b: VethPair) => Promise<void>,
): Promise<void> =>
  withPairs(shape, async (a, b) => {
    const wire = new XdpWire([a, b], options, shape.mtu);
    try {
      await body(wire, a, b);
    } finally {
      await wire.close();
    }
  });

/** Checksum errors that a namespace's kernel has seen, of TCP and UDP. */
async function checksumErrors(pair: VethPair): Promise<number> {
  const lines = (await pair.exec('cat', '/proc/net/snmp')).split('\n');
  let errors = 0;
  for (const protocol of ['Tcp:', 'Udp:']) {
    const [names, values] = lines.filter((line) => line.startsWith(protocol)).map((line) => line.split(' '));
    errors += Number(values![names!.indexOf('InCsumErrors')]);
  }
  return errors;
}

/** TCP and UDP from a to b. */
async function transfer(a: VethPair, b: VethPair, address = b.address): Promise<void> {
  for (const udp of [false, true]) {
    const server = new Child('ip', ['netns', 'exec', b.space, 'iperf3', '-s', '-1', '--forceflush']);
    try {
      await server.waitFor(/Server listening/, 'iperf3 to listen', PATIENCE_MS);
      await a.exec('iperf3', '-c', address, ...(udp ? ['-u', '-b', '50M', '-t', '1'] : ['-n', '8M']));
    } finally {
      await server.stop('SIGKILL');
    }
  }
}

const PING = ['busybox', 'ping', '-c', '1', '-W', '10'] as const;

onVeth(`checksums that the sender left out are valid on the far side when they are completed here${why}`, async (t) => {
  await withWire({ 'tx-checksum-offload': 'false' }, {}, async (wire, a, b) => {
    t.is(wire.devices[0]!.facts()['xdp_tx_checksum'], 'completed');
    const fields = ['tcp.checksum.status', 'udp.checksum.status', 'ip.checksum.status'];
    const wanted = ['tcp', 'udp', 'ip'].flatMap((name) => ['-o', `${name}.check_checksum:TRUE`]);
    const shown = ['-T', 'fields', '-E', 'separator=,', ...fields.flatMap((field) => ['-e', field])];
    const filter = `ip dst ${b.address} and (tcp or udp)`;
    const inside = ['netns', 'exec', b.space, 'tshark', '-l', '-n', '-i', b.far, '-s', '2000', '-f', filter];
    const shark = new Child('ip', [...inside, ...wanted, ...shown], { name: 'tshark', errorsApart: false });
    try {
      await shark.waitFor(/Capturing on/, 'tshark to capture', PATIENCE_MS);
      await transfer(a, b);
      // A status per field: 1 good, 0 bad.
      const rows = () => shark.outputSince(0).match(/^[0-3]?,[0-3]?,[0-3]$/gm) ?? [];
      await until(
        'frames in the capture',
        () => rows().some((row) => row.startsWith(',')),
        PATIENCE_MS,
        () => shark.tail(),
      );
      t.true(rows().some((row) => /^1,/.test(row)));
      t.deepEqual(
        rows().filter((row) => !/^(1,,1|,1,1)$/.test(row)),
        [],
      );
    } finally {
      await shark.stop();
    }
    t.true(wire.counter(1, 'checksums') > 100);
    t.is(await checksumErrors(b), 0);
  });
});

onVeth(`TCP and UDP pass with checksums left to the kernel, in either direction${why}`, async (t) => {
  await withWire({}, {}, async (wire, a, b) => {
    t.is(wire.devices[0]!.facts()['xdp-mode'], 'native');
    await transfer(a, b);
    await transfer(b, a);
    await a.exec(...PING, b.address6);
    t.is((await checksumErrors(a)) + (await checksumErrors(b)), 0);
    if (wire.devices[0]!.facts()['xdp_tx_checksum'] === 'kernel') t.is(wire.counter(1, 'checksums'), 0);
    t.true(wire.counter(0, 'rx_packets') > 100 && wire.counter(1, 'rx_packets') > 100);
  });
});

const noVxlan = reason || (kernelMakes('vxlan') ? '' : 'this kernel has no vxlan devices');
const throughVxlan = noVxlan ? test.skip : test.serial;
const vxlanTitle = "TCP inside of the kernel's VXLAN passes, whose inner checksums were left out";
throughVxlan(`${vxlanTitle}${noVxlan ? ` (skipped: ${noVxlan})` : ''}`, async (t) => {
  await withWire({}, {}, async (_wire, a, b) => {
    const tunnel = async (pair: VethPair, remote: VethPair, address: string): Promise<void> => {
      const shape = ['type', 'vxlan', 'id', '5', 'remote', remote.address, 'dstport', '4789', 'dev', pair.far];
      await runOk('ip', ['-n', pair.space, 'link', 'add', 'vx0', 'mtu', '1400', ...shape]);
      await runOk('ip', ['-n', pair.space, 'addr', 'add', `${address}/24`, 'dev', 'vx0']);
      await runOk('ip', ['-n', pair.space, 'link', 'set', 'vx0', 'up']);
    };
    await tunnel(a, b, '10.78.0.1');
    await tunnel(b, a, '10.78.0.2');
    await transfer(a, b, '10.78.0.2');
    t.is((await checksumErrors(a)) + (await checksumErrors(b)), 0);
  });
});

for (const options of [
  { 'xdp-mode': 'generic' },
  { 'use-need-wakeup': 'false' },
  { 'busy-poll-budget': '64' },
] as Record<string, string>[]) {
  onVeth(`frames pass with ${JSON.stringify(options)}${why}`, async (t) => {
    await withWire(options, {}, async (wire, a, b) => {
      await a.exec(...PING, '-s', '1400', b.address);
      const facts = wire.devices[0]!.facts();
      for (const [name, value] of Object.entries(options)) t.is(facts[name], value);
      if (options['busy-poll-budget']) t.true(wire.counter(0, 'kicks') > 0);
    });
  });
}

onVeth(`frames of 9000 bytes lie in several buffers; a shorter port refuses them by name${why}`, async (t) => {
  await withWire({}, { mtu: 9000 }, async (wire, a, b) => {
    t.is(wire.devices[0]!.facts()['xdp_multi_buffer'], 'true');
    await a.exec(...PING, '-s', '8900', b.address);
    await transfer(a, b);
    t.is(wire.drops(1, 'tx_mtu'), 0);
  });
  await withPairs({ mtu: 9000 }, async (a, b) => {
    const wire = new XdpWire([a, b], {}, 1500);
    try {
      t.not(
        (await run('ip', ['netns', 'exec', a.space, 'busybox', 'ping', '-c', '1', '-W', '1', '-s', '8900', b.address]))
          .code,
        0,
      );
      t.true(wire.drops(1, 'tx_mtu') > 0);
    } finally {
      await wire.close();
    }
  });
});

onVeth(`every queue of an interface has a socket; more than it has are refused${why}`, async (t) => {
  await withWire({}, { queues: 2 }, async (wire, a, b) => {
    t.is(wire.devices[0]!.facts()['n_rxq'], '2');
    t.is(wire.ports[0]!.rx.length, 2);
    await a.exec(...PING, b.address);
    await transfer(a, b);
  });
  await withPairs({}, async (a) => {
    t.throws(() => new XdpWire([a], { n_rxq: '3' }), { message: /n_rxq is 3, but .* has 1 rx queues/ });
  });
});

onVeth(`an interface is as it was before once it is closed, and taken while it is open${why}`, async (t) => {
  await withPairs({}, async (a) => {
    const wire = new XdpWire([a], {});
    try {
      t.is((await a.programs()).length, 1);
      t.regex(await a.describe(), /promiscuity 1/);
      t.throws(() => new XdpWire([a], {}), { message: /another XDP program is attached; remove it with "ip link set/ });
    } finally {
      await wire.close();
    }
    t.deepEqual(await a.programs(), []);
    t.regex(await a.describe(), /promiscuity 0/);
    t.throws(() => new XdpWire([a], { 'xdp-mode': 'native-with-zerocopy' }), {
      message: /cannot be had on .*native-with-zerocopy: bind\(queue 0\).*the driver has no native-with-zerocopy/,
    });
    t.deepEqual(await a.programs(), []);
  });
});

onVeth(`without privileges the error says which it takes${why}`, async (t) => {
  const script = fileURLToPath(new URL('open-unprivileged.ts', import.meta.url));
  const command = ['--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all', process.execPath, script];
  const { stdout, stderr } = await run('setpriv', command);
  t.regex(stdout, /CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF; run as root/, stderr);
});

const SCHED_CLS = 3;
const TCX_EGRESS = 47;

/** Gives every frame that leaves an interface VLAN 5, kept apart from the frame as a VLAN device does. @returns descriptor. */
function tagFrames(ifindex: number): number {
  const memory = mapAnonymous(4096);
  const bytes = new Uint8Array(memory);
  const code = new DataView(memory);
  // r2 = the protocol in network order, r3 = the tag; bpf_skb_vlan_push (18); return 0 (pass).
  for (const [i, [op, register, value]] of [
    [0xb7, 2, 0x0081],
    [0xb7, 3, 5],
    [0x85, 0, 18],
    [0xb7, 0, 0],
    [0x95, 0, 0],
  ].entries()) {
    code.setUint8(i * 8, op!);
    code.setUint8(i * 8 + 1, register!);
    code.setInt32(i * 8 + 4, value!, true);
  }
  bytes.set(Buffer.from('GPL\0'), 2048);
  const load = new DataView(new ArrayBuffer(128));
  load.setUint32(0, SCHED_CLS, true);
  load.setUint32(4, 5, true);
  load.setBigUint64(8, BigInt(address(memory)), true);
  load.setBigUint64(16, BigInt(address(memory) + 2048), true);
  const program = bpf(5, new Uint8Array(load.buffer));
  if (program < 0) return program;
  const link = bpf(28, new Uint8Array(Uint32Array.of(program, ifindex, TCX_EGRESS, 0, 0, 0, 0, 0, 0, 0).buffer));
  close(program);
  return link;
}

const tellsTags = !reason && kernelFunction('bpf_xdp_metadata_rx_vlan_tag') !== 0;
const noTags = reason || (tellsTags ? '' : 'this kernel does not tell XDP programs of tags');
const withTags = noTags ? test.skip : test.serial;
const tagTitle = 'a VLAN tag that the sender left to its device is seen in the frame';
withTags(`${tagTitle}${noTags ? ` (skipped: ${noTags})` : ''}`, async (t) => {
  const pair = await VethPair.make(1, { here: true });
  const wire = new XdpWire([pair], {}, 1500, false);
  const tagger = tagFrames(pair.farIfindex);
  try {
    t.true(tagger >= 0);
    t.is(wire.devices[0]!.facts()['xdp_vlan_tags'], 'restored');
    // Hosts also tell each other of IPv6.
    const tagged = (head: Uint8Array) => head[12] === 0x81 && head[16] === 8;
    const pings = new Child('busybox', ['ping', '-I', pair.far, pair.neighbour]);
    try {
      const frames = await until('a frame with a tag', () => wire.take(0, tagged), PATIENCE_MS);
      t.deepEqual([...frames.subarray(12, 18)], [0x81, 0, 0, 5, 8, 6]);
    } finally {
      await pings.stop('SIGKILL');
    }
  } finally {
    if (tagger >= 0) close(tagger);
    await wire.close();
    await pair.remove();
  }
});

const FLOOD = `
  const socket = require('node:dgram').createSocket('udp4');
  let left = 8000;
  const next = () => (left-- > 0 ? socket.send('x', 9, process.argv[1], next) : socket.close());
  next();
`;

onVeth(`frames that the kernel drops while nobody polls are counted once polls go on${why}`, async (t) => {
  const pair = await VethPair.make(1);
  try {
    const wire = new XdpWire([pair], {}, 1500, false);
    try {
      const neighbour = [pair.neighbour, 'lladdr', '02:00:00:00:00:99', 'dev', pair.far];
      await runOk('ip', ['-n', pair.space, 'neigh', 'add', ...neighbour]);
      await pair.exec(process.execPath, '-e', FLOOD, pair.neighbour);
      t.is(wire.drops(0, 'rx_kernel_full'), 0);
      const rx = wire.ports[0]!.rx[0]!;
      rx.arm();
      const lost = wire.drops(0, 'rx_kernel_full');
      t.true(lost > 1000);
      rx.arm();
      t.is(wire.drops(0, 'rx_kernel_full'), lost);
      while (wire.take(0, () => true));
      t.true(wire.counter(0, 'rx_packets') >= 4000);
    } finally {
      await wire.close();
    }
  } finally {
    await pair.remove();
  }
});

onVeth(
  `an interface that vanishes takes its sockets along, and can be opened again when it is back${why}`,
  async (t) => {
    await withPairs({}, async (a, b) => {
      const first = new XdpWire([a, b], {});
      await a.unlink();
      await first.close();
      await a.link({});
      const about = { name: a.near, ifindex: a.ifindex, mtu: 1500, kind: 'veth' };
      t.notThrows(() => new XdpDevice(about, readXdpOptions({})).close());
      const second = new XdpWire([a, b], {});
      try {
        await a.exec(...PING, b.address);
        t.true(second.counter(0, 'rx_packets') >= 1);
      } finally {
        await second.close();
      }
    });
  },
);
