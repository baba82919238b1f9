/**
 * A Linux guest with QEMU's own ivshmem devices on the whole switch: programs in the guest exchange verified frames with a
 * process on the host, which attaches as a container does.
 *
 * One guest boots once, with `ivshmem-doorbell` on the socket of port `vm` and `ivshmem-plain` on the file of the same pool,
 * for port `plain`. All ports share the pool.
 */
import { join } from 'node:path';
import test from 'ava';
import { PATIENCE_MS } from '../support/datapath.ts';
import { findKernel, hasVfio, VFIO_MODULES } from '../support/initramfs.ts';
import { buildExamples, type Examples, exampleCompiler } from '../support/ivshmem-examples.ts';
import { Child, removeScratchDir, run, runOk, scratchDir, until } from '../support/process.ts';
import { QemuGuest, qemuUnavailable, writeInitramfs } from '../support/qemu.ts';
import { SwitchProcess } from '../support/switch.ts';

const reason = qemuUnavailable() ?? (exampleCompiler() ? undefined : 'no C compiler or make');
const maybe = reason
  ? (title: string, _body: unknown) => test.serial.skip(`${title} (${reason})`, () => {})
  : test.serial;
const withVfio =
  reason || hasVfio(findKernel()!)
    ? maybe
    : (title: string, _body: unknown) => test.serial.skip(`${title} (the kernel has no vfio-pci)`, () => {});

const BYTES = 16 * 2 ** 20;
const DEVICES = '/sys/bus/pci/devices';
const GIVE_UP = `--timeout ${PATIENCE_MS / 1000}`;

class Lab {
  readonly dir = scratchDir('rwiq');
  readonly file = join(this.dir, 'pool');
  sw!: SwitchProcess;
  guest!: QemuGuest;
  programs!: Examples;
  /** PCI addresses in the guest. */
  doorbell = '';
  plain = '';
  credit = 0;

  /** Starts everything; what there is by then ends with `close`, also when this fails. */
  async open(): Promise<void> {
    this.programs = await buildExamples();
    this.sw = await SwitchProcess.start('--default');
    for (const name of ['vm', 'plain', 'host']) {
      const settings = ['type=ivshmem', `options:path=${this.sw.socket(name)}`, 'mtu_request=9000'];
      const pool = ['options:pool=p', `options:size=${BYTES}`, `options:backing-path=${this.file}`];
      await this.sw.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, ...settings, ...pool);
    }
    await this.sw.ofctl('add-flow', 'br0', 'in_port=vm,actions=output:host');
    await this.sw.ofctl('add-flow', 'br0', 'in_port=plain,actions=output:host');
    await this.towards('vm');
    const programs = { rwi: this.programs.rwi, 'rwi-echo': this.programs.echo };
    const archive = writeInitramfs(this.dir, { modules: VFIO_MODULES, programs });
    this.guest = await QemuGuest.start(
      'ivshmem guest',
      archive,
      [],
      [
        { kind: 'doorbell', socket: this.sw.socket('vm'), vectors: 1 },
        { kind: 'plain', file: this.file, bytes: BYTES },
      ],
    );
  }

  /** Leads what the host sends to one of the guest's ports. */
  async towards(port: string): Promise<void> {
    await this.sw.ofctl('add-flow', 'br0', `in_port=host,actions=output:${port}`);
  }

  /** Starts the echo in the guest, on the device that `where` names; the port is up when it resolves. */
  async echoInGuest(where: string, port: string): Promise<void> {
    await this.guest.run(`rwi-echo ${where} >/tmp/echo 2>&1 & true`);
    await this.guest.run("until grep -q 'echo ready' /tmp/echo; do usleep 10000; done");
    await this.sw.linkUp(port);
  }

  stopEchoInGuest(): Promise<string> {
    return this.guest.run('kill -9 $(pidof rwi-echo)');
  }

  /** Frames from the host to the guest's echo and back. @returns what the program said. */
  async exchangeFromHost(count: number, size: number): Promise<string> {
    const args = ['exchange', `socket:${this.sw.socket('host')}`, '--size', `${size}`];
    // Frames that wait for a new flow's megaflow may be overtaken by those behind them: a few alone, to have it installed.
    const few = [...args, '--count', '2', '--window', '1', '--timeout', '5'];
    const one = () => run(this.programs.rwi, few).catch(() => ({ code: 1 }));
    await until('frames to come back', async () => (await one()).code === 0, PATIENCE_MS);
    return runOk(this.programs.rwi, [...args, '--count', `${count}`, ...GIVE_UP.split(' ')], {
      timeoutMs: 2 * PATIENCE_MS,
    });
  }

  /** Frames from the guest to an echo on the host and back. @returns what the program said. */
  async exchangeFromGuest(where: string, count: number, size: number, options = ''): Promise<string> {
    const echo = new Child(this.programs.echo, [`socket:${this.sw.socket('host')}`], { name: 'echo' });
    try {
      await echo.waitFor(/echo ready.*\n/, 'the echo to be ready', PATIENCE_MS);
      await this.sw.linkUp('host');
      // As above.
      const few = `rwi exchange ${where} --count 2 --window 1 --timeout 5 ${options}`;
      const one = async () => (await this.guest.tryRun(few)).code === 0;
      await until('frames to come back', one, PATIENCE_MS);
      const line = `rwi exchange ${where} --count ${count} --size ${size} ${GIVE_UP} ${options}`;
      return await this.guest.run(line, 2 * PATIENCE_MS);
    } finally {
      await echo.stop('SIGKILL');
    }
  }

  /**
   * Nobody holds a buffer. As the pool is a file, each of the three slots waits for a client with the buffers that it may
   * take for sending.
   */
  async noneHeld(): Promise<void> {
    const fact = async (name: string) =>
      Number((await this.sw.vsctl('get', 'Interface', 'host', `status:${name}`)).trim().replaceAll('"', ''));
    const check = async () => (await fact('buffers_free')) === (await fact('buffers')) - 3 * this.credit;
    await until('all buffers to be back', check, PATIENCE_MS, () => this.sw.child.tail());
  }

  async close(): Promise<void> {
    await this.guest?.stop();
    await this.sw?.close();
    removeScratchDir(this.dir);
  }
}

