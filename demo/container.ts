/**
 * A guest for a container: a virtio port on a vhost-user socket and a small IPv4 host on it, which pings its peer, streams to
 * it where asked, answers it, and says once a second how that went. compose.yaml runs two.
 */
import process from 'node:process';
import { Command, InvalidArgumentError } from 'commander';
import { percentile } from '#guest/histogram.ts';
import { PING_HISTOGRAM_AT } from '#guest/net.ts';
import { Guest } from './guests.ts';

const STREAM_BYTES = 512;

const number = (text: string): number => {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It is not a number.');
  return Number(text);
};

interface Options {
  readonly socket: string;
  readonly mac: string;
  readonly ip: string;
  readonly peer: string;
  readonly pings: number;
  readonly rate: number;
  readonly seconds: number;
}

const options = new Command('container')
  .description('A guest on a vhost-user socket')
  .requiredOption('--ip <address>', 'its IPv4 address')
  .requiredOption('--peer <address>', 'whom to ping and stream to')
  .option('--socket <path>', "the port's socket", process.env['RINGWAY_SOCKET'])
  .option('--mac <address>', 'its Ethernet address; without it, one made of the IPv4 address', '')
  .option('--pings <n>', 'pings a second', number, 10)
  .option('--rate <n>', 'stream frames a second; 0: none', number, 0)
  .option('--seconds <n>', 'end after so many seconds; 0: never', number, 0)
  .parse()
  .opts<Options>();

if (!options.socket) {
  console.error('container: name the socket: --socket PATH, or RINGWAY_SOCKET');
  process.exit(1);
}

const macOf = (ip: string): string =>
  ['02', '00', ...ip.split('.').map((part) => (Number(part) & 0xff).toString(16).padStart(2, '0'))].join(':');

const guest = new Guest({
  name: 'container',
  port: { path: options.socket, timeoutMs: 60_000 },
  mac: options.mac || macOf(options.ip),
  ip: options.ip,
  peer: options.peer,
  frameBytes: STREAM_BYTES,
  rate: options.rate,
  pingsPerSecond: options.pings,
});
guest.streaming = options.rate > 0;

let answered = guest.counter('pings_answered');
let received = guest.counter('stream_received');
let before = guest.histogram(PING_HISTOGRAM_AT);
let seconds = 0;

function report(): void {
  const now = { answered: guest.counter('pings_answered'), received: guest.counter('stream_received') };
  const link = `${options.ip} → ${options.peer}`;
  if (guest.state !== 'up') console.log(`${link}: port ${guest.state}${guest.reason && `, ${guest.reason}`}`);
  else {
    const micros = (quantile: number): string =>
      `${Math.round(percentile(guest.slots, PING_HISTOGRAM_AT, quantile, before))} µs`;
    const trips = now.answered > answered ? `, round trip p50 ${micros(0.5)}, p99 ${micros(0.99)}` : '';
    const stream = `${now.received - received} stream frames received, ${guest.counter('stream_lost')} lost so far`;
    console.log(`${link}: ${now.answered - answered} pings answered${trips}; ${stream}`);
  }
  ({ answered, received } = now);
  before = guest.histogram(PING_HISTOGRAM_AT);
}

const end = async (code: number): Promise<void> => {
  clearInterval(timer);
  await guest.stop();
  process.exit(code);
};

const timer = setInterval(() => {
  report();
  if (guest.state === 'failed') void end(1);
  else if (++seconds === options.seconds) void end(0);
}, 1000);
process.on('SIGTERM', () => void end(0));
process.on('SIGINT', () => void end(0));
