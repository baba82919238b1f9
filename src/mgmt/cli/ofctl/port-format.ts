/** Ports as ovs-ofctl show, dump-ports-desc and dump-ports print them. */
import type { OfVersion } from './protocol.ts';

/** A Port message of the API. */
export interface PortMessage {
  readonly spec: { readonly name: string; readonly config?: readonly string[] };
  readonly ofport: number;
  readonly mac: string;
  readonly linkUp: boolean;
  readonly duration: number;
  readonly statistics: {
    readonly counters: Readonly<Record<string, number>>;
    readonly drops: Readonly<Record<string, number>>;
  };
}

export const LOCAL = 65534;

/** `LOCAL`, or the number. */
export const portNumber = (ofport: number): string => (ofport === LOCAL ? 'LOCAL' : String(ofport));

/** Configuration words in the order of their bits. */
const CONFIG: readonly (readonly [word: string, name: string, from10Only: boolean])[] = [
  ['down', 'PORT_DOWN', false],
  ['no-receive', 'NO_RECV', false],
  ['no-flood', 'NO_FLOOD', true],
  ['no-forward', 'NO_FWD', false],
  ['no-packet-in', 'NO_PACKET_IN', false],
];

/** Ports that have a number, in the order of OpenFlow: by number, LOCAL last. */
export const byNumber = (ports: readonly PortMessage[]): PortMessage[] =>
  ports.filter((port) => port.ofport > 0).sort((a, b) => a.ofport - b.ofport);

export function describePort(port: PortMessage, version: OfVersion): string[] {
  const { config = [] } = port.spec;
  const words = CONFIG.filter(([word, , only10]) => config.includes(word) && (!only10 || version.number === 1));
  const down = !port.linkUp || config.includes('down');
  const live = version.number > 1 ? 'LIVE' : '0';
  return [
    ` ${portNumber(port.ofport)}(${port.spec.name}): addr:${port.mac}`,
    `     config:     ${words.map(([, name]) => name).join(' ') || '0'}`,
    `     state:      ${down ? 'LINK_DOWN' : live}`,
    '     speed: 0 Mbps now, 0 Mbps max',
  ];
}

const sum = (drops: Readonly<Record<string, number>>, side: 'rx_' | 'tx_'): number =>
  Object.entries(drops).reduce((total, [reason, lost]) => total + (reason.startsWith(side) ? lost : 0), 0);

/** Reasons under the names that OVS has for vhost ports. */
const OVS_NAMES: Readonly<Record<string, string>> = {
  tx_ring_full: 'ovs_tx_failure_drops',
  tx_mtu: 'ovs_tx_mtu_exceeded_drops',
};
const STANDARD = new Set(['rx_packets', 'rx_bytes', 'tx_packets', 'tx_bytes']);
const PER_LINE = 3;

export function portStatistics(port: PortMessage, version: OfVersion): string[] {
  const { counters, drops } = port.statistics;
  const known = counters.rx_packets !== undefined;
  const value = (name: string): string => String(counters[name] ?? '?');
  const lost = (side: 'rx_' | 'tx_'): string => (known ? String(sum(drops, side)) : '?');
  const errors = known ? '0' : '?';
  const lines = [
    `  port ${portNumber(port.ofport).padStart(2)}: rx pkts=${value('rx_packets')}, bytes=${value('rx_bytes')}, ` +
      `drop=${lost('rx_')}, errs=${errors}, frame=?, over=?, crc=?`,
    `           tx pkts=${value('tx_packets')}, bytes=${value('tx_bytes')}, drop=${lost('tx_')}, errs=${errors}, coll=?`,
  ];
  if (version.number >= 4) lines.push(`           duration=${port.duration.toFixed(3)}s`);
  if (version.number >= 5) {
    const custom = [
      ...Object.entries(counters).filter(([name]) => !STANDARD.has(name)),
      ...Object.entries(drops).map(([name, count]) => [OVS_NAMES[name] ?? name, count] as const),
    ].map(([name, count]) => `${name}=${count},`);
    if (custom.length > 0) lines.push('           CUSTOM Statistics');
    for (let at = 0; at < custom.length; at += PER_LINE) {
      lines.push(`                      ${custom.slice(at, at + PER_LINE).join(' ')}`);
    }
  }
  return lines;
}
