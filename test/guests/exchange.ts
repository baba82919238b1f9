/** What the two guests of a row do with each other, and how it is judged: by what the guests themselves and the switch have counted. */
import { VIRTIO_FEATURES } from '#ports/vhost-user/wire.ts';
import type { GuestShell } from '../support/guest-shell.ts';
import type { QemuGuest } from '../support/qemu.ts';
import { ADDRESS, ADDRESS6, type GuestLab, other, SIDES, type Side } from './lab.ts';
import { featuresOf, kindOf, type Row } from './rows.ts';

const COMMAND_MS = 90_000;
const PINGS = 5;
/** IPv4 and ICMP, or UDP: what a frame as long as the MTU carries besides (RFC 791, 792, 768). */
const HEADERS = 28;
const TCP_BYTES = 16 * 2 ** 20;
/** As many flows as make it sure, but for one in 10⁵, that some hash to either queue. */
const STREAMS_OF_TWO_QUEUES = 8;
/** Bytes on average that TCP's frames have at least where they go as they are, longer than the MTU. */
const LONG_FRAMES = 2000;
/** A rate at which nothing may be lost but where a guest's processor does not run for long. */
const UDP_RATE = '4M';
const UDP_SECONDS = 1;
const UDP_LOSS = 0.1;
const CONTENT_BYTES = 2 * 2 ** 20;
/** Drops that are no fault: a guest that does not take frames as fast as they come. */
const INNOCENT = new Set(['tx_ring_full']);

export interface Transfer {
  /** Bits per second as the receiver counts. */
  rate: number;
}

export interface Datagrams {
  sent: number;
  lost: number;
}

export interface Outcome {
  /** Mean round trip in milliseconds of frames of 98 bytes, and as long as the MTU. */
  ping: number;
  pingLong: number;
  tcp: Record<Side, Transfer>;
  udp: Record<Side, Datagrams>;
  /** Frames that the switch cut and checksums that it completed for each guest; frames that found a guest's ring full. */
  segmented: Record<Side, number>;
  checksums: Record<Side, number>;
  full: Record<Side, number>;
}

interface IperfReport {
  error?: string;
  end: {
    sum_sent: { bytes: number };
    sum_received: { bytes: number; bits_per_second: number };
    sum: { packets: number; lost_packets: number };
  };
}

/** Runs iperf3 in guest a against guest b; with `-R` b sends. */
export async function iperf(client: GuestShell, address: string, options: string): Promise<IperfReport['end']> {
  const { output } = await client.tryRun(`timeout 60 iperf3 -J -i 0 -c ${address} ${options}`, COMMAND_MS);
  let report: IperfReport;
  try {
    // Warnings come first.
    report = JSON.parse(output.slice(output.indexOf('{')));
  } catch {
    throw new Error(`iperf3 ${options}: no report in\n${output}`);
  }
  if (report.error) throw new Error(`iperf3 ${options}: ${report.error}`);
  return report.end;
}

