/**
 * How much of a packet must be read. The datapath knows, per port, the union of the masks of all its megaflows: words
 * outside it can change no verdict, so their headers are not read.
 *
 * | bit | key words that are written |
 * |---|---|
 * | NEED_ADDRESSES | dl_dst, dl_src |
 * | NEED_TAGS | VLAN words and dl_type; the rest of W_TYPE is 0 |
 * | NEED_NETWORK | W_TYPE whole, words 8..11, and l3/l4 of the batch; implies NEED_TAGS |
 * | NEED_WIDE | words 12..25: IPv6 addresses and label, ND, ARP hardware addresses; implies NEED_NETWORK |
 *
 * Words that are not asked for keep what an earlier packet left in them: read keys through a mask that lies in the union.
 */
import {
  W_DL_DST,
  W_DL_SRC,
  W_IN_PORT,
  W_IPV6_SRC,
  W_NW_SRC,
  W_RECIRC_ID,
  W_TUNNEL,
  W_TYPE,
  W_VLAN,
  W_VLAN_INNER,
} from '#contract/flow-key.ts';

export const NEED_NOTHING = 0;
export const NEED_ADDRESSES = 1;
export const NEED_TAGS = 2;
export const NEED_NETWORK = 4;
export const NEED_WIDE = 8;
export const NEED_ALL = NEED_ADDRESSES | NEED_TAGS | NEED_NETWORK | NEED_WIDE;

/** The need of a union of masks (KEY_WORDS words). */
export function needOf(union: ArrayLike<number>): number {
  let need = NEED_NOTHING;
  for (let word = 0; word < union.length; word++) {
    if (union[word] === 0 || word === W_IN_PORT || word === W_RECIRC_ID || word >= W_TUNNEL) continue;
    if (word >= W_DL_DST && word <= W_DL_SRC) need |= NEED_ADDRESSES;
    else if (word === W_VLAN || word === W_VLAN_INNER) need |= NEED_TAGS;
    else if (word === W_TYPE) need |= (union[word]! & 0xffff) === 0 ? NEED_TAGS : NEED_TAGS | NEED_NETWORK;
    else if (word >= W_NW_SRC && word < W_IPV6_SRC) need |= NEED_TAGS | NEED_NETWORK;
    else need |= NEED_TAGS | NEED_NETWORK | NEED_WIDE;
  }
  return need;
}

/** Which packet words of a union are compared at all: bit w for key word w. */
export function wordsOf(union: ArrayLike<number>): number {
  let words = 0;
  for (let word = 0; word < W_TUNNEL; word++) if (union[word] !== 0) words |= 1 << word;
  return words;
}
