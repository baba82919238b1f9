/** Sessions of ivshmem ports in one data process of one worker that does nothing by itself, with clients of src/guest. */
import { join } from 'node:path';
import { PORT_ROW } from '#contract/catalogue.ts';
import { type IvshmemPort, openIvshmemPort } from '#guest/ivshmem/index.ts';
import { ivshmemPort } from '#ports/ivshmem/factory.ts';
import type { Pool } from '#ports/ivshmem/pool.ts';
import { Pools } from '#ports/ivshmem/registry.ts';
import { IvshmemSession } from '#ports/ivshmem/session.ts';
import type { Attachment, PortStatus, WorkerPort } from '#ports/port.ts';
import { scratchDir, sleep, until } from '../../support/process.ts';
import { batch, namedCounts } from './rig.ts';

export const dir = scratchDir('rwiv');
const list = Int32Array.from({ length: 32 }, (_, i) => i);

export class Rig {
  readonly pools = new Pools();
  readonly ports = new Map<number, Port>();
  readonly guests: IvshmemPort[] = [];

  async port(portNo: number, options: Record<string, string> = {}, silenceMs = 10_000): Promise<Port> {
    const port = new Port(this, portNo, options, silenceMs);
    this.ports.set(portNo, port);
    await port.session.start();
    return port;
  }

  async guest(port: Port, options: object = {}): Promise<IvshmemPort> {
    const guest = await openIvshmemPort({ path: port.path, retryMs: 10, ...options });
    this.guests.push(guest);
    return guest;
  }

  async close(): Promise<void> {
    for (const guest of this.guests) guest.close({ abrupt: true });
    for (const { session } of this.ports.values()) await session.stop();
  }
}

export class Port {
  readonly name: string;
  readonly path: string;
  readonly counters = new Float64Array(PORT_ROW);
  readonly states: string[] = [];
  readonly session: IvshmemSession;
  view: WorkerPort | undefined;
  attaches = 0;

  constructor(rig: Rig, portNo: number, options: Record<string, string>, silenceMs: number) {
    this.name = `iv${portNo}`;
    this.path = join(dir, `${this.name}.sock`);
    const config = { portNo, name: this.name, type: 'ivshmem', options, mtu: 1500 };
    const host = {
      attach: async (_: number, attachment: Attachment | undefined) => {
        this.attaches++;
        await sleep(1);
        const previous = this.view;
        const context = { worker: 0, workers: 1, counters: { slots: this.counters, base: 0 }, batch };
        this.view = attachment && ivshmemPort(attachment, context, previous);
        if (!attachment) previous?.close();
      },
      status: (_: number, status: PortStatus) => {
        if (this.states.at(-1) !== status.state) this.states.push(status.state);
      },
    };
    this.session = new IvshmemSession(config, host, { rundir: dir, pools: rig.pools, silenceMs });
  }

  get pool(): Pool {
    return this.session.pool!;
  }

  get fact(): Readonly<Record<string, string>> {
    return this.session.status().facts;
  }

  reach(state: string): Promise<unknown> {
    const detail = () => JSON.stringify(this.session.status());
    return until(`state ${state} of ${this.name}`, () => this.session.status().state === state, 5000, detail);
  }

  /** Sends what waits here to others. */
  forward(...to: Port[]): number {
    const rx = this.view?.rx[0];
    const n = rx?.poll(batch) ?? 0;
    if (n > 0) {
      for (const { view } of to) view?.tx?.push(batch, list, n);
      batch.copy();
      for (const { view } of to) view?.tx?.publish();
      rx!.complete();
    }
    batch.clear();
    return n;
  }

  get counts(): Record<string, number> {
    return namedCounts(this.counters);
  }
}

export const withRig = async (body: (rig: Rig) => Promise<void>): Promise<void> => {
  const rig = new Rig();
  try {
    await body(rig);
  } finally {
    await rig.close();
  }
};
