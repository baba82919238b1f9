/** One client's connection with the event descriptors that it and the switch ring each other by. Made anew for each connection. */
import { close, eventfd, eventfdSignal, peerCredentials } from '#contract/os.ts';
import type { Seat } from './registry.ts';
import { ClientConnection } from './server.ts';
import { SWITCH_ID } from './wire.ts';

export class Client {
  /** By vector: rung by the client, for the switch. */
  readonly bells: readonly number[];
  /** By vector: rung by the switch, and by other clients, for this one. */
  readonly calls: readonly number[];
  readonly pid: string;
  readonly #seat: Seat;
  readonly #connection: ClientConnection;

  /**
   * Takes the connected descriptor over, tells the client what there is, and the other clients of the pool that it is there.
   * @param onEnd as of ClientConnection. @throws OsError when there are no descriptors left; all are closed then.
   */
  constructor(fd: number, seat: Seat, vectors: number, onEnd: (reason: string) => void) {
    const made: number[] = [];
    try {
      for (let i = 0; i < 2 * vectors; i++) made.push(eventfd());
    } catch (error) {
      for (const each of [fd, ...made]) close(each);
      throw error;
    }
    this.bells = made.slice(0, vectors);
    this.calls = made.slice(vectors);
    this.pid = pidOf(fd);
    this.#seat = seat;
    const self = { id: seat.slot, vectors: this.calls };
    // In isolation a client hears of the switch only, as there is nobody else in its pool.
    const others = [{ id: SWITCH_ID, vectors: this.bells }, ...seat.others()];
    this.#connection = new ClientConnection(fd, { memoryFd: seat.shared.backing.fd, self, others }, onEnd);
    seat.arrived({ peer: self, connection: this.#connection });
  }

  /** Wakes the client, whatever it sleeps on. */
  wake(): void {
    for (const fd of this.calls) eventfdSignal(fd);
  }

  end(reason: string): void {
    this.#connection.end(reason);
  }

  /** The connection has ended and no worker has the descriptors: lets go of them. */
  close(): void {
    this.#seat.departed();
    for (const fd of [...this.bells, ...this.calls]) close(fd);
  }
}

const pidOf = (fd: number): string => {
  try {
    return String(peerCredentials(fd).pid);
  } catch {
    return '';
  }
};
