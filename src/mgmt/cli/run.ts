/** The frame of every tool: its name, its errors, its exit code. */
import process from 'node:process';
import { ApiError, Fatal, Refusal } from './client.ts';

/** Runs a tool. @param work returns the exit code. Errors go to stderr as `tool: message`. */
export async function run(tool: string, work: (args: string[]) => Promise<number>): Promise<void> {
  // A reader that has seen enough (`| head`) is no error.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  try {
    process.exitCode = await work(process.argv.slice(2));
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    process.stderr.write(error instanceof Refusal ? message : `${tool}: ${message}\n`);
    if (error instanceof ApiError && error.hint && process.stderr.isTTY) process.stderr.write(`  ${error.hint}\n`);
    if (!(error instanceof Fatal) && !(error instanceof ApiError)) process.stderr.write(`${(error as Error).stack}\n`);
    process.exitCode = error instanceof Fatal ? error.exitCode : 1;
  }
}

/** `'add-flow' command requires at least 2 arguments` and its like. @throws Fatal */
export function checkCount(command: string, count: number, least: number, most: number): void {
  if (count < least) throw new Fatal(`'${command}' command requires at least ${least} arguments`);
  if (count > most) throw new Fatal(`'${command}' command takes at most ${most} arguments`);
}

/** Version line of a tool. */
export const versionLine = (tool: string, version: string): string => `${tool} (Ringway) ${version}`;
