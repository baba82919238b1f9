/**
 * Where frames land that the kernel hands out one by one: the window of frame i in slot i of the worker's scratch, the rest in
 * memory of its own. One per worker, since a burst is over before the next queue is read.
 */
import { address, mapAnonymous } from '#contract/os.ts';
import { BURST, HEADROOM, MAX_FRAME, type PacketBatch, SLOT_BYTES, WINDOW } from '#datapath/packet/batch.ts';
import { VNET_HEADER } from './rx-slot.ts';

/** Room for the rest of one frame, whole pages. */
const REST_BYTES = (MAX_FRAME + 4096) & ~4095;

export interface Landing {
  /** Per frame two pieces of address and length: header and window, rest. */
  readonly pieces: Float64Array;
  readonly lengths: Int32Array;
  /** Absolute address of the rest of frame 0; that of frame i is `i * restBytes` further. */
  readonly rest: number;
  readonly restBytes: number;
  /** Keeps the memory. */
  readonly memory: ArrayBuffer;
}

const landings = new WeakMap<PacketBatch, Landing>();

export function landingOf(batch: PacketBatch): Landing {
  const known = landings.get(batch);
  if (known) return known;
  const memory = mapAnonymous(BURST * REST_BYTES);
  const rest = address(memory);
  const pieces = new Float64Array(BURST * 4);
  for (let i = 0; i < BURST; i++) {
    pieces[4 * i] = batch.scratchAddress + i * SLOT_BYTES + HEADROOM - VNET_HEADER;
    pieces[4 * i + 1] = VNET_HEADER + WINDOW;
    pieces[4 * i + 2] = rest + i * REST_BYTES;
    pieces[4 * i + 3] = REST_BYTES;
  }
  const landing = { pieces, lengths: new Int32Array(BURST), rest, restBytes: REST_BYTES, memory };
  landings.set(batch, landing);
  return landing;
}
