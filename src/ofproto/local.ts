/**
 * The port LOCAL of a bridge: a device of this host named as the bridge, by which the host itself takes part in it, as the
 * bridge's `internal` port of ovs-vswitchd.conf.db(5). A bridge works without one, and says why it has none.
 */
import type { BridgeSpec, PortSpec, SwitchApi } from './api.ts';
import type { Bridge } from './bridge.ts';
import { OFPP_LOCAL } from './ofp-port.ts';
import { OfPort } from './port.ts';
import type { Revalidator } from './revalidate.ts';
import { makeMac } from './specs.ts';

/**
 * What the bridge's settings ask for: other_config keys hwaddr, local-address, local-mtu and local-device.
 * @returns the port, or the reason why there is to be none.
 */
export function localPort({ name, otherConfig, datapathType }: BridgeSpec): PortSpec | string {
  if (datapathType === 'dummy') return 'datapath_type is dummy';
  if (otherConfig['local-device'] === 'false') return 'other_config:local-device is false';
  const address = otherConfig['local-address'];
  return {
    name,
    type: 'internal',
    options: { mac: otherConfig['hwaddr'] ?? makeMac(name), ...(address === undefined ? {} : { address }) },
    ofportRequest: 0,
    tag: -1,
    trunks: [],
    vlanMode: undefined,
    mtuRequest: Number(otherConfig['local-mtu'] ?? 0),
    config: [],
    otherConfig: {},
  };
}

/**
 * Makes, changes or removes the device, as the bridge's settings say.
 * @param make gives a new port its datapath port.
 */
export async function followLocal(
  bridge: Bridge,
  owner: Pick<SwitchApi, 'setPort' | 'deletePort'> & { readonly revalidator: Revalidator },
  make: (port: OfPort) => Promise<void>,
): Promise<void> {
  const wanted = localPort(bridge.spec);
  const before = bridge.portOf(OFPP_LOCAL);
  bridge.localError = typeof wanted === 'string' ? wanted : '';
  try {
    if (typeof wanted === 'string') {
      if (before !== undefined) await owner.deletePort(bridge.name, before.name);
    } else if (before !== undefined) await owner.setPort(bridge.name, wanted);
    else {
      const port = new OfPort(wanted, OFPP_LOCAL, wanted.options['mac']!);
      await make(port);
      bridge.attach(port);
      owner.revalidator.bridgeChanged(bridge);
      await owner.revalidator.settle();
    }
  } catch (error) {
    bridge.localError = (error as Error).message;
  }
}
