/**
 * Linux guests under QEMU on the whole switch: their kernel's virtio driver with and without offloads, modern and legacy,
 * with split and packed rings, QEMU as the client of the socket and as its server, and a data plane that is killed under
 * them.
 *
 * Two guests boot once; each card of theirs is one case. Guest a: 0 = client, 1 = server, 2 = server with packed rings, all
 * with all offloads. Guest b has
 * a partner for each, subnet 10.0.<card of b>.0/24: a is .1, b is .2.
 */
import test from 'ava';
import { VIRTIO_FEATURES, type VirtioFeature } from '#ports/vhost-user/wire.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';
import { type Card, QemuGuest, qemuUnavailable, writeInitramfs } from '../support/qemu.ts';
import { alive, SwitchProcess } from '../support/switch.ts';

const reason = qemuUnavailable();
const maybe = reason
  ? (title: string, _body: unknown) => test.serial.skip(`${title} (${reason})`, () => {})
  : test.serial;

const PLAIN = 'csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off';
const NO_HOST_TSO = 'host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off';

interface Place {
  role: Card['role'];
  device?: string;
  /** Card of guest a in the same subnet. */
  partner?: number;
}
const A: readonly Place[] = [{ role: 'client' }, { role: 'server' }, { role: 'server', device: 'packed=on' }];
const B: readonly Place[] = [
  { role: 'client', partner: 0 },
  { role: 'server', partner: 1, device: `${PLAIN},${NO_HOST_TSO},mrg_rxbuf=on` },
  { role: 'client', partner: 0, device: `${PLAIN},mrg_rxbuf=off` },
  { role: 'client', partner: 0, device: 'disable-modern=on' },
  { role: 'client', partner: 0, device: `${PLAIN},${NO_HOST_TSO},disable-modern=on,mrg_rxbuf=off` },
  { role: 'client', partner: 0, device: 'packed=on' },
  { role: 'server', partner: 2, device: 'packed=on' },
];

const BLOCK = 65_536;
const BLOCKS = 64;
const FILE_BYTES = BLOCK * BLOCKS;

class Lab {
  readonly dir = scratchDir('rwq');
  sw!: SwitchProcess;
  a!: QemuGuest;
  b!: QemuGuest;

  /** Starts everything; what there is by then ends with `close`, also when this fails. */
  async open(): Promise<void> {
    this.sw = await SwitchProcess.start('--default');
    const archive = writeInitramfs(this.dir);
    const forA = await this.#cards('a', A);
    const forB = await this.#cards('b', B);
    const booting = [QemuGuest.start('guest a', archive, forA), QemuGuest.start('guest b', archive, forB)] as const;
    const [a, b] = await Promise.allSettled(booting);
    if (a.status === 'fulfilled') this.a = a.value;
    if (b.status === 'fulfilled') this.b = b.value;
    await Promise.all(booting);
    for (const guest of [this.a, this.b]) {
      await guest.run('httpd -p 80 -h /tmp');
      for (const name of guest.interfaces) await guest.run(`ip link set ${name} up`);
    }
    for (const [i, { partner }] of B.entries()) {
      await this.#address(this.a, partner!, i, 1);
      await this.#address(this.b, i, i, 2);
    }
  }

