/**
 * Two vhost-user ports of the switch joined by a wire: real sessions and real rings, but no parser, cache or flows. What
 * comes in on one port leaves by the other. Runs on the caller's thread whenever `pump` is called.
 */
import { join } from 'node:path';
import { DROP_BASE, DROP_REASONS, PORT_COUNTERS, PORT_ROW } from '#contract/catalogue.ts';
import { BURST, PacketBatch } from '#datapath/packet/batch.ts';
import type { PortHost, PortSession, PortState, WorkerPort } from '#ports/port.ts';
import type { VhostUserAttachment } from '#ports/vhost-user/attachment.ts';
import { vhostPort, vhostSessions } from '#ports/vhost-user/factory.ts';

/** One for all wires of the thread: copy contexts are few, and a burst is done when `pump` returns. */
let shared: PacketBatch | undefined;

export class GuestWire {
  readonly paths: readonly [string, string];
  readonly sessions: PortSession[] = [];
  readonly batch = (shared ??= new PacketBatch());
  readonly slots = new Float64Array(2 * PORT_ROW);
  readonly #ports: (WorkerPort | undefined)[] = [undefined, undefined];
  readonly #list = new Int32Array(BURST);

  /** @param options of both ports, by port; `mode` decides who listens. */
  constructor(dir: string, options: readonly Record<string, string>[] = [{}, {}]) {
    this.paths = [join(dir, 'a'), join(dir, 'b')];
    const host: PortHost = {
      attach: async (portNo, attachment) => {
        const at = portNo - 1;
        const previous = this.#ports[at];
        if (!attachment) {
          previous?.close();
          this.#ports[at] = undefined;
          return;
        }
        const counters = { slots: this.slots, base: at * PORT_ROW };
        const context = { worker: 0, workers: 1, counters, batch: this.batch };
        this.#ports[at] = vhostPort(attachment as VhostUserAttachment, context, previous);
      },
      status: () => {},
    };
    for (let i = 0; i < 2; i++) {
      const config = {
        portNo: i + 1,
        name: `p${i}`,
        type: 'vhost-user',
        options: { path: this.paths[i]!, ...options[i] },
        mtu: 65_535,
      };
      this.sessions.push(vhostSessions(dir)(config, host));
    }
    for (let i = 0; i < BURST; i++) this.#list[i] = i;
  }

  async start(): Promise<void> {
    for (const session of this.sessions) await session.start();
  }

  state(port: number): PortState {
    return this.sessions[port]!.status().state;
  }

  /** Queues that a port is read from. */
  queues(port: number): number {
    return this.#ports[port]?.rx.length ?? 0;
  }

  /** Carries one burst per rx queue from each port to the other. @returns frames received. */
  pump(): number {
    let moved = 0;
    for (let i = 0; i < 2; i++) {
      for (const rx of this.#ports[i]?.rx ?? []) {
        const batch = this.batch;
        const n = rx.poll(batch);
        const tx = this.#ports[1 - i]?.tx;
        if (n > 0 && tx) {
          tx.push(batch, this.#list, n);
          batch.copy();
          tx.publish();
        }
        rx.complete();
        batch.clear();
        moved += n;
      }
    }
    return moved;
  }

  /** Frames lost at a port, by reason. */
  drops(port: number): Record<string, number> {
    const base = port * PORT_ROW + DROP_BASE;
    const lost = DROP_REASONS.map(({ name }, i) => [name, this.slots[base + i]!] as const);
    return Object.fromEntries(lost.filter(([, count]) => count > 0));
  }

  counter(port: number, name: (typeof PORT_COUNTERS)[number]['name']): number {
    return this.slots[port * PORT_ROW + PORT_COUNTERS.findIndex((entry) => entry.name === name)]!;
  }

  async stop(): Promise<void> {
    for (const session of this.sessions) await session.stop();
    for (const port of this.#ports) port?.close();
  }
}
