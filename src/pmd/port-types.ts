/** The port types there are: type name → session, attachment kind → worker's view. */
import { dummyPort, dummySession } from '#ports/dummy/port.ts';
import { ivshmemPort, ivshmemSessions } from '#ports/ivshmem/factory.ts';
import {
  kernelSessions,
  PACKET_KIND,
  packetPort,
  TAP_KIND,
  tapPort,
  XDP_KIND,
  xdpPort,
} from '#ports/kernel/factory.ts';
import { memifPort, memifSessions } from '#ports/memif/factory.ts';
import type { PortFactory, SessionFactory } from '#ports/port.ts';
import { TUNNEL_KIND, tunnelPort, tunnelSession } from '#ports/tunnel/port.ts';
import { vhostPort, vhostSessions } from '#ports/vhost-user/factory.ts';

/**
 * Interface `type` (ovs-vswitchd.conf.db(5)) → session; sockets without a path of their own lie in `rundir`.
 * @param option says what an other_config key of the switch is now.
 */
export function sessionTypes(
  rundir: string,
  option: (key: string) => string | undefined = () => undefined,
): ReadonlyMap<string, SessionFactory> {
  const vhost = vhostSessions(rundir, { iommu: () => option('vhost-iommu-support') === 'true' });
  return new Map<string, SessionFactory>([
    ...kernelSessions(),
    ['vhost-user', vhost],
    ['dpdkvhostuser', vhost],
    ['dpdkvhostuserclient', vhost],
    ['memif', memifSessions(rundir)],
    ['ivshmem', ivshmemSessions(rundir)],
    ['dummy', dummySession],
    ['vxlan', tunnelSession],
    ['geneve', tunnelSession],
    ['gre', tunnelSession],
  ]);
}

/** Attachment `kind` → worker's view. */
export const PORTS: ReadonlyMap<string, PortFactory> = new Map([
  ['vhost-user', vhostPort],
  ['memif', memifPort],
  ['ivshmem', ivshmemPort],
  ['dummy', dummyPort],
  [TUNNEL_KIND, tunnelPort],
  [TAP_KIND, tapPort],
  [PACKET_KIND, packetPort],
  [XDP_KIND, xdpPort],
]);
