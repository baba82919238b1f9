/** What the data process needs to know of vhost-user ports: how to make sessions, and workers' views. */
import { join } from 'node:path';
import type { SessionFactory } from '#ports/port.ts';
import { VhostUserSession } from './session.ts';

export { attachVhostUser as vhostPort } from './attachment.ts';

/** Where sockets go unless told otherwise: `$RINGWAY_RUNDIR`, or the system's place for runtime files. */
const defaultRundir = (): string => {
  const { RINGWAY_RUNDIR, XDG_RUNTIME_DIR } = process.env;
  if (RINGWAY_RUNDIR) return RINGWAY_RUNDIR;
  if (process.getuid?.() === 0 || !XDG_RUNTIME_DIR) return '/run/ringway';
  return join(XDG_RUNTIME_DIR, 'ringway');
};

/** Session factory of the three types; relative and default socket paths start at `rundir`. */
export const vhostSessions =
  (rundir: string): SessionFactory =>
  (config, host) =>
    new VhostUserSession(config, host, rundir);

/** The same, at the run directory of this process's environment. */
export const vhostSession: SessionFactory = (config, host) => new VhostUserSession(config, host, defaultRundir());