const lab = new Lab();

test.before(async (t) => {
  t.timeout(240_000);
  if (!reason) await lab.open();
});
test.after.always(() => lab.close());

const all = (count: number): RegExp => new RegExp(`exchanged ${count} good, 0 bad, 0 lost`);

maybe('the guest finds both devices, and the pool in their memory', async (t) => {
  t.timeout(240_000);
  const found = await lab.guest.run(`grep -l 0x1110 ${DEVICES}/*/device`);
  const addresses = [...found.matchAll(/devices\/(\S+)\/device/g)].map(([, address]) => address!);
  t.is(addresses.length, 2);
  for (const address of addresses) {
    t.is((await lab.guest.run(`cat ${DEVICES}/${address}/vendor`)).trim(), '0x1af4');
    const size = await lab.guest.run(`stat -c %s ${DEVICES}/${address}/resource2`);
    t.is(Number(size), BYTES);
    // Only the device with doorbells has interrupts: their table is BAR 1.
    const { code } = await lab.guest.tryRun(`test -e ${DEVICES}/${address}/resource1`);
    if (code === 0) lab.doorbell = address;
    else lab.plain = address;
  }
  t.truthy(lab.doorbell);
  t.truthy(lab.plain);
});

maybe('ivshmem-doorbell without a driver: the guest rings, and looks by itself; both ways', async (t) => {
  t.timeout(240_000);
  const where = `pci:${lab.doorbell}`;
  const info = await lab.guest.run(`rwi info ${where}`);
  t.regex(info, /pool of 16777216 bytes/);
  lab.credit = Number(/credit (\d+)/.exec(info)![1]);
  t.regex(info, /port "vm"\) by sysfs: .*, 0 vectors/);
  await lab.echoInGuest(where, 'vm');
  t.regex(await lab.exchangeFromHost(300, 64), all(300));
  t.regex(await lab.exchangeFromHost(100, 9000), all(100));
  await lab.stopEchoInGuest();
  t.regex(await lab.exchangeFromGuest(where, 300, 1500), all(300));
});

