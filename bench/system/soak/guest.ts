/** A guest in a process of its own, to be killed: opens the port at argv[2] and sends for as long as it lives. */
import { openVirtioPort } from '#guest/index.ts';

const port = await openVirtioPort({ path: process.argv[2]!, ringSize: 128 });
const frame = new Uint8Array(200).fill(0xff, 0, 6);
frame.set([0x02, 0, 0, 0, 0, 9, 0x88, 0xb6], 6);
process.stdout.write('up\n');
setInterval(() => {
  port.queue(0).send(Array.from({ length: 32 }, () => frame));
  port.queue(0).receive();
}, 1);
