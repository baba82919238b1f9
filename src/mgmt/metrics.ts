/** Counters of the switch for Prometheus, made from the catalogue at every scrape. */

import { Gauge, type Metric, Registry } from 'prom-client';
import { DROP_REASONS, PORT_COUNTERS, WORKER_COUNTERS } from '#contract/catalogue.ts';
import type { Manager } from './manager.ts';
import { statistics } from './views.ts';

const GAUGES: readonly string[] = ['flows', 'masks'];

/**
 * A counter of which the data plane keeps the total. prom-client's counters only add, so it is a gauge under a counter's
 * name; Prometheus treats both alike.
 */
const total = (name: string, help: string, labelNames: string[]): Gauge =>
  new Gauge({ name, help, labelNames, registers: [] });

export class Metrics {
  readonly #manager: Manager;
  readonly #registry = new Registry();
  readonly #worker = new Map<string, Gauge>();
  readonly #port = new Map<string, Gauge>();
  readonly #drops = total('ringway_port_drops_total', 'Packets lost, by port and reason', ['bridge', 'port', 'reason']);
  readonly #up = total('ringway_port_up', '1 when the port has a link', ['bridge', 'port']);
  readonly #flows = total('ringway_bridge_flows', 'OpenFlow flows', ['bridge']);
  readonly #connected = total('ringway_datapath_connected', '1 when the data plane is there', []);

  constructor(manager: Manager) {
    this.#manager = manager;
    for (const { name, help } of WORKER_COUNTERS) {
      const suffix = GAUGES.includes(name) ? '' : '_total';
      this.#worker.set(name, total(`ringway_pmd_${name}${suffix}`, help, ['worker']));
    }
    for (const { name, help } of PORT_COUNTERS) {
      this.#port.set(name, total(`ringway_port_${name}_total`, help, ['bridge', 'port']));
    }
    const all: Metric[] = [
      ...this.#worker.values(),
      ...this.#port.values(),
      this.#drops,
      this.#up,
      this.#flows,
      this.#connected,
    ];
    for (const metric of all) this.#registry.registerMetric(metric);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** Text exposition format. */
  async text(): Promise<string> {
    this.#registry.resetMetrics();
    const { datapath, switch: target } = this.#manager;
    this.#connected.set(datapath.connected ? 1 : 0);
    // Counters of a data plane that is away are left out: a scrape must not fail just then.
    const workers = datapath.connected ? await datapath.pmds().catch(() => []) : [];
    for (const { worker, counters } of workers) {
      for (const [name, value] of Object.entries(counters)) this.#worker.get(name)?.set({ worker }, value);
    }
    for (const [bridge, api] of target.bridges) {
      this.#flows.set({ bridge }, api.aggregate('').flows);
      for (const view of api.ports()) {
        const labels = { bridge, port: view.name };
        this.#up.set(labels, view.datapath?.linkUp ? 1 : 0);
        const { counters, drops } = statistics(this.#manager, bridge, view.name);
        for (const [name, value] of Object.entries(counters)) this.#port.get(name)?.set(labels, value);
        for (const { name: reason } of DROP_REASONS) {
          const lost = (drops as Record<string, number>)[reason];
          if (lost !== undefined) this.#drops.set({ ...labels, reason }, lost);
        }
      }
    }
    return this.#registry.metrics();
  }
}
