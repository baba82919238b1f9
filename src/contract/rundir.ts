/**
 * Where a running switch keeps its sockets and pid files, found the same way by daemons and command-line tools.
 */
import { join, resolve } from 'node:path';
import process from 'node:process';

/**
 * @param option what `--rundir` says; without it $RINGWAY_RUNDIR, else /run/ringway for root, else
 * $XDG_RUNTIME_DIR/ringway, else /tmp/ringway-<uid>. @returns an absolute path; the folder may not exist yet.
 */
export function defaultRundir(option?: string, env: NodeJS.ProcessEnv = process.env): string {
  const named = option || env.RINGWAY_RUNDIR;
  if (named) return resolve(named);
  const uid = process.getuid?.() ?? 0;
  if (uid === 0) return '/run/ringway';
  if (env.XDG_RUNTIME_DIR) return join(resolve(env.XDG_RUNTIME_DIR), 'ringway');
  return `/tmp/ringway-${uid}`;
}

/** Unix socket of the HTTP API. */
export const apiSocketPath = (rundir: string): string => join(rundir, 'api.sock');
