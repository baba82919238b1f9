/** What every rw-ofctl command works with. */
import { readFileSync } from 'node:fs';
import { ApiError, type Client, Fatal, Refusal, segment } from '../client.ts';
import type { Output } from '../options.ts';
import type { OfVersion } from './protocol.ts';

export interface Context {
  readonly client: Client;
  readonly out: Output;
  readonly version: OfVersion;
  readonly options: ReadonlyMap<string, string>;
  readonly args: readonly string[];
  readonly json: boolean;
}

export interface Command {
  readonly least: number;
  readonly most: number;
  /** @returns the exit code; 0 when nothing is returned. */
  readonly run: (context: Context) => Promise<number | undefined>;
}

/** Bridge that a target names: `br0`, `<dir>/br0.mgmt`, `unix:<dir>/br0.mgmt`. @throws Fatal */
export function bridgeName(target: string): string {
  const path = target.startsWith('unix:') ? target.slice(5) : target;
  if (/^(tcp|ssl|ptcp|pssl|punix):/.test(target))
    throw new Fatal(`${target}: this switch has no OpenFlow connections; name a bridge`);
  return path.includes('/') ? path.slice(path.lastIndexOf('/') + 1).replace(/\.mgmt$/, '') : path;
}

export const bridgePath = (target: string): string => `/v1/bridges/${segment(bridgeName(target))}`;

/** Says of an unknown bridge what ovs-ofctl says. */
export async function atBridge<T>(target: string, work: (path: string) => Promise<T>): Promise<T> {
  try {
    return await work(bridgePath(target));
  } catch (error) {
    if (error instanceof ApiError && error.code === 'no_such_bridge')
      throw new Fatal(`${target} is not a bridge or a socket`);
    throw error;
  }
}

/** Text of a file; `-` is standard input. @throws Fatal as ovs-ofctl says it. */
export function readFlowFile(name: string): string {
  try {
    return readFileSync(name === '-' ? 0 : name, 'utf8');
  } catch (error) {
    const reasons: Readonly<Record<string, string>> = {
      ENOENT: 'No such file or directory',
      EACCES: 'Permission denied',
      EISDIR: 'Is a directory',
    };
    const { code = '', message } = error as NodeJS.ErrnoException;
    throw new Fatal(`${name}: open failed (${reasons[code] ?? message})`);
  }
}

const IS_OPENFLOW = /^OFP[A-Z]{2,}_[A-Z_]+$/;

/**
 * An error of the API as ovs-ofctl tells it: of the switch's own errors the OpenFlow message and what it was about; with a
 * file its line.
 */
export function explain(
  error: unknown,
  context: Context,
  request: string,
  file?: { name: string; text: string },
): unknown {
  if (!(error instanceof ApiError)) return error;
  const line = /^(?:[ab] )?line (\d+)/.exec(error.field)?.[1];
  if (IS_OPENFLOW.test(error.code)) {
    const about =
      line && file ? file.text.split('\n')[Number(line) - 1]!.trim() : request.slice(request.indexOf(' ') + 1);
    const kind = request.slice(0, request.indexOf(' '));
    const xid = `${context.version.label} (xid=0x6):`;
    return new Refusal(
      `OFPT_ERROR${xid} ${error.code}\n${kind}${xid}${kind === 'OFPT_GROUP_MOD' ? '\n' : ''} ${about}\n`,
    );
  }
  return line && file ? new Fatal(`${file.name === '-' ? '<stdin>' : file.name}:${line}: ${error.message}`) : error;
}
