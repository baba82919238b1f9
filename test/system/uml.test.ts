/** Linux guests in user mode on the whole switch: a front end of the kernel's own (virtio_uml), at the speed of the machine. */
import { join } from 'node:path';
import test from 'ava';
import { iperf, ping, reach } from '../guests/exchange.ts';
import { ADDRESS } from '../guests/lab.ts';
import { removeScratchDir, scratchDir, which } from '../support/process.ts';
import { SwitchProcess } from '../support/switch.ts';
import { UML_WITHOUT, UmlGuest, umlUnavailable, writeUmlImage } from '../support/uml.ts';
import { VhostRelay } from '../support/vhost-relay.ts';

const reason = umlUnavailable() ?? (which('iperf3') ? undefined : 'no iperf3 (Debian: iperf3)');
const maybe = reason
  ? (title: string, _body: unknown) => test.serial.skip(`${title} (${reason})`, () => {})
  : test.serial;

const SIDES = ['a', 'b'] as const;
const TCP_BYTES = 64 * 2 ** 20;
/** Bytes on average that TCP's frames have at least where they pass in one piece, longer than the MTU. */
const LONG_FRAMES = 2000;

maybe('guests in user mode ping each other and stream TCP both ways, in frames longer than the MTU', async (t) => {
  t.timeout(120_000);
  const dir = scratchDir('uml');
  const made = await SwitchProcess.start();
  const relays: VhostRelay[] = [];
  const guests: UmlGuest[] = [];
  try {
    const image = writeUmlImage(dir, { iperf3: which('iperf3')! });
    await made.vsctl('add-br', 'br0');
    for (const side of SIDES) {
      const back = join(dir, `${side}.sock`);
      relays.push(new VhostRelay({ front: `${back}.guest`, back }, UML_WITHOUT));
      const options = ['type=dpdkvhostuserclient', `options:vhost-server-path=${back}`];
      await made.vsctl('add-port', 'br0', side, '--', 'set', 'Interface', side, ...options);
    }
    for (const side of SIDES) {
      const guest = await UmlGuest.start(`guest ${side}`, image, [join(dir, `${side}.sock.guest`)]);
      guests.push(guest);
      const device = guest.interfaces[0]!;
      await guest.run(`ip link set ${device} up && ip addr add ${ADDRESS[side]}/24 dev ${device}`);
    }
    const [a, b] = guests as [UmlGuest, UmlGuest];
    await b.run('iperf3 -s -D');
    await reach(a, ADDRESS.b);
    t.log(`ping ${await ping(a, ADDRESS.b, 56)} ms`);
    for (const reverse of ['', '-R']) {
      const end = await iperf(a, ADDRESS.b, `-n ${TCP_BYTES} ${reverse}`);
      t.true(end.sum_sent.bytes >= TCP_BYTES);
      t.log(`TCP ${reverse} ${(end.sum_received.bits_per_second / 1e9).toFixed(2)} Gbit/s`);
    }
    const device = a.interfaces[0]!;
    const counted = async (what: string) => Number(await a.run(`cat /sys/class/net/${device}/statistics/${what}`));
    for (const way of ['rx', 'tx'])
      t.true((await counted(`${way}_bytes`)) / (await counted(`${way}_packets`)) > LONG_FRAMES, way);
    t.is(await counted('rx_errors'), 0);
  } finally {
    for (const guest of guests) await guest.stop();
    await made.close();
    for (const relay of relays) relay.close();
    removeScratchDir(dir);
  }
});
