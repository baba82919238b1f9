/** What the data process needs to know of vhost-user ports: how to make sessions, and workers' views. */
import type { SessionFactory } from '#ports/port.ts';
import { type Defaults, VhostUserSession } from './session.ts';

export { attachVhostUser as vhostPort } from './attachment.ts';

/** Session factory of the three types; relative and default socket paths start at `rundir`. */
export const vhostSessions =
  (rundir: string, defaults: Defaults = {}): SessionFactory =>
  (config, host) =>
    new VhostUserSession(config, host, rundir, defaults);
