/**
 * A data plane that is killed under Linux guests: QEMU as the client of the socket and as its server, split and packed rings,
 * modern and legacy devices, with and without offloads. What such guests do otherwise is shown by guests.test.ts.
 *
 * Two guests boot once; each card of theirs is one case. Guest a: 0 = client, 1 = server, 2 = server with packed rings, all
 * with all offloads. Guest b has partners for each, subnet 10.0.<card of b>.0/24: a is .1, b is .2.
 */
import test from 'ava';
import { PATIENCE_MS } from '../support/datapath.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';
import { type Card, QemuGuest, qemuUnavailable, writeInitramfs } from '../support/qemu.ts';
import { alive, SwitchProcess } from '../support/switch.ts';

const reason = qemuUnavailable();
const maybe = reason
  ? (title: string, _body: unknown) => test.serial.skip(`${title} (${reason})`, () => {})
  : test.serial;

const PLAIN = 'csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off';

interface Place {
  role: Card['role'];
  device?: string;
  /** Card of guest a in the same subnet. */
  partner?: number;
}
const A: readonly Place[] = [{ role: 'client' }, { role: 'server' }, { role: 'server', device: 'packed=on' }];
const B: readonly Place[] = [
  { role: 'client', partner: 0 },
  { role: 'server', partner: 1, device: PLAIN },
  { role: 'client', partner: 0, device: 'disable-modern=on' },
  { role: 'client', partner: 0, device: 'packed=on' },
  { role: 'server', partner: 2, device: 'packed=on' },
];

const BLOCK = 65_536;
const BLOCKS = 64;

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

maybe('kill -9 of the data plane: pings and a stream under way go on, whoever listens on the socket', async (t) => {
  t.timeout(240_000);
  const answers = async (card: number): Promise<number> =>
    Number(await lab.a.run(`grep -c 'bytes from' /tmp/ping${card} || true`));
  for (const card of B.keys()) await lab.a.run(`ping -i 0.2 10.0.${card}.2 >/tmp/ping${card} 2>&1 &`);
  for (const card of B.keys()) await until(`pings to b${card}`, async () => (await answers(card)) > 0, PATIENCE_MS);
  // Two streams, one after the other: over split rings, and over packed ones, whose place QEMU does not know.
  for (const subnet of [1, 4]) {
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
