/** A sender, receivers, and a data plane between them that may die in front of any store to their rings or to its journal. */
import { join } from 'node:path';
import { PORT_ROW } from '#contract/catalogue.ts';
import type { Lane } from '#contract/lane.ts';
import { LaneClient } from '#contract/lane-client.ts';
import { close, map, release } from '#contract/os.ts';
import { Outputs } from '#datapath/outputs.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import type { Pipeline } from '#datapath/pipeline.ts';
import { Commands } from '#pmd/commands.ts';
import { redoEnds } from '#pmd/left-lanes.ts';
import { UpcallPath } from '#pmd/upcall.ts';
import { ChainWalker } from '#ports/vhost-user/chain.ts';
import { PackedChainWalker } from '#ports/vhost-user/chain-packed.ts';
import { GuestMemory } from '#ports/vhost-user/guest-memory.ts';
import { type InflightName, makeArea, nameOf } from '#ports/vhost-user/inflight.ts';
import { CARRIED_SECTIONS, SECTION_WORDS, WorkerJournal } from '#ports/vhost-user/journal.ts';
import { Journal } from '#ports/vhost-user/journal-file.ts';
import { Ring, startPlace } from '#ports/vhost-user/ring.ts';
import { VhostRxQueue } from '#ports/vhost-user/rx.ts';
import { PackedRxQueue } from '#ports/vhost-user/rx-packed.ts';
import { VhostTxQueue } from '#ports/vhost-user/tx.ts';
import { PackedTxQueue } from '#ports/vhost-user/tx-packed.ts';
import { STATE_CURSOR, STATE_WORDS, Vring } from '#ports/vhost-user/vring.ts';
import { PackedVring } from '#ports/vhost-user/vring-packed.ts';
import { removeScratchDir, scratchDir } from '../../support/process.ts';
import { makeLane } from '../../support/worker-rig.ts';
import { Driver, type DriverOptions, type Shape } from './driver.ts';
import { watched } from './stores.ts';

export interface Plan {
  /** The sender first. */
  readonly guests: readonly {
    readonly packed: boolean;
    readonly size: number;
    readonly startAt: number;
    readonly shared: boolean;
  }[];
  readonly frames: readonly { readonly bytes: number; readonly shape: Shape }[];
  readonly buffer: { readonly bytes: number; readonly shape: Shape };
  /** Frames of a burst after which what waits is sent, as a burst with many copies does. */
  readonly part: number;
  /** Every second frame has no flow, and goes by way of the control plane. */
  readonly upcalls?: boolean;
}

const batch = new PacketBatch();
const NO_ACTIONS = new Uint32Array(0);
const counters = { slots: new Float64Array(PORT_ROW * 8), base: 0 };

class Guest {
  readonly driver: Driver;
  readonly area: number;
  readonly portNo: number;
  readonly shared: boolean;
  memory: GuestMemory | undefined;
  rx: VhostRxQueue | PackedRxQueue | undefined;
  tx: VhostTxQueue | PackedTxQueue | undefined;

  constructor(portNo: number, plan: Plan['guests'][number]) {
    const options: DriverOptions = { size: plan.size, packed: plan.packed, bytes: 1 << 21, tx: { mergeable: true } };
    this.driver = new Driver(portNo, options);
    this.driver.startAt(plan.startAt);
    this.area = makeArea();
    this.portNo = portNo;
    this.shared = plan.shared;
  }

  get packed(): boolean {
    return this.driver.attachment.packed;
  }

  /** Takes the rings over as they are found, with a state of its own. */
  attach(file: Journal, journal: WorkerJournal): void {
    const { regions, rings, rx, tx } = this.driver.attachment;
    const memory = new GuestMemory(regions, this.portNo);
    this.memory = memory;
    const name: InflightName = nameOf(this.area, 0, 4096, this.portNo, file.name);
    const state = new SharedArrayBuffer(STATE_WORDS * 8);
    const words = new Int32Array(state);
    for (const place of rings) {
      const at = startPlace(new Ring(place.index), place, memory.buffers, this.packed, { file, name });
      words[place.index * STATE_WORDS + STATE_CURSOR] = at.place;
    }
    const [receive, transmit] = rings as [(typeof rings)[0], (typeof rings)[0]];
    const packed = (place: typeof receive): PackedVring => {
      const vring = new PackedVring(place, memory.buffers, state);
      return Object.assign(vring, { desc: watched(vring.desc) });
    };
    const split = (place: typeof receive): Vring => {
      const vring = new Vring(place, memory.buffers, state);
      return Object.assign(vring, { used: watched(vring.used), used16: watched(vring.used16) });
    };
    const no = this.portNo;
    if (this.packed) {
      const walker = new PackedChainWalker(memory);
      this.rx = new PackedRxQueue(no, 0, packed(transmit), walker, counters, rx);
      this.tx = new PackedTxQueue(no, 0, this.shared, packed(receive), walker, counters, tx);
    } else {
      const walker = new ChainWalker(memory);
      this.rx = new VhostRxQueue(no, 0, split(transmit), walker, counters, rx);
      this.tx = new VhostTxQueue(no, 0, this.shared, split(receive), walker, counters, tx);
    }
    this.tx.journaled = true;
    const row = (ring: number): Int32Array => words.subarray(ring * STATE_WORDS, (ring + 1) * STATE_WORDS);
    journal.add({ ...name, ring: 0, state: row(0), queue: this.tx });
    journal.add({ ...name, ring: 1, state: row(1), queue: this.rx });
  }

