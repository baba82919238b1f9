/** Tries to open the loopback device for AF_XDP and prints what is said. */
import { XdpDevice } from '#ports/kernel/xdp/open.ts';
import { readXdpOptions } from '#ports/kernel/xdp/options.ts';

try {
  new XdpDevice({ name: 'lo', ifindex: 1, mtu: 1500, kind: '' }, readXdpOptions({ 'xdp-mode': 'best-effort' })).close();
  console.log('opened');
} catch (error) {
  console.log((error as Error).message);
}
