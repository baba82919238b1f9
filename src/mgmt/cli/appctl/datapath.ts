/** dpctl/*, dpif/* and dpif-netdev/*: the data plane. */
import type { AppCommand, AppContext } from './context.ts';
import { ServerError } from './context.ts';

/** Name of the one datapath, as scripts for OVS expect it. */
const DATAPATH = 'netdev@ovs-netdev';

interface DatapathPortMessage {
  readonly port: number;
  readonly name: string;
  readonly type: string;
  readonly options: Readonly<Record<string, string>>;
  readonly statistics: {
    readonly counters: Readonly<Record<string, number>>;
    readonly drops: Readonly<Record<string, number>>;
  };
}

interface DatapathFlowMessage {
  readonly id: number;
  readonly match: string;
  readonly actions: string;
  readonly packets: number;
  readonly bytes: number;
  readonly used: number;
  readonly tcpFlags: number;
}

function checkDatapath(name: string | undefined): void {
  if (name === undefined || name === DATAPATH || name === 'ovs-netdev') return;
  throw new ServerError('rw-vswitchd: datapath not found (Invalid argument)');
}

const describe = (type: string, options: Readonly<Record<string, string>>): string => {
  const list = Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1));
  return `(${type || 'system'}${list.length > 0 ? ': ' : ''}${list.map(([key, value]) => `${key}=${value}`).join(', ')})`;
};

const sum = (drops: Readonly<Record<string, number>>, side: string): number =>
  Object.entries(drops).reduce((total, [reason, lost]) => total + (reason.startsWith(side) ? lost : 0), 0);

async function dpctlShow({ client, out, args, json }: AppContext): Promise<void> {
  const statistics = args.includes('-s') || args.includes('--statistics');
  for (const name of args.filter((arg) => !arg.startsWith('-'))) checkDatapath(name);
  const lookups = await client.get('/v1/datapath');
  const ports = await client.list<DatapathPortMessage>('/v1/datapath/ports', 'ports');
  ports.sort((a, b) => a.port - b.port);
  if (json) return out.line(JSON.stringify({ ...lookups, ports }));
  out.line(`${DATAPATH}:`);
  out.line(`  lookups: hit:${lookups.hit} missed:${lookups.missed} lost:${lookups.lost}`);
  out.line(`  flows: ${lookups.flows}`);
  for (const port of ports) {
    out.line(`  port ${port.port}: ${port.name} ${describe(port.type, port.options)}`);
    if (!statistics) continue;
    const { counters, drops } = port.statistics;
    out.line(`    RX packets:${counters.rx_packets} errors:0 dropped:${sum(drops, 'rx_')} overruns:? frame:?`);
    out.line(`    TX packets:${counters.tx_packets} errors:0 dropped:${sum(drops, 'tx_')} aborted:? carrier:?`);
    out.line('    collisions:?');
    out.line(`    RX bytes:${counters.rx_bytes}  TX bytes:${counters.tx_bytes}`);
  }
}

/** TCP flags as letters, lowest bit first. */
const TCP_LETTERS = 'FSRP.UECN';

const tcpFlags = (flags: number): string => [...TCP_LETTERS].filter((_letter, bit) => flags & (1 << bit)).join('');

/** A flow's id in the form of a ufid. */
const ufid = (id: number): string => `00000000-0000-4000-8000-${id.toString(16).padStart(12, '0')}`;

function formatFlow(flow: DatapathFlowMessage, more: boolean): string {
  const used = flow.used < 0 ? 'never' : `${flow.used.toFixed(3)}s`;
  const flags = flow.tcpFlags ? `, flags:${tcpFlags(flow.tcpFlags)}` : '';
  const body = `packets:${flow.packets}, bytes:${flow.bytes}, used:${used}${flags}`;
  return more
    ? `ufid:${ufid(flow.id)}, ${flow.match}, ${body}, dp:ovs, actions:${flow.actions || 'drop'}`
    : `${flow.match}, ${body}, actions:${flow.actions || 'drop'}`;
}

