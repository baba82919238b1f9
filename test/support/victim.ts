/** One switch under attack: two honest neighbours, and a port that a hostile guest gets. */
import type { VirtioPort } from '#guest/index.ts';
import { PATIENCE_MS } from './datapath.ts';
import { eth, filler, packet } from './packets.ts';
import { until } from './process.ts';
import { type SwitchProcess, withSwitch } from './switch.ts';

/** The port of the hostile guest. */
export const VICTIM = 'vhost2';
export const FRAME = packet(eth({ src: '02:00:00:00:00:01', dst: '02:00:00:00:00:02' }), filler(46));

/** `error=…` of the victim's status; empty: none. */
export const errorOf = async (sw: SwitchProcess): Promise<string> =>
  /\berror=.*/.exec(await sw.vsctl('get', 'Interface', VICTIM, 'status'))?.[0] ?? '';

/** Waits until the neighbours have exchanged frames once more. */
export async function served(sw: SwitchProcess, a: VirtioPort, b: VirtioPort, what: string): Promise<void> {
  let got = 0;
  await until(
    `the neighbours to be served: ${what}`,
    () => {
      a.queue(0).send([FRAME]);
      got += b.queue(0).receive(64).length;
      return got >= 3;
    },
    PATIENCE_MS,
    () => sw.child.tail(),
  );
}

/** An honest guest on the port that was attacked: it comes up, and nothing is wrong any more. */
export async function recovers(sw: SwitchProcess): Promise<void> {
  const guest = await sw.guest(VICTIM);
  let said = '';
  const well = async () => {
    said = await sw.vsctl('get', 'Interface', VICTIM, 'link_state', 'status');
    return said.startsWith('up') && !said.includes('error=');
  };
  await until('the port that was attacked to be well', well, PATIENCE_MS, () => said);
  await guest.close();
}

/** Runs `body` on a switch with both neighbours up. */
export const withVictim = (body: (sw: SwitchProcess, a: VirtioPort, b: VirtioPort) => Promise<void>): Promise<void> =>
  withSwitch(['--default'], async (sw) => {
    await sw.vsctl('add-port', 'br0', VICTIM, '--', 'set', 'Interface', VICTIM, 'type=vhost-user');
    const a = await sw.guest('vhost0');
    const b = await sw.guest('vhost1');
    await sw.linkUp('vhost0', 'vhost1');
    await body(sw, a, b);
  });