  /** Adds the ports of a guest to br0. */
  async #cards(guest: string, places: readonly Place[]): Promise<Card[]> {
    const cards: Card[] = [];
    for (const [i, { role, device }] of places.entries()) {
      const name = `${guest}${i}`;
      const socket = this.sw.socket(name);
      const type = role === 'client' ? 'vhost-user' : 'dpdkvhostuserclient';
      const path = role === 'client' ? 'path' : 'vhost-server-path';
      const options = [`type=${type}`, `options:${path}=${socket}`];
      await this.sw.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, ...options);
      cards.push({ mac: `52:54:00:00:0${guest}:0${i}`, socket, role, ...(device ? { device } : {}) });
    }
    return cards;
  }

  async #address(guest: QemuGuest, card: number, subnet: number, host: number): Promise<void> {
    const to = `dev ${guest.interfaces[card]}`;
    await guest.run(`ip addr add 10.0.${subnet}.${host}/24 ${to}`);
    await guest.run(`ip addr add fd00:${subnet}::${host}/64 ${to}`);
  }

  async close(): Promise<void> {
    await Promise.all([this.a?.stop(), this.b?.stop()]);
    await this.sw?.close();
    removeScratchDir(this.dir);
  }

  /** Pings b's card from a, and a from b. */
  async ping(card: number): Promise<void> {
    await this.a.run(`ping -c 3 -A -W 20 10.0.${card}.2`);
    await this.b.run(`ping -c 3 -A -W 20 10.0.${card}.1`);
  }

  /** Makes a file of random bytes. @returns its digest. */
  #file(guest: QemuGuest): Promise<string> {
    return guest.run(`dd if=/dev/urandom of=/tmp/out bs=${BLOCK} count=${BLOCKS} 2>&- && sha1sum </tmp/out`);
  }

  /** `to` fetches a file over TCP, as fast as it goes, from `from`, which has this address. @returns the digests of both ends. */
  async fetch(from: QemuGuest, to: QemuGuest, address: string): Promise<string[]> {
    const digest = await this.#file(from);
    await to.run(`timeout 60 wget -q -O /tmp/in http://${address}/out`, 90_000);
    return [digest, await to.run('sha1sum </tmp/in')];
  }

  /**
   * `from` sends a file over TCP at leisure to `to`, which has this address; `during` is called when a part has arrived.
   * @returns the digests of both ends.
   */
  async trickle(from: QemuGuest, to: QemuGuest, address: string, during: () => Promise<void>): Promise<string[]> {
    const digest = await this.#file(from);
    // nc shuts its side down, and the other end with it, when its input ends: this one's never does.
    await to.run('rm -f /tmp/in /tmp/never; mkfifo /tmp/never');
    await to.run(`timeout 120 nc -l -p 5000 <>/tmp/never >/tmp/in & nc=$!`);
    await to.run(`until netstat -ltn | grep -q ':5000 '; do usleep 10000; done`);
    const block = `dd if=/tmp/out bs=${BLOCK} skip=$i count=1 2>&-; usleep 50000`;
    const blocks = `for i in $(seq 0 ${BLOCKS - 1}); do ${block}; done`;
    const sending = from.run(`${blocks} | timeout 120 nc ${address} 5000`, 150_000);
    await to.run(`until [ $(wc -c </tmp/in) -gt ${4 * BLOCK} ]; do usleep 10000; done`);
    await during();
    await sending;
    return [digest, await to.run('wait $nc; sha1sum </tmp/in', 150_000)];
  }

  async counters(port: string): Promise<Record<string, number>> {
    const text = await this.sw.vsctl('get', 'Interface', port, 'statistics');
    return Object.fromEntries([...text.matchAll(/(\w+)=(\d+)/g)].map(([, name, value]) => [name, Number(value)]));
  }

  /** What the port's counters gained while `work` ran. */
  async gained(port: string, work: () => Promise<void>): Promise<Record<string, number>> {
    const before = await this.counters(port);
    await work();
    const after = await this.counters(port);
    return Object.fromEntries(Object.keys(after).map((name) => [name, after[name]! - (before[name] ?? 0)]));
  }

  async killDataPlane(): Promise<void> {
    const before = this.sw.datapathPid;
    process.kill(before, 'SIGKILL');
    await until('another data plane', () => this.sw.datapathPid !== before && alive(this.sw.datapathPid), PATIENCE_MS);
  }
}

const lab = new Lab();

test.before('two guests boot', async (t) => {
  t.timeout(240_000);
  if (!reason) await lab.open();
});

test.after.always('everything ends', async () => {
  await lab.close();
});

const has = (features: Set<number>, ...names: VirtioFeature[]): boolean =>
  names.every((name) => features.has(VIRTIO_FEATURES[name]));

maybe('modern guests with offloads exchange TSO frames and partial checksums as they are', async (t) => {
  t.timeout(240_000);
  const features = await lab.b.features(0);
  t.true(has(features, 'VERSION_1', 'MRG_RXBUF', 'CSUM', 'GUEST_CSUM', 'HOST_TSO4', 'GUEST_TSO4', 'GUEST_TSO6'));
  await lab.ping(0);
  for (const address of ['10.0.0.1', '[fd00:0::1]']) {
    const gained = await lab.gained('b0', async () => {
      const [sent, got] = await lab.fetch(lab.a, lab.b, address);
      t.is(got, sent);
    });
    t.true(gained['tx_bytes']! > FILE_BYTES);
    t.true(gained['tx_bytes']! / gained['tx_packets']! > 3000, 'frames longer than the MTU were carried');
    t.is(gained['segmented'], 0);
    t.is(gained['checksums'], 0);
    t.log(`${address}: ${Math.round(gained['tx_bytes']! / gained['tx_packets']!)} bytes per frame`);
  }
  const [sent, got] = await lab.fetch(lab.b, lab.a, '10.0.0.2');
  t.is(got, sent);
});

/** A stream each way between guest a, which has all offloads, and a card of b that has none. */
const bare = async (t: import('ava').ExecutionContext, card: number, addresses: [string, string][]): Promise<void> => {
  const features = await lab.b.features(card);
  for (const name of ['CSUM', 'GUEST_CSUM', 'GUEST_TSO4', 'GUEST_TSO6'] as const) {
    t.false(has(features, name), name);
  }
  await lab.ping(card);
  for (const [ofA, ofB] of addresses) {
    const gained = await lab.gained(`b${card}`, async () => {
      const [sent, got] = await lab.fetch(lab.a, lab.b, ofA);
      t.is(got, sent);
    });
    t.true(gained['segmented']! > 0, 'frames were segmented');
    t.true(gained['checksums']! > 0, 'checksums were completed');
    t.true(gained['tx_bytes']! / gained['tx_packets']! < 1515, 'no frame is longer than the MTU');
    t.log(`${ofA}: ${gained['segmented']} frames segmented, ${gained['checksums']} checksums`);
    const [sent, got] = await lab.fetch(lab.b, lab.a, ofB);
    t.is(got, sent);
  }
};

