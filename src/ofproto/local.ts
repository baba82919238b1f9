/**
 * The port LOCAL of a bridge: a device of this host named as the bridge, by which the host itself takes part in it, as the
 * bridge's `internal` port of ovs-vswitchd.conf.db(5).
 */
import type { BridgeSpec, PortSpec } from './api.ts';
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
