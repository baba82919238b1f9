/** Finding, starting and adopting the data process. */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import path from 'node:path';
import { OsError, unixConnect } from '#contract/os.ts';

const LAUNCHER = path.join(import.meta.dirname, '../../bin/rw-datapathd');
const CONNECT_EVERY_MS = 20;
const START_LIMIT_MS = 10_000;

/** Socket of the data process. */
export const datapathSocket = (rundir: string): string => path.join(rundir, 'datapath.sock');

const tryConnect = (socket: string): number => {
  try {
    return unixConnect(socket);
  } catch (error) {
    if (error instanceof OsError && (error.code === 'ECONNREFUSED' || error.code === 'ENOENT')) return -1;
    throw error;
  }
};

/**
 * Connects to the data process of this rundir, which is started first if none answers. It gets a session of its own, so that
 * nothing that ends this process ends it too; what it prints goes to <rundir>/rw-datapathd.log.
 * @returns a connected socket and whether the process was there before.
 * @throws Error when it cannot be started within 10 s.
 */
export async function reachDatapath(rundir: string): Promise<{ fd: number; adopted: boolean }> {
  const socket = datapathSocket(rundir);
  const found = tryConnect(socket);
  if (found >= 0) return { fd: found, adopted: true };
  mkdirSync(rundir, { recursive: true, mode: 0o755 });
  const logFile = path.join(rundir, 'rw-datapathd.log');
  const log = openSync(logFile, 'a', 0o644);
  const child = spawn(LAUNCHER, ['--rundir', rundir], { detached: true, stdio: ['ignore', log, log] });
  closeSync(log);
  let failed: string | undefined;
  child.on('error', (error) => {
    failed = error.message;
  });
  child.on('exit', (code, signal) => {
    failed = `it ended with ${signal ?? `code ${code}`}`;
  });
  child.unref();
  for (const end = Date.now() + START_LIMIT_MS; Date.now() < end && failed === undefined; ) {
    const fd = tryConnect(socket);
    if (fd >= 0) return { fd, adopted: false };
    await new Promise((resolve) => setTimeout(resolve, CONNECT_EVERY_MS));
  }
  throw new Error(`the data plane did not start: ${failed ?? `no answer at ${socket}`}; see ${logFile}`);
}
