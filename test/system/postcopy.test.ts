/**
 * Post-copy migration of a Linux guest between two QEMU processes, each with a port of its own on the switch: the guest runs
 * on before its memory has come.
 */
import { join } from 'node:path';
import test from 'ava';
import { postcopyAvailable } from '#ports/vhost-user/postcopy.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';
import { type Card, QemuGuest, qemuUnavailable, writeInitramfs } from '../support/qemu.ts';
import { type Migration, Qmp } from '../support/qmp.ts';
import { SwitchProcess } from '../support/switch.ts';

const reason = qemuUnavailable() ?? (postcopyAvailable() ? undefined : 'no userfaultfd for this process');
const maybe = reason ? (title: string, _body: unknown) => test.skip(`${title} (${reason})`, () => {}) : test;
const BLOCK = 65_536;
const BLOCKS = 64;
const MAC = '52:54:00:00:0b:01';

/** Lets the guest run on at the other side before its memory has come. */
async function postcopy(source: Qmp, target: Qmp, uri: string): Promise<Migration> {
  const capabilities = [{ capability: 'postcopy-ram', state: true }];
  for (const qmp of [source, target]) await qmp.run('migrate-set-capabilities', { capabilities });
  await target.run('migrate-incoming', { uri });
  // So slow that most of the memory is still to come then.
  await source.run('migrate-set-parameters', { 'max-bandwidth': 4 << 20, 'max-postcopy-bandwidth': 16 << 20 });
  await source.run('migrate', { uri });
  const moving = async (): Promise<true | undefined> => {
    const { status, ram } = (await source.run('query-migrate')) as Migration;
    return status === 'active' && (ram?.transferred ?? 0) > 1 << 20 ? true : undefined;
  };
  await until('memory to be on its way', moving, PATIENCE_MS);
  await source.run('migrate-start-postcopy');
  return source.migrated();
}

maybe('a guest moves ahead of its memory while it is pinged and receives a stream: every byte is there', async (t) => {
  t.timeout(300_000);
  const dir = scratchDir('rwm');
  const guests: QemuGuest[] = [];
  const controls: Qmp[] = [];
  let sw: SwitchProcess | undefined;
  try {
    sw = await SwitchProcess.start('--default');
    const card = async (name: string, mac: string): Promise<Card> => {
      const socket = sw!.socket(name);
      const options = ['type=vhost-user', `options:path=${socket}`];
      await sw!.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, ...options);
      return { mac, socket, role: 'client' };
    };
    const archive = writeInitramfs(dir);
    const control = join(dir, 'qmp');
    const [forA, forB, forC] = [await card('a', '52:54:00:00:0a:01'), await card('b', MAC), await card('c', MAC)];
    const booting = [
      QemuGuest.start('guest a', archive, [forA]),
      QemuGuest.start('guest b', archive, [forB], [], { more: ['-qmp', `unix:${control},server=on,wait=off`] }),
    ] as const;
    for (const result of await Promise.allSettled(booting))
      if (result.status === 'fulfilled') guests.push(result.value);
    const [a, b] = await Promise.all(booting);
    await a.run(`ip link set ${a.interfaces[0]} up && ip addr add 10.9.0.1/24 dev ${a.interfaces[0]}`);
    await b.run(`ip link set ${b.interfaces[0]} up && ip addr add 10.9.0.2/24 dev ${b.interfaces[0]}`);
    await a.run('ping -c 3 -A -W 20 10.9.0.2');

    // nc shuts its side down, and the other end with it, when its input ends: this one's never does.
    await b.run('mkfifo /tmp/never; timeout 120 nc -l -p 5000 <>/tmp/never >/tmp/in & nc=$!');
    await b.run(`until netstat -ltn | grep -q ':5000 '; do usleep 10000; done`);
    const digest = await a.run(`dd if=/dev/urandom of=/tmp/out bs=${BLOCK} count=${BLOCKS} 2>&- && sha1sum </tmp/out`);
    await a.run('ping -i 0.1 -c 1000 10.9.0.2 >/tmp/pings 2>&1 & ping=$!');
    const block = `dd if=/tmp/out bs=${BLOCK} skip=$i count=1 2>&-; usleep 50000`;
    const blocks = `for i in $(seq 0 ${BLOCKS - 1}); do ${block}; done`;
    const sending = a.run(`${blocks} | timeout 120 nc 10.9.0.2 5000`, 150_000);
    await b.run(`until [ $(wc -c </tmp/in) -gt ${4 * BLOCK} ]; do usleep 10000; done`);

    const meeting = join(dir, 'incoming');
    const uri = `unix:${meeting}`;
    const receiving = ['-qmp', `unix:${control}2,server=on,wait=off`];
    const moved = QemuGuest.toReceive(b, archive, [forC], 'defer', receiving);
    guests.push(moved);
    controls.push(await Qmp.open(control), await Qmp.open(`${control}2`));
    const [source, target] = controls as [Qmp, Qmp];
    const end = await postcopy(source, target, uri);
    t.true(end.ram!['postcopy-requests'] > 0);
    await sending;
    t.is(await moved.run('wait $nc; sha1sum </tmp/in', 150_000), digest);
    await a.run('ping -c 3 -A -W 20 10.9.0.2');
    await a.run('kill -INT $ping; wait $ping; true');
    const [, sent, received] = /(\d+) packets transmitted, (\d+) packets received/.exec(await a.run('cat /tmp/pings'))!;
    t.true(Number(received) > 0);
    t.log(
      `${end['total-time']} ms, of which ${end.downtime} ms down; ${Number(sent) - Number(received)} of ${sent} pings lost`,
    );
    t.is((await sw.vsctl('get', 'Interface', 'c', 'link_state')).trim(), 'up');
  } finally {
    for (const qmp of controls) qmp.close();
    for (const guest of guests) await guest.stop();
    await sw?.close();
    removeScratchDir(dir);
  }
});