async function dumpFlows({ client, out, args, json }: AppContext, header: boolean): Promise<void> {
  const more = args.includes('-m') || args.includes('--more');
  const flows = await client.list<DatapathFlowMessage>('/v1/datapath/flows', 'flows');
  if (json) return out.line(JSON.stringify(flows));
  // Every worker has every flow here, and the statistics are their sums.
  if (header && flows.length > 0) out.line('flow-dump from the main thread:');
  for (const flow of flows) out.line(formatFlow(flow, more));
}

async function dpctlDumpFlows(context: AppContext): Promise<void> {
  for (const arg of context.args) {
    if (/^(filter|type|pmd)=/.test(arg)) throw new ServerError(`rw-vswitchd: ${arg.split('=')[0]}= is not supported`);
    if (!arg.startsWith('-')) checkDatapath(arg);
  }
  await dumpFlows(context, true);
}

async function dpifShow({ client, out, json }: AppContext): Promise<void> {
  const lookups = await client.get('/v1/datapath');
  const bridges = await client.list('/v1/bridges', 'bridges');
  if (json) return out.line(JSON.stringify({ ...lookups, bridges }));
  out.line(`${DATAPATH}: hit:${lookups.hit} missed:${lookups.missed}`);
  const byName = (a: { spec: { name: string } }, b: { spec: { name: string } }): number =>
    a.spec.name < b.spec.name ? -1 : 1;
  for (const bridge of bridges.sort(byName)) {
    out.line(`  ${bridge.spec.name}:`);
    for (const port of bridge.ports.sort(byName)) {
      const datapath = port.datapathPort < 0 ? 'none' : port.datapathPort;
      out.line(
        `    ${port.spec.name} ${port.ofport}/${datapath}: ${describe(port.spec.type, port.spec.options ?? {})}`,
      );
    }
  }
}

interface PmdMessage {
  readonly worker: number;
  readonly core: number;
  readonly numa: number;
  readonly isolated: boolean;
  readonly counters: Readonly<Record<string, number>>;
  readonly rxqs: readonly {
    readonly portName: string;
    readonly queue: number;
    readonly enabled: boolean;
    readonly usage: number;
    readonly why: string;
  }[];
}

/** Workers that `-pmd CORE` leaves; a worker without a core goes by its own number. */
async function pmds({ client, args }: AppContext): Promise<PmdMessage[]> {
  const { pmds: all } = await client.get<{ pmds: PmdMessage[] }>('/v1/datapath/pmd');
  const at = args.indexOf('-pmd');
  for (const name of args.filter(
    (arg, index) => !arg.startsWith('-') && !(at >= 0 && index === at + 1) && args[index - 1] !== '-secs',
  )) {
    checkDatapath(name);
  }
  return at < 0 ? all : all.filter((pmd) => coreOf(pmd) === Number(args[at + 1]));
}

const coreOf = (pmd: PmdMessage): number => (pmd.core >= 0 ? pmd.core : pmd.worker);
const title = (pmd: PmdMessage): string => `pmd thread numa_id ${pmd.numa} core_id ${coreOf(pmd)}:`;
const ratio = (a: number, b: number): string => (b > 0 ? a / b : 0).toFixed(2);

