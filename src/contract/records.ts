/**
 * Records of the lane rings, in 32-bit words. Word 0 is the record's length in bytes (a multiple of 8), word 1 its kind.
 * PAD fills the end of a ring where the next record would not fit in one piece.
 */
import { KEY_WORDS } from './flow-key.ts';

export const RECORD_PAD = 0;

/**
 * UPCALL (worker → control plane): a packet that no megaflow matched.
 * Words: 2 sequence, 3 in_port, 4 frame length in bytes, 5 virtio-net flags | gso_type << 8 | gso_size << 16,
 * 6 hdr_len | csum_start << 16, 7 csum_offset, 8.. key (KEY_WORDS), then the frame's bytes.
 */
export const RECORD_UPCALL = 1;
export const UPCALL_SEQ = 2;
export const UPCALL_IN_PORT = 3;
export const UPCALL_LENGTH = 4;
export const UPCALL_VNET = 5;
export const UPCALL_KEY = 8;
export const UPCALL_FRAME = UPCALL_KEY + KEY_WORDS;

/**
 * FLOW_PUT (control plane → worker): install or replace a megaflow.
 * Words: 2 flow id, 3 n = masked words, 4 m = action words, then n triples (key word index, value, mask), then the program.
 * The mask always covers in_port wholly. Values lie within their masks.
 */
export const RECORD_FLOW_PUT = 2;
/** FLOW_DELETE (control plane → worker). Words: 2 flow id. */
export const RECORD_FLOW_DELETE = 3;
/** FLOW_FLUSH (control plane → worker): delete all megaflows. */
export const RECORD_FLOW_FLUSH = 4;
/**
 * REPLY (control plane → worker): run this program on the packet of the oldest unanswered upcall.
 * Words: 2 sequence, 3 m = action words, 4.. program. m = 0xffffffff: the packet is dropped, reason `upcall_unanswered`.
 */
export const RECORD_REPLY = 5;
/**
 * EXECUTE (control plane → worker): run a program on a packet given here (packet-out).
 * Words: 2 in_port, 3 frame length, 4 m = action words, 5 zero, 6.. program, then the frame's bytes.
 */
export const RECORD_EXECUTE = 6;
/** BARRIER (control plane → worker): publish word 2 in H_BARRIER when all before it is done. */
export const RECORD_BARRIER = 7;
