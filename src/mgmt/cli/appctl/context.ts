/** What every rw-appctl command works with. */
import type { Client } from '../client.ts';
import type { Output } from '../options.ts';

export interface AppContext {
  readonly client: Client;
  readonly out: Output;
  readonly args: readonly string[];
  readonly json: boolean;
  /** The bridge's message. @throws ServerError `no such bridge` */
  readonly bridge: (name: string) => Promise<object>;
}

export interface AppCommand {
  readonly least: number;
  readonly most: number;
  readonly usage: string;
  readonly run: (context: AppContext) => Promise<void>;
}

/** What the daemon says against a command: printed as it is, exit code 2. */
export class ServerError extends Error {}
