/** fdb/*, ofproto/*, coverage, drops and the daemon itself. */
import { ApiError, json as jsonBody, segment } from '../client.ts';
import { type AppCommand, type AppContext, ServerError } from './context.ts';

const LOCAL = 65534;

interface FdbMessage {
  readonly port: number;
  readonly vlan: number;
  readonly mac: string;
  readonly age: number;
}

async function fdbShow({ client, out, args, json, bridge }: AppContext): Promise<void> {
  const name = args[0]!;
  await bridge(name);
  const entries = await client.list<FdbMessage>(`/v1/bridges/${segment(name)}/fdb`, 'entries');
  if (json) return out.line(JSON.stringify(entries));
  out.line(' port  VLAN  MAC                Age');
  for (const { port, vlan, mac, age } of entries) {
    const number = port === LOCAL ? 'LOCAL' : String(port);
    out.line(`${number.padStart(5)}  ${String(vlan).padStart(4)}  ${mac}  ${String(Math.floor(age)).padStart(3)}`);
  }
}

async function fdbFlush({ client, out, args, bridge }: AppContext): Promise<void> {
  const bridges = await client.list('/v1/bridges', 'bridges');
  if (args[0] !== undefined) await bridge(args[0]);
  const names = args[0] === undefined ? bridges.map((entry) => entry.spec.name as string) : [args[0]];
  for (const name of names) await client.call('DELETE', `/v1/bridges/${segment(name)}/fdb`);
  out.line('table successfully flushed');
}

/** Options of ofproto/trace that change nothing here, since nothing is sent. */
const TRACE_OPTIONS = new Set(['--l7-len', '--names', '--no-names']);

async function trace({ client, out, args, json }: AppContext): Promise<void> {
  const words: string[] = [];
  for (let at = 0; at < args.length; at++) {
    const word = args[at]!;
    if (!word.startsWith('-')) words.push(word);
    else if (word === '--l7-len') at++;
    else if (!TRACE_OPTIONS.has(word)) throw new ServerError(`${word}: this option is not supported`);
  }
  if (words.length > 2) throw new ServerError('Trailing garbage in packet contents');
  const [first = '', second] = words;
  // One argument is a datapath flow; so is the second behind the datapath's name.
  const datapath = second === undefined || /@|^ovs-netdev$/.test(first);
  if (second === undefined && !/^[\w,]*\(/.test(first)) {
    throw new ServerError(`syntax error at ${first} (or the bridge name was omitted)`);
  }
  const body = { bridge: datapath ? '' : first, flow: second ?? first };
  const reply = await client.call('POST', '/v1/trace', jsonBody(body)).catch((error: unknown) => {
    if (!(error instanceof ApiError)) throw error;
    const syntax = error.code !== 'no_such_bridge' && !/^[A-Z]/.test(error.message);
    throw new ServerError(
      syntax
        ? `Bad openflow flow syntax: ${body.flow}: ${error.message.replace(/^unknown keyword /, 'unknown field ')}`
        : error.message,
    );
  });
  if (json) out.line(JSON.stringify(reply));
  else out.raw(reply.text.endsWith('\n') ? reply.text : `${reply.text}\n`);
}

interface CoverageMessage {
  readonly name: string;
  readonly recent: number;
  readonly lastMinute: number;
  readonly lastHour: number;
  readonly total: number;
}

async function coverageShow({ client, out, json }: AppContext): Promise<void> {
  const { counters, neverHit } = await client.get<{ counters: CoverageMessage[]; neverHit: number }>('/v1/coverage');
  if (json) return out.line(JSON.stringify({ counters, neverHit }));
  const hash = counters.reduce((mixed, { total }) => (Math.imul(mixed, 31) + total) >>> 0, 0);
  out.line(
    `Event coverage, avg rate over last: 5 seconds, last minute, last hour,  hash=${hash.toString(16).padStart(8, '0')}:`,
  );
  for (const row of counters) {
    const rates = [
      row.recent.toFixed(1).padStart(5),
      row.lastMinute.toFixed(3).padStart(9),
      row.lastHour.toFixed(4).padStart(13),
    ];
    out.line(`${row.name.padEnd(24)} ${rates.map((rate) => `${rate}/sec`).join(' ')}   total: ${row.total}`);
  }
  out.line(`${neverHit} events never hit`);
}

interface DropsMessage {
  readonly ports: readonly {
    readonly bridge: string;
    readonly port: string;
    readonly drops: Readonly<Record<string, number>>;
  }[];
  readonly reasons: Readonly<Record<string, string>>;
}

async function drops({ client, out, args, json }: AppContext): Promise<void> {
  const ledger = await client.get<DropsMessage>('/v1/drops');
  const wanted = args[0];
  const ports =
    wanted === undefined
      ? ledger.ports
      : ledger.ports.filter(({ port, bridge }) => port === wanted || bridge === wanted);
  if (wanted !== undefined && ports.length === 0) throw new ServerError(`no port or bridge named ${wanted}`);
  if (json) return out.line(JSON.stringify({ ...ledger, ports }));
  const rows = ports.flatMap(({ bridge, port, drops: lost }) =>
    Object.entries(lost).map(([reason, packets]) => [
      bridge,
      port,
      reason,
      String(packets),
      ledger.reasons[reason] ?? '',
    ]),
  );
  const table = [['bridge', 'port', 'reason', 'packets', ''], ...rows];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((row) => row[column]!.length)));
  for (const row of table) {
    const cells = row
      .slice(0, 4)
      .map((cell, column) => (column === 3 ? cell.padStart(widths[3]!) : cell.padEnd(widths[column]!)));
    out.line(`${cells.join('  ')}  ${row[4]}`.trimEnd());
  }
}

export const ofprotoCommands: Readonly<Record<string, AppCommand>> = {
  'coverage/show': { least: 0, most: 0, usage: '', run: coverageShow },
  drops: { least: 0, most: 1, usage: '[port | bridge]', run: drops },
  'fdb/flush': { least: 0, most: 1, usage: '[bridge]', run: fdbFlush },
  'fdb/show': { least: 1, most: 1, usage: 'bridge', run: fdbShow },
  'ofproto/list': {
    least: 0,
    most: 0,
    usage: '',
    run: async ({ client, out, json }) => {
      const names = (await client.list('/v1/bridges', 'bridges')).map((entry) => entry.spec.name as string).sort();
      if (json) out.line(JSON.stringify(names));
      else for (const name of names) out.line(name);
    },
  },
  'ofproto/trace': { least: 1, most: 9, usage: '{[dp_name] odp_flow | bridge br_flow}', run: trace },
  exit: {
    least: 0,
    most: 2,
    usage: '[--keep-datapath]',
    run: async ({ client, args }) => {
      const unknown = args.find((arg) => arg !== '--keep-datapath' && arg !== '--cleanup');
      if (unknown !== undefined) throw new ServerError(`exit: unknown argument ${unknown}`);
      await client.call('POST', '/v1/exit', jsonBody({ keepDatapath: args.includes('--keep-datapath') }));
    },
  },
  version: {
    least: 0,
    most: 0,
    usage: '',
    run: async ({ client, out, json }) => {
      const health = await client.get('/healthz');
      out.line(json ? JSON.stringify({ version: health.version }) : `rw-vswitchd (Ringway) ${health.version}`);
    },
  },
};
