/** A worker without its thread: lane, pipeline, upcalls and commands, with the control plane's end of the same lane. */

import { DROP_BASE, type DropReason, dropReason, PORT_ROW } from '#contract/catalogue.ts';
import { H_MAGIC, H_NAME, H_VERSION, LANE_BYTES, LANE_MAGIC, LANE_VERSION, Lane } from '#contract/lane.ts';
import { LaneClient } from '#contract/lane-client.ts';
import { dup, eventfd, map, memfd } from '#contract/os.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import { Pipeline } from '#datapath/pipeline.ts';
import { Commands } from '#pmd/commands.ts';
import { UpcallPath } from '#pmd/upcall.ts';
import { SoftwareOffload } from '#ports/frame/offload.ts';
import { MemoryRx, MemoryTx, type Sent } from './datapath-rig.ts';

/** A lane as the data process makes it. @returns its memory and the descriptors a control plane gets. */
export function makeLane(): { lane: Lane; laneFd: number; wakeFd: number } {
  const laneFd = memfd('lane', LANE_BYTES, { seal: true });
  const lane = new Lane(map(laneFd, 0, LANE_BYTES, { write: true, owner: 0 }));
  lane.header[H_MAGIC] = LANE_MAGIC;
  lane.header[H_VERSION] = LANE_VERSION;
  lane.header[H_NAME] = laneFd;
  return { lane, laneFd, wakeFd: eventfd() };
}

export class WorkerRig {
  readonly lane: Lane;
  readonly client: LaneClient;
  readonly wakeFd: number;
  readonly doorbell = eventfd();
  readonly batch = new PacketBatch();
  readonly sent: Sent[] = [];
  readonly upcalls: UpcallPath;
  readonly commands: Commands;
  readonly pipeline: Pipeline;
  readonly rx: MemoryRx;

  /** @param ports that exist, with a queue each; frames come in at the first. */
  constructor(ports: readonly number[] = [1, 2]) {
    const { lane, laneFd, wakeFd } = makeLane();
    this.lane = lane;
    this.wakeFd = dup(wakeFd);
    this.client = new LaneClient(laneFd, wakeFd);
    const tx = new Map(ports.map((port) => [port, new MemoryTx(port, this.sent)]));
    this.rx = new MemoryRx(ports[0]!);
    this.upcalls = new UpcallPath(lane);
    this.pipeline = new Pipeline({
      batch: this.batch,
      lane,
      clock: new Float64Array([1000]),
      onMiss: (batch, slot) => this.upcalls.miss(batch, slot),
      txQueue: (port) => tx.get(port),
      finisher: new SoftwareOffload(),
      hasPort: (port) => tx.has(port),
    });
    this.commands = new Commands(lane, this.batch, this.pipeline, this.upcalls);
    this.upcalls.attach(this.doorbell);
  }

  /** Frames come in, a burst at a time. */
  receive(...frames: Uint8Array[]): void {
    this.rx.waiting.push(...frames.map((frame) => ({ frame })));
    while (this.rx.waiting.length > 0) {
      this.pipeline.run(this.rx);
      this.upcalls.flush();
    }
  }

  /** What the client wrote is shown to the worker and carried out. */
  obey(): void {
    this.client.flush();
    this.commands.run();
  }

  drops(port: number, reason: DropReason): number {
    return this.lane.ports[port * PORT_ROW + DROP_BASE + dropReason(reason)]!;
  }
}
