/**
 * `node kernel-flood.ts INTERFACE SOURCE-MAC DESTINATION-MAC SECONDS`: frames of 64 bytes (60 and the check sequence) out of an
 * interface, as many as go, in bursts over a packet socket. The load of the kernel bench, run in the sender's network namespace.
 */
import { address, mapAnonymous, packetBind, packetOpen, sendFrames, socketBuffers } from '#contract/os.ts';
import { findLink } from '#ports/kernel/interfaces.ts';

const BURST = 64;
const FRAME = 60;
const [ifname = '', source = '', destination = '', seconds = ''] = process.argv.slice(2);
const macOf = (text: string): number[] => text.split(':').map((part) => Number.parseInt(part, 16));

const memory = mapAnonymous(FRAME);
const frame = new Uint8Array(memory);
// IPv4, UDP from 1 to 9, 18 bytes; without UDP checksum.
const headers = [
  0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2, 0, 1, 0, 9, 0, 26, 0, 0,
];
frame.set([...macOf(destination), ...macOf(source), ...headers]);
let sum = 0;
for (let at = 14; at < 34; at += 2) sum += (frame[at]! << 8) | frame[at + 1]!;
sum = (sum & 0xffff) + (sum >>> 16);
frame.set([(~sum >>> 8) & 0xff, ~sum & 0xff], 24);

const pieces = new Float64Array(BURST * 2);
for (let i = 0; i < BURST; i++) pieces.set([address(memory), FRAME], 2 * i);
const counts = new Int32Array(BURST).fill(1);
const results = new Int32Array(BURST);
const fd = packetOpen();
socketBuffers(fd, 8 << 20, 4096);
packetBind(fd, findLink(ifname)!.ifindex, false);
const end = performance.now() + Number(seconds) * 1000;
let sent = 0;
while (performance.now() < end)
  for (let i = 0; i < 16; i++) sent += Math.max(0, sendFrames(fd, true, pieces, counts, BURST, results));
console.log(sent);
