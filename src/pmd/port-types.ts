/** The port types there are: type name → session, attachment kind → worker's view. */
import { dummyPort, dummySession } from '#ports/dummy/port.ts';
import type { PortFactory, SessionFactory } from '#ports/port.ts';
import { vhostPort, vhostSessions } from '#ports/vhost-user/factory.ts';

/** Interface `type` (ovs-vswitchd.conf.db(5)) → session; sockets without a path of their own lie in `rundir`. */
export function sessionTypes(rundir: string): ReadonlyMap<string, SessionFactory> {
  const vhost = vhostSessions(rundir);
  return new Map([
    ['vhost-user', vhost],
    ['dpdkvhostuser', vhost],
    ['dpdkvhostuserclient', vhost],
    ['dummy', dummySession],
  ]);
}

/** Attachment `kind` → worker's view. */
export const PORTS: ReadonlyMap<string, PortFactory> = new Map([
  ['vhost-user', vhostPort],
  ['dummy', dummyPort],
]);
