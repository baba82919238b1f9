/** Many new flows at once: the control plane answers them, and commands too; every frame is accounted for. */
import test from 'ava';
import { PATIENCE_MS } from '../support/datapath.ts';
import { eth, filler, ipv4, packet, udp } from '../support/packets.ts';
import { sleep, until } from '../support/process.ts';
import { type SwitchProcess, withSwitch } from '../support/switch.ts';

const MACS = { src: '02:00:00:00:00:01', dst: '02:00:00:00:00:02' };

const statistic = async (sw: SwitchProcess, port: string, counter: string): Promise<number> =>
  Number((await sw.vsctl('get', 'Interface', port, `statistics:${counter}`)).trim());

/** Packets lost at all ports, by reason. */
async function lostBy(sw: SwitchProcess): Promise<Record<string, number>> {
  const { ports } = JSON.parse(await sw.appctl('--format=json', 'drops')) as {
    ports: { drops: Record<string, string | number> }[];
  };
  const sums: Record<string, number> = {};
  for (const { drops } of ports)
    for (const [reason, packets] of Object.entries(drops)) sums[reason] = (sums[reason] ?? 0) + Number(packets);
  return sums;
}

test.serial('a storm of misses leaves the command line usable and loses no frame without a name', async (t) => {
  await withSwitch(['--default'], async (sw) => {
    const a = await sw.guest('vhost0');
    const b = await sw.guest('vhost1');
    await sw.linkUp('vhost0', 'vhost1');
    await sw.ofctl('del-flows', 'br0');
    // A flow on a whole port number makes megaflows of single port numbers.
    await sw.ofctl('add-flow', 'br0', 'udp,tp_src=1,tp_dst=1,nw_src=10.255.255.255,actions=drop');
    await sw.ofctl('add-flow', 'br0', 'priority=0,actions=output:2');
    const frame = packet(eth(MACS), ipv4({ src: '10.255.255.255' }), udp(), filler(20));
    const view = new DataView(frame.buffer, frame.byteOffset);
    let sent = 0;
    let received = 0;
    let over = false;
    const storm = (async () => {
      while (!over) {
        const burst = Array.from({ length: 32 }, (_, i) => {
          view.setUint16(34, (sent + i) * 7919);
          view.setUint16(36, sent >>> 8);
          return frame.slice();
        });
        const n = a.queue(0).send(burst);
        sent += n;
        received += b.queue(0).receive(4096).length;
        if (n < burst.length) await sleep(1);
        else await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    for (let round = 0; round < 3; round++) {
      t.regex(await sw.ofctl('dump-flows', 'br0'), /actions=output:2/);
      await sw.ofctl('add-flow', 'br0', `table=${round + 1},priority=7,actions=drop`);
      t.regex(await sw.appctl('dpif/show'), /vhost0 1\/1/);
    }
    over = true;
    await storm;
    let account = '';
    const balanced = async (): Promise<boolean> => {
      received += b.queue(0).receive(4096).length;
      const [taken, delivered] = [
        await statistic(sw, 'vhost0', 'rx_packets'),
        await statistic(sw, 'vhost1', 'tx_packets'),
      ];
      const reasons = await lostBy(sw);
      const lost = Object.values(reasons).reduce((sum, packets) => sum + packets, 0);
      account = `${sent} sent, ${taken} taken, ${delivered} delivered, ${received} received, lost ${JSON.stringify(reasons)}`;
      return taken === sent && delivered === received && delivered + lost === sent;
    };
    await until('every frame to be accounted for', balanced, PATIENCE_MS, () => account);
    const flows = (await sw.appctl('dpctl/dump-flows')).trim().split('\n').length;
    t.log(`${account}; ${flows} megaflows`);
    t.true(sent > 1000 && received > 0);
  });
});