  detach(): void {
    this.tx?.close();
    this.memory?.close();
    this.memory = undefined;
    this.tx = undefined;
  }

  close(): void {
    this.detach();
    this.driver.close();
    close(this.area);
  }
}

export class CrashRig {
  readonly guests: readonly Guest[];
  readonly #dir = scratchDir('rwc');
  readonly #part: number;
  readonly #files: Journal[] = [];
  /** The way by the control plane; the lane outlives the data plane. */
  readonly #upcalls: boolean;
  #lane: Lane | undefined;
  #client: LaneClient | undefined;
  #path: UpcallPath | undefined;
  /** Packets that the control plane's way has lost. */
  lost = 0;

  constructor(plan: Plan) {
    this.#upcalls = plan.upcalls ?? false;
    this.guests = plan.guests.map((guest, i) => new Guest(i + 1, guest));
    this.#part = plan.part;
    plan.frames.forEach(({ bytes, shape }, i) => {
      const frame = Buffer.alloc(bytes, i);
      frame.writeUInt32BE(i);
      if (!this.#sender.driver.send(frame, shape)) throw new Error('the sender has no room for the frames of the plan');
    });
    for (const { driver } of this.#receivers) while (driver.post(plan.buffer.bytes, plan.buffer.shape));
  }

  get #sender(): Guest {
    return this.guests[0]!;
  }

  get #receivers(): readonly Guest[] {
    return this.guests.slice(1);
  }

  /** A data plane starts and takes over what it finds. What was left of the one before is gone. */
  start(): void {
    this.end();
    const file = new Journal(join(this.#dir, 'journal'));
    this.#files.push(file);
    const bytes = SECTION_WORDS * 4;
    const words = new Int32Array(map(file.fd, CARRIED_SECTIONS * bytes, bytes, { write: true, owner: 0 }));
    this.#words = words;
    if (this.#upcalls) this.#takeLane(file);
    const journal = new WorkerJournal(watched(words), this.#path);
    for (const guest of this.guests) guest.attach(file, journal);
    batch.journal = journal;
  }
  #words: Int32Array | undefined;

  #takeLane(file: Journal): void {
    const left = this.#lane;
    if (left) redoEnds(left, file);
    const { lane, laneFd, wakeFd } = makeLane();
    this.#lane = lane;
    this.#client = new LaneClient(laneFd, wakeFd);
    this.#path = new UpcallPath(Object.assign(Object.create(lane), { header: watched(lane.header) }) as Lane);
    this.#path.attach(0);
    if (!left) return;
    this.#path.inherit(left, () => this.lost++);
    release(left.buffer);
  }

  /** Forwards until nothing is left. */
  forward(): void {
    const ports = new Map(this.guests.map((guest) => [guest.portNo, guest.tx!]));
    const lookup = { txQueue: (portNo: number) => ports.get(portNo), hasPort: () => true };
    const outputs = new Outputs(batch, lookup, counters.slots, new Float64Array(64));
    const rx = this.#sender.rx!;
    const flush = (): void => {
      outputs.transmit();
      batch.journal!.done();
      outputs.release();
      batch.clear();
    };
    const toAll = (slot: number): void => {
      for (const { portNo } of this.#receivers) outputs.add(portNo, slot);
    };
    const answer = (): void => {
      const client = this.#client;
      if (!client) return;
      const pipeline = { execute: toAll, flush, unanswered: () => this.lost++ } as unknown as Pipeline;
      const commands = new Commands(this.#lane!, batch, pipeline, this.#path!);
      for (let upcall = client.next(); upcall; upcall = client.next()) client.reply(upcall.seq, NO_ACTIONS);
      client.release();
      client.flush();
      commands.run();
    };
    answer();
    for (let n = rx.poll(batch); n > 0; n = rx.poll(batch)) {
      for (let slot = 0; slot < n; slot++) {
        if (!this.#path || slot % 2 === 0) toAll(slot);
        else if (this.#path.miss(batch, slot) !== 0) this.lost++;
        if ((slot + 1) % this.#part === 0) outputs.part();
      }
      outputs.transmit();
      rx.complete();
      batch.journal!.done();
      outputs.release();
      batch.clear();
      this.#path?.flush();
      answer();
    }
  }

  /** What each receiver got since it was last asked, and how many chains the sender got back. */
  received(): { frames: (readonly { number: number; intact: boolean; bytes: number }[])[]; returned: number } {
    const frames = this.#receivers.map(({ driver }) =>
      driver.receive().map(({ frame }) => ({
        number: frame.readUInt32BE(),
        intact: frame.subarray(4).every((byte) => byte === (frame.readUInt32BE() & 0xff)),
        bytes: frame.length,
      })),
    );
    return { frames, returned: this.#sender.driver.txRing.takeUsed().length };
  }

  /** The data plane is gone, with all that lay in its own memory. */
  end(): void {
    batch.journal = undefined;
    batch.rowCount = 0;
    batch.clear();
    this.#client?.close();
    this.#client = undefined;
    this.#path = undefined;
    for (const guest of this.guests) guest.detach();
    if (this.#words) release(this.#words.buffer as ArrayBuffer);
    this.#words = undefined;
    for (const file of this.#files.splice(0)) file.close();
  }

  close(): void {
    this.end();
    if (this.#lane) release(this.#lane.buffer);
    for (const guest of this.guests) guest.close();
    removeScratchDir(this.#dir);
  }
}
