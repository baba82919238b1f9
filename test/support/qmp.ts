/** QEMU's control channel (QEMU, docs/interop/qmp-spec.rst): one command at a time, answers and events as lines of JSON. */
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { PATIENCE_MS } from './datapath.ts';
import { until } from './process.ts';

/** Whether somebody accepts connections at a path: between bind(2) and listen(2) the file is there, and refuses (unix(7)). */
export const listens = (path: string): boolean =>
  readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .some((line) => line.endsWith(` ${path}`) && line.split(' ')[3] === '00010000');

interface Line {
  return?: unknown;
  error?: { desc: string };
}

/** What QEMU says of a migration (query-migrate), some of it. */
export interface Migration {
  status: string;
  downtime?: number;
  'total-time'?: number;
  ram?: { transferred: number; 'postcopy-requests': number };
}

export class Qmp {
  readonly #socket: Socket;
  readonly #lines: Line[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (text) => this.#lines.push(JSON.parse(text)));
    socket.on('error', () => {});
  }

  static async open(path: string): Promise<Qmp> {
    await until(`the socket ${path}`, () => listens(path), PATIENCE_MS);
    const qmp = new Qmp(connect(path));
    await qmp.run('qmp_capabilities');
    return qmp;
  }

  /** @throws Error with QEMU's own words when it refuses. */
  async run(execute: string, args: object = {}): Promise<unknown> {
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    const answer = await until(
      `an answer to ${execute}`,
      () => {
        for (let line = this.#lines.shift(); line; line = this.#lines.shift())
          if (line.error || 'return' in line) return line;
        return undefined;
      },
      PATIENCE_MS,
    );
    if (answer.error) throw new Error(`${execute}: ${answer.error.desc}`);
    return answer.return;
  }

  /** Moves the guest to the QEMU that listens at `uri`. @returns what QEMU says about it in the end. */
  async migrate(uri: string): Promise<Migration> {
    await this.run('migrate', { uri });
    return this.migrated();
  }

  /** Resolves when the migration under way has ended. */
  migrated(): Promise<Migration> {
    return until(
      'the migration to end',
      async () => {
        const state = (await this.run('query-migrate')) as Migration & { 'error-desc'?: string };
        if (state.status === 'failed') throw new Error(`the migration failed: ${state['error-desc'] ?? ''}`);
        return state.status === 'completed' ? state : undefined;
      },
      2 * PATIENCE_MS,
    );
  }

  close(): void {
    this.#socket.destroy();
  }
}
