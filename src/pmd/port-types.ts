/** The port types there are: type name → session, attachment kind → worker's view. */
import { dummyPort, dummySession } from '#ports/dummy/port.ts';
import type { PortFactory, SessionFactory } from '#ports/port.ts';
import { vhostPort, vhostSession } from '#ports/vhost-user/factory.ts';

/** Interface `type` (ovs-vswitchd.conf.db(5)) → session. */
export const SESSIONS: ReadonlyMap<string, SessionFactory> = new Map([
  ['vhost-user', vhostSession],
  ['dpdkvhostuser', vhostSession],
  ['dpdkvhostuserclient', vhostSession],
  ['dummy', dummySession],
]);

/** Attachment `kind` → worker's view. */
export const PORTS: ReadonlyMap<string, PortFactory> = new Map([
  ['vhost-user', vhostPort],
  ['dummy', dummyPort],
]);
