/** A stand-in for the switch, for tests of the demo: a wire between two real ports, and a little of the API. */
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { join } from 'node:path';
import { PORT_COUNTERS } from '#contract/catalogue.ts';
import { Api } from '../../demo/api.ts';
import type { DemoSwitch } from '../../demo/switch.ts';
import { GuestWire } from './guest-wire.ts';

export class FakeSwitch implements DemoSwitch {
  readonly api: Api;
  readonly sockets: readonly [string, string];
  readonly wire: GuestWire;
  /** Bodies of the flow modifications, in order. */
  readonly flowMods: unknown[] = [];
  readonly #path: string;
  #server: Server | undefined;
  #running = true;

  constructor(dir: string) {
    this.wire = new GuestWire(dir);
    this.sockets = this.wire.paths;
    this.#path = join(dir, 'api.sock');
    this.api = new Api(this.#path);
  }

  async start(): Promise<void> {
    await this.wire.start();
    const turn = (): void => {
      if (!this.#running) return;
      let moved = 0;
      for (let i = 0; i < 16; i++) moved += this.wire.pump();
      if (moved > 0) setImmediate(turn);
      else setTimeout(turn, 1);
    };
    turn();
    await this.startControl();
  }

  async startControl(): Promise<void> {
    const server = createServer(async (request, response) => {
      const [status, body] = await this.#answer(request);
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.#path, resolve));
  }

  async killControl(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    server?.closeAllConnections();
    await new Promise((resolve) => (server ? server.close(resolve) : resolve(undefined)));
  }

  async stop(): Promise<void> {
    this.#running = false;
    await this.killControl();
    await this.wire.stop();
  }

  async #answer(request: IncomingMessage): Promise<[number, object]> {
    let text = '';
    for await (const part of request) text += part;
    const received = this.wire.counter(0, 'rx_packets') + this.wire.counter(1, 'rx_packets');
    switch (`${request.method} ${request.url?.split('?')[0]}`) {
      case 'GET /healthz':
        return [200, { status: 'ok', datapathConnected: true }];
      case 'GET /v1/datapath/ports':
        return [
          200,
          {
            ports: [0, 1].map((i) => ({
              port: i + 1,
              name: `p${i + 1}`,
              state: this.wire.state(i),
              statistics: {
                counters: Object.fromEntries(PORT_COUNTERS.map(({ name }) => [name, this.wire.counter(i, name)])),
                drops: this.wire.drops(i),
              },
            })),
          },
        ];
      case 'GET /v1/datapath/pmd': {
        const counters = {
          rx_packets: received,
          emc_hits: received - 10,
          misses: 10,
          busy_cycles: received * 300,
          idle_cycles: 1e6,
        };
        return [200, { pmds: [{ worker: 0, core: 1, counters }] }];
      }
      case 'GET /v1/datapath/flows':
        return [200, { flows: [{ match: 'recirc_id(0),in_port(1)', actions: '2', packets: received }], total: 7 }];
      case 'POST /v1/bridges/demo/flows':
        this.flowMods.push(...JSON.parse(text).mods);
        return [200, { applied: 1 }];
      default:
        return [404, { error: { message: 'no such route' } }];
    }
  }
}
