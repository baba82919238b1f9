/** What the data process needs to know of ivshmem ports: how to make sessions, and workers' views. */
import type { SessionFactory } from '#ports/port.ts';
import { Pools } from './registry.ts';
import { IvshmemSession } from './session.ts';

export { ivshmemPort } from './attachment.ts';

/** Session factory with pools of its own; relative and default socket paths start at `rundir`. */
export function ivshmemSessions(rundir: string): SessionFactory {
  const context = { rundir, pools: new Pools() };
  return (config, host) => new IvshmemSession(config, host, context);
}
