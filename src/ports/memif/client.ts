/**
 * The client's end of a connection: makes the memory, and offers it to the server, one request at a time.
 */
import type { Channel, MessageHandler } from './channel.ts';
import type { MemifDevice } from './device.ts';
import type { Settings } from './options.ts';
import * as wire from './wire.ts';

export const APP_NAME = 'ringway';

export interface ClientHost {
  readonly device: MemifDevice;
  readonly channel: () => Channel;
  readonly settings: Settings;
  /** Name of the port, as the server gets it. */
  readonly name: string;
  /** Something changed: the server's program is known from HELLO, its interface's name from CONNECTED. */
  progress(names: { app?: string; peer?: string }): void;
}

interface Request {
  readonly bytes: Uint8Array;
  readonly fd: number;
}

/** What to do with a server's messages. */
export function clientHandler({ device, channel, settings, name, progress }: ClientHost): MessageHandler {
  let requests: Request[] | undefined;
  const next = () => {
    const request = requests?.shift();
    if (!request) throw new Error('ACK came for nothing');
    channel().send(request.bytes, request.fd);
  };
  return async (type, bytes) => {
    if (type === wire.HELLO) {
      if (requests) throw new Error('HELLO came twice');
      const hello = wire.HELLO_LAYOUT.decode(bytes, 2);
      makeMemory(device, settings, hello);
      requests = requestsOf(device, settings, name);
      next();
      progress({ app: hello.name });
    } else if (type === wire.ACK) {
      next();
    } else {
      if (requests?.length !== 0 || device.up) throw new Error('CONNECTED came before all was asked for');
      await device.connect();
      progress({ peer: wire.CONNECT_LAYOUT.decode(bytes, 2).name });
    }
  };
}

/** As much as both sides take. @throws Error when they have no version in common. */
function makeMemory(device: MemifDevice, settings: Settings, hello: wire.Hello): void {
  const { minVersion, maxVersion, maxM2sRing, maxS2mRing, maxLog2RingSize } = hello;
  if (minVersion > wire.VERSION || maxVersion < wire.VERSION) {
    throw new Error(`the server speaks memif ${versionText(minVersion)} to ${versionText(maxVersion)}, not 2.0`);
  }
  const queues = Math.min(settings.queues, maxM2sRing + 1, maxS2mRing + 1);
  if (maxLog2RingSize < 1) throw new Error('the server takes no rings');
  device.make(queues, Math.min(settings.log2RingSize, maxLog2RingSize), settings.bufferSize);
}

const versionText = (version: number): string => `${version >> 8}.${version & 0xff}`;

function requestsOf(device: MemifDevice, { id, secret }: Settings, name: string): Request[] {
  const init = { version: wire.VERSION, id, mode: wire.MODE_ETHERNET, secret, name: APP_NAME };
  return [
    { bytes: wire.encodeInit(init), fd: -1 },
    ...device.regions.map(({ fd, size }, index) => ({
      bytes: wire.encodeAddRegion({ index, size: BigInt(size) }),
      fd,
    })),
    ...device.rings.map(({ index, s2m, region, offset, size, eventFd }) => ({
      bytes: wire.encodeAddRing({
        flags: s2m ? wire.RING_S2M : 0,
        index,
        region,
        offset,
        log2RingSize: Math.log2(size),
        privateHeader: 0,
      }),
      fd: eventFd,
    })),
    { bytes: wire.encodeConnect(name), fd: -1 },
  ];
}
