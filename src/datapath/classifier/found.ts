/**
 * What classification found for the packets of a burst, by the slot of their run's leader. One set per thread: V8 folds address and length of a
 * module's constant typed array into the code, where those of an object's field are loaded and checked at every access.
 */
import { BURST } from '../packet/batch.ts';

/** Flow id, or -1. */
export const foundId = new Int32Array(BURST);
/** Verdict of that flow (actions/program.ts). */
export const foundVerdict = new Int32Array(BURST);
/** Packets, and TCP flags of all but the leader, of the run that a slot leads; its bytes are batch.runBytes (parse/runs.ts). */
export const runPackets = new Int32Array(BURST);
export const runFlags = new Int32Array(BURST);
/** Leaders of runs without a result, in order. */
export const pendingSlots = new Int32Array(BURST);
