/** What the front end says of single rings: sizes, addresses, places, descriptors to notify by, and whether they are enabled. */
import { checkEvent, close, eventfdSignal } from '#contract/os.ts';
import { RefusedError } from './device-host.ts';
import { Ring, wrongSize } from './ring.ts';
import { STATE_CURSOR, STATE_WORDS } from './vring.ts';
import { ENTRY_MASK } from './vring-packed.ts';
import * as wire from './wire.ts';

/** The device that has the rings. */
export interface RingUser {
  packed(): boolean;
  /** Without the protocol features a ring is enabled by its kick (vhost-user.rst, "Ring states"). */
  enabledByKick(): boolean;
  /** Why a ring cannot lie where its addresses say; undefined where it can, or nothing is known yet. */
  misplaced(ring: Ring): string | undefined;
  /** Workers get what there is now. */
  apply(): Promise<void>;
}

export class RingMessages {
  readonly #offered: number;
  readonly #user: RingUser;
  readonly #words: Int32Array;
  readonly #byIndex = new Map<number, Ring>();

  /** @param offered rings that there may be; @param words STATE_WORDS words per virtqueue (vring.ts). */
  constructor(offered: number, words: Int32Array, user: RingUser) {
    this.#offered = offered;
    this.#words = words;
    this.#user = user;
  }

  /** Those of which something was said. */
  get all(): Ring[] {
    return [...this.#byIndex.values()];
  }

  /** Closes their descriptors and forgets them; no worker has them any more. */
  clear(): void {
    for (const { kickFd, callFd, errFd } of this.all) for (const fd of [kickFd, callFd, errFd]) closeFd(fd);
    this.#byIndex.clear();
  }

  #ring(index: number): Ring {
    if (index >= this.#offered) {
      throw new RefusedError(`ring ${index} does not exist; ${this.#offered} rings are offered`);
    }
    let ring = this.#byIndex.get(index);
    if (!ring) {
      ring = new Ring(index);
      this.#byIndex.set(index, ring);
    }
    return ring;
  }

  async setSize({ index, num }: wire.VringState): Promise<undefined> {
    const ring = this.#ring(index);
    const wrong = wrongSize(num, this.#user.packed());
    if (wrong) throw new RefusedError(`ring ${index} of ${num} entries; ${wrong}`);
    await this.#without(ring, async () => {
      ring.size = num;
      ring.synced = false;
    });
  }

  async setAddresses(addresses: wire.VringAddress): Promise<undefined> {
    const ring = this.#ring(addresses.index);
    ring.addresses = addresses;
    const misplaced = ring.size > 0 && this.#user.misplaced(ring);
    if (misplaced) throw new RefusedError(misplaced);
    await this.#user.apply();
  }

  async setBase({ index, num }: wire.VringState): Promise<undefined> {
    const ring = this.#ring(index);
    const packed = this.#user.packed();
    if (num > 0xffff && !packed) throw new RefusedError(`ring ${index} at entry ${num}; an index has 16 bits`);
    if (packed && ring.size > 0 && (num & ENTRY_MASK) >= ring.size) {
      throw new RefusedError(`ring ${index} at entry ${num & ENTRY_MASK}; it has ${ring.size}`);
    }
    await this.#without(ring, async () => {
      ring.base = num & 0xffff;
      this.#words[index * STATE_WORDS + STATE_CURSOR] = ring.base;
      ring.synced = false;
    });
  }

  async getBase({ index }: wire.VringState): Promise<Uint8Array> {
    const ring = this.#ring(index);
    ring.started = false;
    await this.#user.apply();
    closeFd(ring.kickFd);
    ring.kickFd = -1;
    const place = this.#words[index * STATE_WORDS + STATE_CURSOR]! & 0xffff;
    return wire.VRING_STATE.encode({ index, num: this.#user.packed() ? wire.packedBase(place) : place });
  }

  async setFd(which: 'kickFd' | 'callFd' | 'errFd', value: bigint, fds: number[]): Promise<undefined> {
    const ring = this.#ring(Number(value & wire.VRING_INDEX_MASK));
    const none = (value & wire.VRING_NO_FD) !== 0n;
    if (!none && fds.length !== 1) throw new RefusedError(`ring ${ring.index}: a descriptor is missing`);
    // What is polled and written to must be nothing that another program answers for.
    if (!none) checkEvent(fds[0]!);
    const old = ring[which];
    ring[which] = none ? -1 : fds[0]!;
    if (!none) fds[0] = -1;
    if (which === 'kickFd' && !ring.started) {
      ring.started = true;
      ring.synced = false;
      if (this.#user.enabledByKick()) ring.enabled = true;
    }
    try {
      await this.#user.apply();
    } finally {
      closeFd(old);
    }
    // What was signalled to the old descriptor may not have been seen.
    if (which === 'callFd' && ring.callFd >= 0 && ring.started) eventfdSignal(ring.callFd);
  }

  async setEnable({ index, num }: wire.VringState): Promise<undefined> {
    if (num > 1) throw new RefusedError(`SET_VRING_ENABLE of ring ${index} to ${num}; 0 or 1 is possible`);
    this.#ring(index).enabled = num === 1;
    await this.#user.apply();
  }

  /** Runs `change` while no worker has the ring. */
  async #without(ring: Ring, change: () => Promise<void>): Promise<void> {
    const { started } = ring;
    ring.started = false;
    await this.#user.apply();
    await change();
    ring.started = started;
    await this.#user.apply();
  }
}

const closeFd = (fd: number): void => {
  if (fd >= 0) close(fd);
};
