/** The device configuration space that GET_CONFIG and SET_CONFIG are about: struct virtio_net_config (virtio 1.2 section 5.1.4). */
import { layout } from '../layout.ts';
import type { ConfigPart } from './wire.ts';

const MAC_BYTES = 6;
const LINK_UP = 1;
const SPEED_UNKNOWN = 0xffffffff;
const DUPLEX_UNKNOWN = 0xff;

const NET_CONFIG = layout('virtio_net_config', 24, {
  macLow: 'u32',
  macHigh: 'u16',
  status: 'u16',
  maxQueuePairs: 'u16',
  mtu: 'u16',
  speed: 'u32',
  duplex: 'u8',
  rssKeyBytes: 'u8',
  rssTableLength: 'u16',
  hashTypes: 'u32',
});

export class NetConfig {
  readonly #queuePairs: number;
  /** What a legacy driver wrote there; the switch itself gives no address. */
  readonly #mac = new Uint8Array(MAC_BYTES);
  mtu: number;

  constructor(queuePairs: number, mtu: number) {
    this.#queuePairs = queuePairs;
    this.mtu = mtu;
  }

  /** The bytes asked for; what lies behind the structure reads as 0. */
  read({ offset, bytes }: ConfigPart): Uint8Array {
    const whole = NET_CONFIG.encode({
      macLow: 0,
      macHigh: 0,
      status: LINK_UP,
      maxQueuePairs: this.#queuePairs,
      mtu: this.mtu,
      speed: SPEED_UNKNOWN,
      duplex: DUPLEX_UNKNOWN,
      rssKeyBytes: 0,
      rssTableLength: 0,
      hashTypes: 0,
    });
    whole.set(this.#mac);
    const out = new Uint8Array(bytes.length);
    out.set(whole.subarray(offset, offset + bytes.length));
    return out;
  }

  /** @throws RangeError for any field but `mac`, which alone a driver may write (legacy interface only). */
  write({ offset, bytes }: ConfigPart): void {
    if (offset + bytes.length > MAC_BYTES) {
      throw new RangeError(`SET_CONFIG of ${bytes.length} bytes at ${offset}; only mac, bytes 0 to 5, can be written`);
    }
    this.#mac.set(bytes, offset);
  }
}
