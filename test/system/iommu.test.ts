/**
 * A Linux guest behind QEMU's intel-iommu, whose kernel maps every buffer of its cards before use and unmaps it after: split
 * and packed rings, with a partner that has no IOMMU.
 */
import test from 'ava';
import { VIRTIO_FEATURES } from '#ports/vhost-user/wire.ts';
import { PATIENCE_MS } from '../support/datapath.ts';
import { removeScratchDir, scratchDir, until } from '../support/process.ts';
import { type Card, QemuGuest, qemuUnavailable, writeInitramfs } from '../support/qemu.ts';
import { alive, SwitchProcess } from '../support/switch.ts';

const reason = qemuUnavailable();
const maybe = reason ? (title: string, _body: unknown) => test.skip(`${title} (${reason})`, () => {}) : test;
/** So long that their pages lie scattered in the guest's memory. */
const LONG = 'rx_queue_size=1024,tx_queue_size=1024';
const BLOCK = 65_536;
const BLOCKS = 4;

maybe(
  'a guest behind a vIOMMU pings and streams both ways over split and packed rings, and goes on after a kill of the data plane',
  async (t) => {
    t.timeout(300_000);
    const dir = scratchDir('rwi');
    const guests: QemuGuest[] = [];
    let sw: SwitchProcess | undefined;
    try {
      sw = await SwitchProcess.start('--default');
      await sw.vsctl('set', 'Open_vSwitch', '.', 'other_config:vhost-iommu-support=true');
      const card = async (name: string, mac: string, iommu?: string, device?: string): Promise<Card> => {
        const socket = sw!.socket(name);
        const options = ['type=vhost-user', `options:path=${socket}`, ...(iommu ? [`options:iommu=${iommu}`] : [])];
        await sw!.vsctl('add-port', 'br0', name, '--', 'set', 'Interface', name, ...options);
        return { mac, socket, role: 'client', ...(device && { device }) };
      };
      const archive = writeInitramfs(dir);
      const forA = [await card('a', '52:54:00:00:0a:01', 'off'), await card('b', '52:54:00:00:0a:02', 'off')];
      const forB = [
        await card('c', '52:54:00:00:0b:01', 'on', LONG),
        await card('d', '52:54:00:00:0b:02', 'on', `packed=on,${LONG}`),
      ];
      const booting = [
        QemuGuest.start('guest a', archive, forA),
        QemuGuest.start('guest b', archive, forB, [], { vIommu: 'iommu=nopt iommu.strict=1' }),
      ] as const;
      for (const result of await Promise.allSettled(booting))
        if (result.status === 'fulfilled') guests.push(result.value);
      const [a, b] = await Promise.all(booting);
      for (const [i, port] of ['c', 'd'].entries()) {
        const net = `10.7.${i}`;
        await a.run(`ip link set ${a.interfaces[i]} up && ip addr add ${net}.1/24 dev ${a.interfaces[i]}`);
        await b.run(`ip link set ${b.interfaces[i]} up && ip addr add ${net}.2/24 dev ${b.interfaces[i]}`);
        t.true((await b.features(i)).has(VIRTIO_FEATURES.ACCESS_PLATFORM));
        await a.run(`ping -c 5 -A -W 20 ${net}.2`);
        const digest = await a.run(
          `dd if=/dev/urandom of=/tmp/out bs=${BLOCK} count=${BLOCKS} 2>&- && sha1sum </tmp/out`,
        );
        for (const [from, to, at] of [
          [a, b, `${net}.2`],
          [b, a, `${net}.1`],
        ] as const) {
          // nc shuts its side down, and the other end with it, when its input ends: this one's never does.
          await to.run(
            '[ -p /tmp/never ] || mkfifo /tmp/never; timeout 120 nc -l -p 5000 <>/tmp/never >/tmp/in & nc=$!',
          );
          await to.run(`until netstat -ltn | grep -q ':5000 '; do usleep 10000; done`);
          await from.run(`timeout 120 nc ${at} 5000 </tmp/out`, 150_000);
          t.is(await to.run('wait $nc; sha1sum </tmp/in', 150_000), digest);
          await to.run('mv /tmp/in /tmp/out');
        }
        const status = await sw.vsctl('get', 'Interface', port, 'status');
        const fact = (name: string): number => Number(new RegExp(`${name}="?(\\d+)`).exec(status)?.[1]);
        t.true(fact('iotlb_updates') > 0 && fact('iotlb_invalidations') > 0, status);
        t.log(/iotlb.*?(?=, memory)/.exec(status)?.[0]);
      }
      const before = sw.datapathPid;
      process.kill(before, 'SIGKILL');
      await until('another data plane', () => sw!.datapathPid !== before && alive(sw!.datapathPid), PATIENCE_MS);
      for (const net of ['10.7.0', '10.7.1']) {
        await a.run(`until ping -c 1 -W 1 ${net}.2; do usleep 100000; done`, 150_000);
        await a.run(`ping -c 5 -A -W 20 ${net}.2`);
      }
      t.log(await sw.appctl('drops'));
    } finally {
      for (const guest of guests) await guest.stop();
      await sw?.close();
      removeScratchDir(dir);
    }
  },
);
