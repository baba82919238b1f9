/** What the data process needs to know of memif ports: how to make sessions, and workers' views. */
import type { SessionFactory } from '#ports/port.ts';
import { MemifSession } from './session.ts';

export { attachMemif as memifPort } from './attachment.ts';

/** Session factory; relative and default socket paths start at `rundir`. */
export const memifSessions =
  (rundir: string): SessionFactory =>
  (config, host) =>
    new MemifSession(config, host, rundir);