async function pmdStats(context: AppContext): Promise<void> {
  const { out, json } = context;
  const list = await pmds(context);
  if (json) return out.line(JSON.stringify(list));
  for (const pmd of list) {
    const count = (name: string): number => pmd.counters[name] ?? 0;
    const received = count('rx_packets');
    const passes = received + count('recirculated');
    out.line(title(pmd));
    out.line(`  packets received: ${received}`);
    out.line(`  packet recirculations: ${count('recirculated')}`);
    out.line(`  avg. datapath passes per packet: ${ratio(passes, received)}`);
    out.line('  phwol hits: 0');
    out.line('  mfex opt hits: 0');
    out.line(`  simple match hits: ${count('simple_hits')}`);
    out.line(`  emc hits: ${count('emc_hits')}`);
    out.line('  smc hits: 0');
    out.line(`  megaflow hits: ${count('megaflow_hits')}`);
    out.line(`  avg. subtable lookups per megaflow hit: ${ratio(count('megaflow_lookups'), count('megaflow_hits'))}`);
    out.line(`  miss with success upcall: ${count('upcalls')}`);
    out.line(`  miss with failed upcall: ${count('lost')}`);
    out.line(`  avg. packets per output batch: ${ratio(count('tx_packets'), count('tx_batches'))}`);
    const idle = count('idle_cycles');
    const busy = count('busy_cycles');
    const all = idle + busy;
    if (all === 0) continue;
    out.line(`  idle cycles: ${idle} (${((idle / all) * 100).toFixed(2)}%)`);
    out.line(`  processing cycles: ${busy} (${((busy / all) * 100).toFixed(2)}%)`);
    if (passes === 0) continue;
    out.line(`  avg cycles per packet: ${ratio(all, passes)} (${all}/${passes})`);
    out.line(`  avg processing cycles per packet: ${ratio(busy, passes)} (${busy}/${passes})`);
  }
}

const percent = (share: number): string => `${String(Math.floor(share * 100)).padStart(2)} %`;

async function rxqShow(context: AppContext): Promise<void> {
  const { out, json } = context;
  const list = await pmds(context);
  if (json) return out.line(JSON.stringify(list));
  out.line('Displaying last 60 seconds pmd usage %');
  for (const pmd of list) {
    out.line(title(pmd));
    out.line(`  isolated : ${pmd.isolated}`);
    const rxqs = [...pmd.rxqs].sort((a, b) =>
      a.portName < b.portName ? -1 : a.portName > b.portName ? 1 : a.queue - b.queue,
    );
    for (const rxq of rxqs) {
      const state = rxq.enabled ? '(enabled) ' : '(disabled)';
      const usage = rxq.usage < 0 ? 'NOT AVAIL' : percent(rxq.usage);
      out.line(
        `  port: ${rxq.portName.padEnd(16)}  queue-id: ${String(rxq.queue).padStart(2)} ${state}  pmd usage: ${usage}`,
      );
    }
    const known = rxqs.length > 0 && rxqs.every((rxq) => rxq.usage >= 0);
    const { busy_cycles: busy = 0, idle_cycles: idle = 0 } = pmd.counters;
    const own = busy / Math.max(1, busy + idle) - rxqs.reduce((total, rxq) => total + rxq.usage, 0);
    out.line(`  overhead: ${known ? percent(Math.max(0, own)) : 'NOT AVAIL'}`);
  }
}

async function flushFlows({ client }: AppContext): Promise<void> {
  await client.call('DELETE', '/v1/datapath/flows');
}

export const datapathCommands: Readonly<Record<string, AppCommand>> = {
  'dpctl/show': { least: 0, most: 9, usage: '[-s] [dp...]', run: dpctlShow },
  'dpctl/dump-flows': { least: 0, most: 6, usage: '[-m] [--names] [dp]', run: dpctlDumpFlows },
  'dpctl/del-flows': { least: 0, most: 1, usage: '[dp]', run: flushFlows },
  'dpif/show': { least: 0, most: 0, usage: '', run: dpifShow },
  'dpif/dump-flows': {
    least: 1,
    most: 3,
    usage: '[-m] [--names | --no-names] bridge',
    run: async (context) => {
      const bridge = context.args.at(-1)!;
      await context.bridge(bridge);
      await dumpFlows(context, false);
    },
  },
  'revalidator/purge': { least: 0, most: 0, usage: '', run: flushFlows },
  'dpif-netdev/pmd-stats-show': { least: 0, most: 3, usage: '[-pmd core] [dp]', run: pmdStats },
  'dpif-netdev/pmd-stats-clear': {
    least: 0,
    most: 3,
    usage: '[-pmd core] [dp]',
    run: async ({ client }) => {
      await client.call('DELETE', '/v1/datapath/pmd/counters');
    },
  },
  'dpif-netdev/pmd-rxq-show': { least: 0, most: 5, usage: '[-pmd core] [-secs secs] [dp]', run: rxqShow },
};
