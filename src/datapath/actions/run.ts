// hot
/**
 * Runs an action program on one packet (contract/actions.ts). Outputs collect slot numbers; nothing is sent here.
 * An edit after an output works on a copy: what was output keeps its bytes. So does what follows an encapsulation, whose
 * result refers to the bytes of the packet inside.
 */
import * as action from '#contract/actions.ts';
import { dropReason } from '#contract/catalogue.ts';
import { ETH_IPV4, ETH_IPV6, KEY_WORDS, W_TYPE } from '#contract/flow-key.ts';
import type { Outputs } from '../outputs.ts';
import type { PacketBatch } from '../packet/batch.ts';
import type { Tunnels } from '../tunnel/tunnels.ts';
import { delta16, updateChecksum } from './checksum.ts';
import { clonePacket } from './clone.ts';
import { setField } from './set-field.ts';
import { popVlan, pushVlan } from './vlan.ts';

const OUTPUT = action.ACTION_OUTPUT;
const DROP = action.ACTION_DROP;
const SET = action.ACTION_SET;
const PUSH_VLAN = action.ACTION_PUSH_VLAN;
const POP_VLAN = action.ACTION_POP_VLAN;
const DEC_TTL = action.ACTION_DEC_TTL;
const CLONE = action.ACTION_CLONE;
const TNL_PUSH = action.ACTION_TNL_PUSH;
const TNL_POP = action.ACTION_TNL_POP;
const IPV4 = ETH_IPV4;
const IPV6 = ETH_IPV6;
const KEY_ROW = KEY_WORDS;
const TYPE = W_TYPE;
const clone = clonePacket;
const set = setField;
const push = pushVlan;
const pop = popVlan;
const FLOW_DROP = dropReason('flow_drop');
const CLONE_EXHAUSTED = dropReason('clone_exhausted');
const TTL_EXCEEDED = dropReason('ttl_exceeded');
const TRANSLATION_ERROR = dropReason('translation_error');

/** @returns false when the packet's TTL or hop limit runs out. */
const decTtl = (batch: PacketBatch, slot: number): boolean => {
  const l3 = batch.l3[slot]!;
  const type = batch.keys[slot * KEY_ROW + TYPE]! >>> 16;
  if (l3 === 0 || (type !== IPV4 && type !== IPV6)) return true;
  const view = batch.view;
  const ip = batch.start[slot]! + l3;
  const at = type === IPV4 ? ip + 8 : ip + 7;
  const ttl = view.getUint8(at);
  if (ttl <= 1) return false;
  if (type === IPV4) {
    const before = view.getUint16(at);
    updateChecksum(view, ip + 10, delta16(before, before - 0x100));
  }
  view.setUint8(at, ttl - 1);
  return true;
};

/**
 * Runs words[from .. to - 1]. Edits need l3, l4 and W_TYPE of the packet.
 * @returns 0, or the drop reason to count: once per packet, whatever was output before it.
 */
export const runProgram = (
  batch: PacketBatch,
  slot: number,
  words: Uint32Array,
  from: number,
  to: number,
  outputs: Outputs,
  tunnels: Tunnels,
): number => {
  let sent = false;
  let shared = false;
  let current = slot;
  for (let at = from; at < to; ) {
    const head = words[at]!;
    const op = head >>> 16;
    if (op === OUTPUT) {
      outputs.add(words[at + 1]!, current);
      shared = true;
      sent = true;
    } else if (op === DROP) {
      return words[at + 1]!;
    } else if (op === CLONE) {
      const next = at + 2 + words[at + 1]!;
      const reason = runClone(
        batch,
        current,
        words,
        at + 2,
        Math.min(next, to),
        next >= to && !shared,
        outputs,
        tunnels,
      );
      if (reason !== 0 && reason !== FLOW_DROP) return reason;
      shared = true;
      sent = true;
      at = next;
      continue;
    } else if (op === TNL_PUSH) {
      return tunnels.push(current, words, at, to, outputs);
    } else if (op === TNL_POP) {
      let popped = current;
      if (shared || at + 3 < to) popped = clone(batch, current);
      if (popped < 0) return CLONE_EXHAUSTED;
      const reason = tunnels.pop(popped, words[at + 1]!, words[at + 2]!);
      if (reason !== 0) return reason;
      sent = true;
    } else {
      if (shared) {
        current = clone(batch, current);
        if (current < 0) return CLONE_EXHAUSTED;
        shared = false;
      }
      batch.edited[current] = 1;
      // | 0: a number of 2^31 or more would be boxed for the call.
      if (op === SET) set(batch, current, words[at + 1]!, words[at + 2]! | 0, words[at + 3]! | 0);
      else if (op === PUSH_VLAN) {
        if (!push(batch, current, words[at + 1]! | 0)) return TRANSLATION_ERROR;
      } else if (op === POP_VLAN) pop(batch, current);
      else if (op === DEC_TTL && !decTtl(batch, current)) return TTL_EXCEEDED;
    }
    at += head & 0xffff;
  }
  return sent ? 0 : FLOW_DROP;
};

/** The part of a CLONE; `last`: the packet is wanted by nobody after it. */
const runClone = (
  batch: PacketBatch,
  slot: number,
  words: Uint32Array,
  from: number,
  to: number,
  last: boolean,
  outputs: Outputs,
  tunnels: Tunnels,
): number => {
  // An encapsulation leaves the packet as it is.
  const copy = last || words[from]! >>> 16 === TNL_PUSH ? slot : clone(batch, slot);
  return copy < 0 ? CLONE_EXHAUSTED : runProgram(batch, copy, words, from, to, outputs, tunnels);
};
