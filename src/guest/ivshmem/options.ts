/** Options of an ivshmem port on the guest's side, checked. */

export interface IvshmemOptions {
  /** Path of the switch port's server socket. This or `file`. */
  path?: string;
  /** Path of the file behind the pool; there are no doorbells then, so that both sides poll. */
  file?: string;
  /** With `file`: name of the switch's port. Default: the only one without a doorbell. */
  port?: string;
  /** Name that the switch shows for this client; at most 32 bytes. Default: `node` and the process id. */
  name?: string;
  /** `never`: a port that is lost stays so. Default `again`: attach and join anew, under the same id. */
  reconnect?: 'again' | 'never';
  /** Milliseconds between two attempts to attach. Default 100. */
  retryMs?: number;
  /** Milliseconds in which the port must be up for the first time. Default 10 000. */
  timeoutMs?: number;
  /** Milliseconds in which the switch must make a slot ready. Default 5000. */
  replyMs?: number;
}

/** Options after the check, nothing left open. */
export interface IvshmemSettings extends Required<Omit<IvshmemOptions, 'path' | 'file' | 'port'>> {
  readonly path: string | undefined;
  readonly file: string | undefined;
  readonly port: string | undefined;
}

const NAME_BYTES = 32;

const milliseconds = (name: string, value: number): number => {
  if (!Number.isInteger(value) || value < 1 || value >= 2 ** 31) {
    throw new RangeError(`option ${name} is ${value}; it must be a whole number of milliseconds from 1 on`);
  }
  return value;
};

/** Checks options and fills in the defaults. @throws RangeError that names the option and what it may be. */
export function checkIvshmemOptions(options: IvshmemOptions): IvshmemSettings {
  const { path, file, port } = options;
  if ((path === undefined) === (file === undefined)) {
    throw new RangeError('one of the options path (a server socket) and file (the file behind a pool) must be given');
  }
  if (port !== undefined && file === undefined) {
    throw new RangeError('option port goes with file; with path the server says which port this is');
  }
  const name = options.name ?? `node ${process.pid}`;
  if (Buffer.byteLength(name) > NAME_BYTES) {
    throw new RangeError(`option name has ${Buffer.byteLength(name)} bytes; at most ${NAME_BYTES} fit`);
  }
  return {
    path,
    file,
    port,
    name,
    reconnect: options.reconnect ?? 'again',
    retryMs: milliseconds('retryMs', options.retryMs ?? 100),
    timeoutMs: milliseconds('timeoutMs', options.timeoutMs ?? 10_000),
    replyMs: milliseconds('replyMs', options.replyMs ?? 5000),
  };
}
