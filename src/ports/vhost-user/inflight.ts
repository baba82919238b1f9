/**
 * INFLIGHT_SHMFD (vhost-user.rst, "Inflight I/O tracking") in the main thread: the area that a front end keeps for the back
 * end while none is there.
 *
 * The area's content is the back end's own affair. What was taken and not given back lies behind the used index, or the place
 * of a packed ring, since buffers go back here in the order in which they came; and what was decided about several rings at
 * once lies in the journal (journal.ts). So no table of descriptors is needed: the area holds a random name for the front
 * end's rings, and the name of the journal that knows it. A back end with another journal gives it another name, after which
 * no row of an old journal can be meant.
 */
import { randomBytes } from 'node:crypto';
import { map, memfd, release } from '#contract/os.ts';
import { layout } from '../layout.ts';
import { checkFiles } from '../memory.ts';

/** Bytes of an area. */
export const AREA_BYTES = 4096;
const AREA = layout('inflight area', 24, {
  magic: 'u32',
  version: 'u32',
  low: 'u32',
  high: 'u32',
  journalLow: 'u32',
  journalHigh: 'u32',
});
const MAGIC = 0x52574946;
const VERSION = 2;

/** Names a front end's rings, or a journal. */
export interface InflightName {
  readonly low: number;
  readonly high: number;
}

export const randomName = (): InflightName => {
  const random = randomBytes(8);
  return { low: random.readUInt32LE(0), high: random.readUInt32LE(4) };
};

/** A new area, of zeros. @returns its descriptor, which is the caller's. */
export const makeArea = (): number => memfd('ringway-inflight', AREA_BYTES, { seal: true });

/**
 * The name in an area that a front end hands over; an area of another kind or another journal, or an empty one, gets a name.
 * @throws RangeError when the file is too short, OsError when it cannot be mapped.
 */
export function nameOf(fd: number, offset: number, size: number, owner: number, journal: InflightName): InflightName {
  if (size < AREA.bytes) throw new RangeError(`an inflight area of ${size} bytes; at least ${AREA.bytes} are needed`);
  checkFiles([{ fd, mmapOffset: offset, size }]);
  const buffer = map(fd, offset, AREA.bytes, { write: true, owner });
  const bytes = new Uint8Array(buffer);
  // One copy: the front end may write there at any time.
  const { magic, version, low, high, journalLow, journalHigh } = AREA.decode(bytes.slice());
  const ours = magic === MAGIC && version === VERSION && journalLow === journal.low && journalHigh === journal.high;
  const name = ours ? { low, high } : randomName();
  if (!ours) {
    bytes.set(
      AREA.encode({ magic: MAGIC, version: VERSION, ...name, journalLow: journal.low, journalHigh: journal.high }),
    );
  }
  release(buffer);
  return name;
}
