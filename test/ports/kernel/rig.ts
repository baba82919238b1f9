/** What tests of the queues of kernel ports share: a batch with counters, and sockets that keep the borders of frames. */
import { join } from 'node:path';
import {
  DROP_BASE,
  type DropReason,
  dropReason,
  PORT_ROW,
  type PortCounter,
  portCounter,
} from '#contract/catalogue.ts';
import { accept, address, close, mapAnonymous, unixConnect, unixListen } from '#contract/os.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import { placeFrame } from '#datapath/packet/place.ts';
import { removeScratchDir, scratchDir } from '../../support/process.ts';

export class QueueRig {
  readonly batch = new PacketBatch();
  readonly counters = { slots: new Float64Array(PORT_ROW), base: 0 };
  readonly #source = mapAnonymous(1 << 20);
  readonly #fds: number[] = [];

  count(name: PortCounter): number {
    return this.counters.slots[portCounter(name)]!;
  }

  drops(reason: DropReason): number {
    return this.counters.slots[DROP_BASE + dropReason(reason)]!;
  }

  /** Two connected sockets of sequenced packets. */
  pair(): [number, number] {
    const dir = scratchDir('rwk');
    const path = join(dir, 's');
    const listening = unixListen(path, { packets: true });
    const one = unixConnect(path, { packets: true });
    const other = accept(listening);
    close(listening);
    removeScratchDir(dir);
    this.#fds.push(one, other);
    return [one, other];
  }

  /** Puts frames into the batch as if they had been received; those longer than the window stay outside. */
  place(...frames: Uint8Array[]): Int32Array {
    const bytes = new Uint8Array(this.#source);
    let at = 0;
    const slots = frames.map((frame) => {
      bytes.set(frame, at);
      const slot = placeFrame(this.batch, bytes, at, address(this.#source), frame.length);
      at += frame.length;
      return slot;
    });
    return Int32Array.from(slots);
  }

  /** The whole frame of a slot, wherever it lies. */
  frame(slot: number): Uint8Array {
    const { batch } = this;
    const out = mapAnonymous(Math.max(1, batch.length[slot]!));
    let to = address(out);
    const add = (from: number, length: number): void => {
      const row = batch.rowCount * 3;
      batch.rows.set([to, from, length], row);
      batch.rowCount++;
      to += length;
    };
    if (batch.headLength[slot]! > 0) add(batch.scratchAddress + batch.start[slot]!, batch.headLength[slot]!);
    const first = batch.segmentFirst[slot]!;
    for (let s = first; s < first + batch.segmentCount[slot]!; s++)
      add(batch.segmentAddress[s]!, batch.segmentLength[s]!);
    batch.copy();
    return new Uint8Array(out).slice(0, batch.length[slot]!);
  }

  close(): void {
    for (const fd of this.#fds) close(fd);
  }
}

export interface VnetFields {
  flags?: number;
  gsoType?: number;
  gsoSize?: number;
  csumStart?: number;
  csumOffset?: number;
}

/** A virtio-net header of 10 bytes. */
export const vnet = ({ flags = 0, gsoType = 0, gsoSize = 0, csumStart = 0, csumOffset = 0 }: VnetFields = {}) =>
  new Uint8Array(Uint16Array.of(flags | (gsoType << 8), 0, gsoSize, csumStart, csumOffset).buffer);

export const joined = (...parts: Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