withVfio('ivshmem-doorbell through vfio: interrupts wake the guest; both ways', async (t) => {
  t.timeout(240_000);
  const where = `pci:${lab.doorbell}`;
  await lab.guest.run(`echo vfio-pci >${DEVICES}/${lab.doorbell}/driver_override`);
  await lab.guest.run(`echo ${lab.doorbell} >/sys/bus/pci/drivers/vfio-pci/bind`);
  t.regex(await lab.guest.run(`rwi info ${where}`), /port "vm"\) by vfio: .*, 1 vectors/);
  const interrupts = async () =>
    Number(/:\s+(\d+).*vfio-msix/.exec(await lab.guest.run('cat /proc/interrupts'))?.[1] ?? 0);
  await lab.echoInGuest(where, 'vm');
  t.regex(await lab.exchangeFromHost(300, 64), all(300));
  t.true((await interrupts()) > 0, 'the guest was interrupted');
  t.regex(await lab.exchangeFromHost(100, 9000), all(100));
  await lab.stopEchoInGuest();
  t.regex(await lab.exchangeFromGuest(where, 300, 1500), all(300));
});

maybe('ivshmem-plain: both sides poll; both ways', async (t) => {
  t.timeout(240_000);
  const where = `pci:${lab.plain},plain`;
  await lab.towards('plain');
  t.regex(await lab.guest.run(`rwi info ${where}`), /port "plain"\) by sysfs: .*, plain, 0 vectors/);
  await lab.echoInGuest(where, 'plain');
  t.regex(await lab.exchangeFromHost(300, 64), all(300));
  t.regex(await lab.exchangeFromHost(100, 9000), all(100));
  await lab.stopEchoInGuest();
  t.regex(await lab.exchangeFromGuest(where, 300, 1500), all(300));
});

maybe(
  'a program killed in the guest, in the middle of sending and receiving, comes back in its slot; no buffer is lost',
  async (t) => {
    t.timeout(240_000);
    await lab.towards('vm');
    const where = `pci:${lab.doorbell}`;
    const slots: string[] = [];
    for (let round = 0; round < 3; round++) {
      await lab.echoInGuest(where, 'vm');
      slots.push(/slot (\d+)/.exec(await lab.guest.run('cat /tmp/echo'))![1]!);
      const args = ['exchange', `socket:${lab.sw.socket('host')}`, '--count', '1000000000', ...GIVE_UP.split(' ')];
      const busy = new Child(lab.programs.rwi, args, { name: 'rwi exchange' });
      try {
        const packets = () => lab.sw.vsctl('get', 'Interface', 'vm', 'statistics:rx_packets');
        const before = Number(await packets());
        await until('answers of the guest', async () => Number(await packets()) > before + 50, PATIENCE_MS);
        await lab.stopEchoInGuest();
      } finally {
        await busy.stop('SIGKILL');
      }
    }
    t.is(new Set(slots).size, 1);
    await lab.echoInGuest(where, 'vm');
    t.regex(await lab.exchangeFromHost(200, 3000), all(200));
    await lab.stopEchoInGuest();
    // The next program finds what this one left, and leaves nothing.
    await lab.guest.run(`rwi info ${where}`);
    await lab.noneHeld();
  },
);

maybe(
  'a guest with ivshmem-plain goes on when the data plane was killed: the next one uses the same file',
  async (t) => {
    t.timeout(240_000);
    await lab.towards('plain');
    await lab.echoInGuest(`pci:${lab.plain},plain`, 'plain');
    t.regex(await lab.exchangeFromHost(100, 64), all(100));
    const pid = lab.sw.datapathPid;
    process.kill(pid, 'SIGKILL');
    await until('another data plane', () => lab.sw.datapathPid !== pid && lab.sw.datapathPid > 0, PATIENCE_MS);
    await lab.sw.linkUp('plain');
    t.regex(await lab.exchangeFromHost(100, 1500), all(100));
  },
);