/** @returns milliseconds of a round trip, their mean. @throws Error when an answer is missing. */
export async function ping(from: GuestShell, address: string, bytes: number): Promise<number> {
  const { output } = await from.tryRun(`ping -c ${PINGS} -A -W 20 -s ${bytes} ${address}`, COMMAND_MS);
  if (Number(/(\d+) packets received/.exec(output)?.[1]) !== PINGS)
    throw new Error(`ping of ${bytes} bytes to ${address}: not every answer came\n${output}`);
  return Number(/min\/avg\/max = [\d.]+\/([\d.]+)\//.exec(output)?.[1]);
}

/** Until guest `a` reaches `b`: the first packets wait for addresses, and for the flow. */
export async function reach(a: GuestShell, address: string): Promise<void> {
  await a.run(
    `for i in $(seq 60); do ping -c 1 -W 1 ${address} >/tmp/reach && break; done; cat /tmp/reach`,
    COMMAND_MS,
  );
}

const digestOf = async (guest: QemuGuest, command: string): Promise<string> =>
  (await guest.run(`${command} | sha1sum`, COMMAND_MS)).trim();

/** `to` fetches random bytes from `from`, over HTTP. @throws Error when they differ. */
async function content(from: QemuGuest, to: QemuGuest, address: string): Promise<void> {
  await from.run(`head -c ${CONTENT_BYTES} /dev/urandom >/tmp/out`);
  const sent = await digestOf(from, 'cat /tmp/out');
  const got = await digestOf(to, `timeout 60 wget -q -O - http://${address}/out`);
  if (got !== sent) throw new Error(`the file fetched from ${address} is another one: ${got}instead of ${sent}`);
}

/** Other errors count what is no damage: a SYN sent again, a full socket buffer, an answer for a socket that is closed. */
const DAMAGE = /InCsumErrors$|InHdrErrors$|ReasmReqds$|FragOKs$|FragCreates$|^[rt]x_.*errors$/;

/** Of a guest, by name: what its network stack and its card call errors, and fragments, which nobody makes here. */
async function errors(guest: QemuGuest, device: string): Promise<Map<string, number>> {
  const text = await guest.run(
    `cat /proc/net/snmp /proc/net/snmp6; cd /sys/class/net/${device}/statistics && grep . [rt]x_*errors; cd /`,
  );
  const counters = new Map<string, number>();
  const lines = text.split('\n');
  for (const [i, line] of lines.entries()) {
    const [head, ...words] = line.trim().split(/[:\s]+/);
    const values = lines[i + 1]?.trim().split(/[:\s]+/) ?? [];
    // /proc/net/snmp has a line of names and one of values under the same head, the others one counter a line.
    if (words.length > 1 && values[0] === head && /\D/.test(words[0]!))
      for (const [w, word] of words.entries()) counters.set(`${head}${word}`, Number(values[w + 1]));
    else if (words.length === 1) counters.set(head!, Number(words[0]));
  }
  for (const name of counters.keys()) if (!DAMAGE.test(name)) counters.delete(name);
  return counters;
}

const gained = (before: Map<string, number>, after: Map<string, number>): string =>
  [...after]
    .map(([name, value]) => [name, value - (before.get(name) ?? 0)] as const)
    .filter(([, more]) => more !== 0)
    .map(([name, more]) => `${name} ${more}`)
    .join(', ');

async function checkAgreement(lab: GuestLab, row: Row): Promise<void> {
  for (const side of SIDES) {
    const wanted = featuresOf(kindOf(row, side));
    const agreed = await lab.features(side);
    const wrong = [
      ...wanted.with.filter((name) => !agreed.has(VIRTIO_FEATURES[name])).map((name) => `lacks ${name}`),
      ...wanted.without.filter((name) => agreed.has(VIRTIO_FEATURES[name])).map((name) => `has ${name}`),
    ];
    if (wrong.length > 0) throw new Error(`the card of guest ${side} ${wrong.join(', ')}`);
    const mtu = (await lab.guests[side].run(`cat /sys/class/net/${lab.interface(side)}/mtu`)).trim();
    if (mtu !== row.mtu) throw new Error(`the MTU of guest ${side} is ${mtu}`);
  }
}

async function checkQueues(lab: GuestLab, side: Side): Promise<void> {
  const text = await lab.guests[side].run(`ethtool -S ${lab.interface(side)}`);
  for (const queue of ['rx_queue_0', 'rx_queue_1', 'tx_queue_0', 'tx_queue_1']) {
    const packets = Number(new RegExp(`${queue}_packets: (\\d+)`).exec(text)?.[1] ?? 0);
    if (packets === 0) throw new Error(`no packet went through ${queue} of guest ${side}`);
  }
}

type Statistics = Record<string, number>;
const difference = (before: Statistics, after: Statistics): Statistics =>
  Object.fromEntries(Object.entries(after).map(([name, value]) => [name, value - (before[name] ?? 0)]));

/** Judges what the switch did for guest `side` by what that guest and its peer can. */
function checkPort(row: Row, side: Side, port: Statistics): void {
  const [mine, peer] = [kindOf(row, side), kindOf(row, other(side))];
  const work = peer.offloads === 'offload' && mine.offloads === 'plain';
  const { segmented = 0, checksums = 0, tx_bytes: bytes = 0, tx_packets: packets = 0 } = port;
  if (work !== segmented > 0) throw new Error(`${segmented} frames were segmented for guest ${side}`);
  if (work !== checksums > 0) throw new Error(`${checksums} checksums were completed for guest ${side}`);
  const longest = Number(row.mtu) + 14;
  if (mine.offloads === 'plain' && bytes / packets > longest)
    throw new Error(`frames for guest ${side} have ${bytes / packets} bytes on average`);
  const faults = Object.entries(port).filter(
    ([name, count]) =>
      count > 0 && /^(rx|tx)_/.test(name) && !/_(packets|bytes|bursts|dropped)$/.test(name) && !INNOCENT.has(name),
  );
  if (faults.length > 0)
    throw new Error(
      `the switch dropped frames at the port of guest ${side}: ${faults.map((fault) => fault.join(' ')).join(', ')}`,
    );
}

/** Does and checks everything for a row, whose cards are up. @throws Error that says which step went wrong. */
export async function exchange(lab: GuestLab, row: Row): Promise<Outcome> {
  const { a, b } = lab.guests;
  const perSide = <T>(value: (side: Side) => Promise<T>): Promise<Record<Side, T>> =>
    Promise.all(SIDES.map(value)).then(([ofA, ofB]) => ({ a: ofA!, b: ofB! }));
  await checkAgreement(lab, row);
  const errorsOf = (side: Side) => errors(lab.guests[side], lab.interface(side));
  const [errorsBefore, portsBefore] = [await perSide(errorsOf), await perSide((side) => lab.statistics(side))];

  const longest = Number(row.mtu) - HEADERS;
  await reach(a, ADDRESS.b);
  const outcome = { ping: await ping(a, ADDRESS.b, 56), pingLong: await ping(b, ADDRESS.a, longest) };
  const tcp = {} as Outcome['tcp'];
  const udp = {} as Outcome['udp'];
  const streams = row.queues === '2q' ? ` -P ${STREAMS_OF_TWO_QUEUES}` : '';
  for (const sender of SIDES) {
    const back = sender === 'b' ? ' -R' : '';
    const before = await lab.statistics(other(sender));
    const { sum_sent: sent, sum_received: received } = await iperf(a, ADDRESS.b, `-n ${TCP_BYTES}${streams}${back}`);
    if (received.bytes < TCP_BYTES / 2)
      throw new Error(`TCP from guest ${sender}: ${received.bytes} bytes of ${sent.bytes} arrived`);
    tcp[sender] = { rate: received.bits_per_second };
    const { tx_bytes: bytes = 0, tx_packets: packets = 0 } = difference(before, await lab.statistics(other(sender)));
    if (row.offloads === 'offload' && bytes / packets < LONG_FRAMES)
      throw new Error(`TCP from guest ${sender} came in frames of ${bytes / packets} bytes on average`);
    const options = `-u -b ${UDP_RATE} -t ${UDP_SECONDS} -l ${longest}${back}`;
    const { tx_ring_full: fullBefore = 0 } = await lab.statistics(other(sender));
    const { packets: datagrams, lost_packets: lost } = (await iperf(a, ADDRESS.b, options)).sum;
    const { tx_ring_full: fullAfter = 0 } = await lab.statistics(other(sender));
    // What found no buffer came while the guest's processor did not run.
    if (datagrams === 0 || lost > datagrams * UDP_LOSS + fullAfter - fullBefore)
      throw new Error(`UDP from guest ${sender}: ${lost} of ${datagrams} datagrams were lost`);
    udp[sender] = { sent: datagrams, lost };
  }
  await content(a, b, `[${ADDRESS6.a}]`);
  await content(b, a, ADDRESS.b);

  for (const side of SIDES) {
    const wrong = gained(errorsBefore[side], await errorsOf(side));
    if (wrong) throw new Error(`guest ${side} has counted ${wrong}`);
    if (row.queues === '2q') await checkQueues(lab, side);
  }
  const ports = await perSide(async (side) => difference(portsBefore[side], await lab.statistics(side)));
  for (const side of SIDES) checkPort(row, side, ports[side]);
  const counted = (name: string) => ({ a: ports.a[name] ?? 0, b: ports.b[name] ?? 0 });
  return {
    ...outcome,
    tcp,
    udp,
    segmented: counted('segmented'),
    checksums: counted('checksums'),
    full: counted('tx_ring_full'),
  };
}
