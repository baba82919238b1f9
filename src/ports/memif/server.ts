/**
 * The server's end of a connection, from INIT on: obeys a client's requests, each with its answer.
 */
import type { Channel, MessageHandler } from './channel.ts';
import type { MemifDevice } from './device.ts';
import * as wire from './wire.ts';

export interface ServerHost {
  readonly device: MemifDevice;
  readonly channel: Channel;
  /** Name of the port, as the client gets it. */
  readonly name: string;
  /** Something changed; `peer` is the client's own name for its interface once it is known. */
  progress(peer?: string): void;
}

/** What to do with a client's messages. */
export function serverHandler({ device, channel, name, progress }: ServerHost): MessageHandler {
  return async (type, bytes, fds) => {
    const row = wire.MESSAGES.get(type)!;
    if (device.up || type === wire.INIT) throw new Error(`${row.name} came after the connection was made`);
    if (type === wire.ADD_REGION) {
      device.addRegion(wire.ADD_REGION_LAYOUT.decode(bytes, 2), fds[0]!);
      fds[0] = -1;
    } else if (type === wire.ADD_RING) {
      device.addRing(wire.ADD_RING_LAYOUT.decode(bytes, 2), fds[0]!);
      fds[0] = -1;
    } else {
      await device.connect();
      channel.send(wire.encodeConnected(name));
      progress(wire.CONNECT_LAYOUT.decode(bytes, 2).name);
      return;
    }
    channel.send(wire.encodeAck());
    progress();
  };
}
