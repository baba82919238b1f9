/**
 * Delegation to an IPAM plugin (specification section 4): found in CNI_PATH, run with our own environment and
 * configuration, its result or error read from its standard output.
 */
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { CniError, type CniResult, CODE } from './protocol.ts';

const TIMEOUT_MS = 60_000;

export interface Delegate {
  /** Runs the plugin. @returns its result; undefined when it printed none. @throws CniError, the plugin's own where it has one. */
  run(command: string): Promise<CniResult | undefined>;
}

function find(type: string, path: readonly string[]): string {
  for (const folder of path) {
    const file = join(folder, type);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // The next folder may have it.
    }
  }
  throw new CniError(
    CODE.config,
    `ipam.type ${type}: no such plugin in CNI_PATH`,
    path.join(':') || 'CNI_PATH is empty',
  );
}

/** @param input the network configuration, as it came. */
export function delegateTo(type: string, path: readonly string[], input: string): Delegate {
  return {
    run: (command) =>
      new Promise((done, failed) => {
        const env = { ...process.env, CNI_COMMAND: command };
        const options = { env, timeout: TIMEOUT_MS, encoding: 'utf8' } as const;
        const child = execFile(find(type, path), [], options, (error, stdout, stderr) => {
          if (stderr) process.stderr.write(stderr);
          if (error) return failed(failure(type, command, stdout, error));
          if (stdout.trim() === '') return done(undefined);
          try {
            done(JSON.parse(stdout) as CniResult);
          } catch (reason) {
            failed(new CniError(CODE.decode, `${type} ${command}: its result is not JSON`, (reason as Error).message));
          }
        });
        // A plugin may end without having read it.
        child.stdin?.on('error', () => undefined);
        child.stdin?.end(input);
      }),
  };
}

function failure(type: string, command: string, stdout: string, error: Error): CniError {
  try {
    const { code, msg, details } = JSON.parse(stdout) as { code: number; msg: string; details?: string };
    if (typeof code === 'number' && typeof msg === 'string')
      return new CniError(code, `${type}: ${msg}`, details ?? '');
  } catch {
    // It said nothing of use.
  }
  return new CniError(CODE.failed, `${type} ${command} failed`, error.message);
}
