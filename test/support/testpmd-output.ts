/** What dpdk-testpmd 22.11 prints, as numbers. */

export interface PortStats {
  port: number;
  rxPackets: number;
  rxMissed: number;
  rxBytes: number;
  rxErrors: number;
  rxNombuf: number;
  txPackets: number;
  txErrors: number;
  txBytes: number;
  /** Packets per second since the last `show port stats` of this port; 0 at the first. */
  rxPps: number;
  txPps: number;
}

export interface ForwardTotals {
  rxPackets: number;
  rxDropped: number;
  txPackets: number;
  /** Frames that testpmd could not place on a ring, the switch being slower. */
  txDropped: number;
}

function field(text: string, name: string): number {
  const found = new RegExp(`${name}:\\s*(\\d+)`).exec(text);
  if (!found) throw new Error(`no ${name} in what testpmd printed:\n${text}`);
  return Number(found[1]);
}

/** Reads `show port stats all`. */
export function parsePortStats(text: string): PortStats[] {
  const blocks = text.split(/#+ NIC statistics for port /).slice(1);
  return blocks.map((block) => ({
    port: Number.parseInt(block, 10),
    rxPackets: field(block, 'RX-packets'),
    rxMissed: field(block, 'RX-missed'),
    rxBytes: field(block, 'RX-bytes'),
    rxErrors: field(block, 'RX-errors'),
    rxNombuf: field(block, 'RX-nombuf'),
    txPackets: field(block, 'TX-packets'),
    txErrors: field(block, 'TX-errors'),
    txBytes: field(block, 'TX-bytes'),
    rxPps: field(block, 'Rx-pps'),
    txPps: field(block, 'Tx-pps'),
  }));
}

/** Reads the "Accumulated forward statistics" that `stop` ends with. */
export function parseForwardTotals(text: string): ForwardTotals {
  const sums = text.split('Accumulated forward statistics for all ports')[1];
  if (sums === undefined) throw new Error(`no accumulated statistics in what testpmd printed:\n${text}`);
  return {
    rxPackets: field(sums, 'RX-packets'),
    rxDropped: field(sums, 'RX-dropped'),
    txPackets: field(sums, 'TX-packets'),
    txDropped: field(sums, 'TX-dropped'),
  };
}

/** Reads the link column of `show port summary all`, in port order. */
export function parseLinks(text: string): ('up' | 'down')[] {
  return [...text.matchAll(/^\d+\s+(?:[0-9A-F]{2}:){5}[0-9A-F]{2}\s+\S+\s+\S+\s+(up|down)\b/gim)].map(
    (row) => row[1] as 'up' | 'down',
  );
}

/** Packets and bytes of one queue in one direction. */
export interface QueueCount {
  packets: number;
  bytes: number;
}

export interface QueueStats {
  port: number;
  /** By queue number. */
  rx: QueueCount[];
  tx: QueueCount[];
}

/** Reads the rows of `show port xstats all` that are about queues of virtio devices, such as `rx_q0_good_packets`. */
export function parseQueueStats(text: string): QueueStats[] {
  const blocks = text.split(/#+ NIC extended statistics for port /).slice(1);
  return blocks.map((block) => {
    const stats: QueueStats = { port: Number.parseInt(block, 10), rx: [], tx: [] };
    for (const [, direction, queue, what, value] of block.matchAll(/^([rt]x)_q(\d+)_good_(packets|bytes): (\d+)/gm)) {
      const list = stats[direction as 'rx' | 'tx'];
      const count = (list[Number(queue)] ??= { packets: 0, bytes: 0 });
      count[what as keyof QueueCount] = Number(value);
    }
    return stats;
  });
}

/** Which receive and transmit code of DPDK's virtio driver each port runs, as it logs at level `info`. */
export function parseVirtioPaths(text: string): Map<number, { rx: string; tx: string }> {
  const paths = new Map<number, { rx: string; tx: string }>();
  for (const [, name, direction, port] of text.matchAll(/virtio: using (.+?) ([RT])x path on port (\d+)/g)) {
    const path = paths.get(Number(port)) ?? { rx: '', tx: '' };
    path[direction === 'R' ? 'rx' : 'tx'] = name!;
    paths.set(Number(port), path);
  }
  return paths;
}