maybe('a modern guest without offloads gets segments and whole checksums; its QEMU is the server', async (t) => {
  t.timeout(240_000);
  t.true(has(await lab.b.features(1), 'VERSION_1', 'MRG_RXBUF'));
  await bare(t, 1, [
    ['10.0.1.1', '10.0.1.2'],
    ['[fd00:1::1]', '[fd00:1::2]'],
  ]);
});

maybe('a modern guest without offloads and mergeable buffers gets segments and whole checksums', async (t) => {
  t.timeout(240_000);
  const features = await lab.b.features(2);
  t.true(has(features, 'VERSION_1'));
  t.false(has(features, 'MRG_RXBUF'));
  await bare(t, 2, [['10.0.2.1', '10.0.2.2']]);
});

maybe('a legacy guest with offloads exchanges streams with a modern one', async (t) => {
  t.timeout(240_000);
  const features = await lab.b.features(3);
  t.false(has(features, 'VERSION_1'));
  t.true(has(features, 'CSUM', 'GUEST_CSUM', 'HOST_TSO4', 'GUEST_TSO4'));
  await lab.ping(3);
  const gained = await lab.gained('b3', async () => {
    const [sent, got] = await lab.fetch(lab.a, lab.b, '10.0.3.1');
    t.is(got, sent);
  });
  t.true(gained['tx_bytes']! / gained['tx_packets']! > 3000, 'frames longer than the MTU were carried');
  t.is(gained['segmented'], 0);
  const [sent, got] = await lab.fetch(lab.b, lab.a, '10.0.3.2');
  t.is(got, sent);
});

maybe('a legacy guest with the short virtio-net header and no offload gets segments and whole checksums', async (t) => {
  t.timeout(240_000);
  const features = await lab.b.features(4);
  t.false(has(features, 'VERSION_1') || has(features, 'MRG_RXBUF'));
  await bare(t, 4, [['10.0.4.1', '10.0.4.2']]);
});

maybe('packed rings carry streams to split and to packed ones', async (t) => {
  t.timeout(240_000);
  for (const card of [5, 6]) {
    t.true(has(await lab.b.features(card), 'VERSION_1', 'RING_PACKED', 'MRG_RXBUF', 'GUEST_TSO4'));
    await lab.ping(card);
    const gained = await lab.gained(`b${card}`, async () => {
      const [sent, got] = await lab.fetch(lab.a, lab.b, `10.0.${card}.1`);
      t.is(got, sent);
    });
    t.true(gained['tx_bytes']! / gained['tx_packets']! > 3000, 'frames longer than the MTU were carried');
    const [sent, got] = await lab.fetch(lab.b, lab.a, `10.0.${card}.2`);
    t.is(got, sent);
  }
  t.true(has(await lab.a.features(2), 'RING_PACKED'));
});

maybe('kill -9 of the data plane: pings and a stream under way go on, whoever listens on the socket', async (t) => {
  t.timeout(240_000);
  const answers = async (card: number): Promise<number> =>
    Number(await lab.a.run(`grep -c 'bytes from' /tmp/ping${card} || true`));
  for (const card of B.keys()) await lab.a.run(`ping -i 0.2 10.0.${card}.2 >/tmp/ping${card} 2>&1 &`);
  for (const card of B.keys()) await until(`pings to b${card}`, async () => (await answers(card)) > 0, PATIENCE_MS);
  // Two streams, one after the other: over split rings, and over packed ones, whose place QEMU does not know.
  for (const subnet of [1, 6]) {
    const [sent, got] = await lab.trickle(lab.b, lab.a, `10.0.${subnet}.1`, () => lab.killDataPlane());
    t.is(got, sent, 'TCP made up for what was lost');
  }
  for (const card of B.keys()) {
    const before = await answers(card);
    await until(`pings to b${card} to go on`, async () => (await answers(card)) > before + 1, PATIENCE_MS);
  }
  await lab.a.run('kill $(pidof ping); true');
  for (const card of B.keys()) {
    const answered = [...(await lab.a.run(`cat /tmp/ping${card}`)).matchAll(/seq=(\d+)/g)].map(([, seq]) =>
      Number(seq),
    );
    const lost = Math.max(...answered.slice(1).map((seq, i) => seq - answered[i]! - 1));
    t.log(`b${card}, QEMU as ${B[card]!.role}: ${lost} pings of 200 ms lost in a row`);
  }
  for (const card of B.keys()) await lab.ping(card);
});
