/**
 * The XDP program of a port: hands every frame to the socket of the queue that it came in on; a queue without one leaves its
 * frames to the kernel (bpf_redirect_map with XDP_PASS).
 *
 * Where the driver keeps the VLAN tag of a frame apart (skb->vlan_tci behind veth, a NIC that strips tags), the program asks
 * for it (bpf_xdp_metadata_rx_vlan_tag, Linux 6.8) and puts it back into the frame, so that the switch sees it.
 *
 * Instructions are eight bytes: code, registers (source in the high half), offset s16, immediate s32
 * (Documentation/bpf/standardization/instruction-set.rst).
 */
const ALU64_MOV_IMM = 0xb7;
const ALU64_MOV = 0xbf;
const ALU64_ADD_IMM = 0x07;
const LOAD_IMM64 = 0x18;
const LOAD32 = 0x61;
const LOAD16 = 0x69;
const STORE32 = 0x63;
const STORE16 = 0x6b;
const JNE_IMM = 0x55;
const JGT = 0x2d;
const CALL = 0x85;
const EXIT = 0x95;
const PSEUDO_MAP_FD = 1;
const PSEUDO_KFUNC_CALL = 2;

const BPF_XDP_ADJUST_HEAD = 44;
const BPF_REDIRECT_MAP = 51;
const XDP_PASS = 2;
/** struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, each u32. */
const MD_DATA = 0;
const MD_DATA_END = 4;
const MD_RX_QUEUE = 16;

/** r10 is the frame pointer; -2 holds the tag's protocol (network order), -4 its control information (host order). */
const FRAME = 10;
const TAG_PROTO = -2;
const TAG_TCI = -4;

class Assembler {
  readonly #code: number[][] = [];

  /** @returns number of the instruction. */
  op(code: number, dst = 0, src = 0, offset = 0, imm = 0): number {
    this.#code.push([code, dst, src, offset, imm]);
    return this.#code.length - 1;
  }

  /** Lets a jump go to the next instruction. */
  here(...jumps: number[]): void {
    for (const at of jumps) this.#code[at]![3] = this.#code.length - at - 1;
  }

  bytes(): Uint8Array {
    const bytes = new Uint8Array(this.#code.length * 8);
    const view = new DataView(bytes.buffer);
    this.#code.forEach(([code, dst, src, offset, imm], i) => {
      view.setUint8(i * 8, code!);
      view.setUint8(i * 8 + 1, (src! << 4) | dst!);
      view.setInt16(i * 8 + 2, offset!, true);
      view.setInt32(i * 8 + 4, imm!, true);
    });
    return bytes;
  }
}

/**
 * @param map descriptor of the socket map.
 * @param vlanTag BTF id of bpf_xdp_metadata_rx_vlan_tag, or 0: frames are taken as they are.
 */
export function redirectProgram(map: number, vlanTag: number): Uint8Array {
  const asm = new Assembler();
  asm.op(ALU64_MOV, 6, 1);
  if (vlanTag !== 0) putTagBack(asm, vlanTag);
  asm.op(LOAD32, 2, 6, MD_RX_QUEUE);
  asm.op(LOAD_IMM64, 1, PSEUDO_MAP_FD, 0, map);
  asm.op(0);
  asm.op(ALU64_MOV_IMM, 3, 0, 0, XDP_PASS);
  asm.op(CALL, 0, 0, 0, BPF_REDIRECT_MAP);
  asm.op(EXIT);
  return asm.bytes();
}

function putTagBack(asm: Assembler, vlanTag: number): void {
  asm.op(ALU64_MOV, 1, 6);
  asm.op(ALU64_MOV, 2, FRAME);
  asm.op(ALU64_ADD_IMM, 2, 0, 0, TAG_PROTO);
  asm.op(ALU64_MOV, 3, FRAME);
  asm.op(ALU64_ADD_IMM, 3, 0, 0, TAG_TCI);
  asm.op(CALL, 0, PSEUDO_KFUNC_CALL, 0, vlanTag);
  const untagged = asm.op(JNE_IMM, 0, 0, 0, 0);
  asm.op(ALU64_MOV, 1, 6);
  asm.op(ALU64_MOV_IMM, 2, 0, 0, -4);
  asm.op(CALL, 0, 0, 0, BPF_XDP_ADJUST_HEAD);
  const noRoom = asm.op(JNE_IMM, 0, 0, 0, 0);
  asm.op(LOAD32, 1, 6, MD_DATA);
  asm.op(LOAD32, 2, 6, MD_DATA_END);
  asm.op(ALU64_MOV, 3, 1);
  asm.op(ALU64_ADD_IMM, 3, 0, 0, 18);
  const short = asm.op(JGT, 3, 2);
  for (let at = 0; at < 12; at += 4) {
    asm.op(LOAD32, 4, 1, at + 4);
    asm.op(STORE32, 1, 4, at);
  }
  asm.op(LOAD16, 4, FRAME, TAG_PROTO);
  asm.op(STORE16, 1, 4, 12);
  asm.op(LOAD16, 4, FRAME, TAG_TCI);
  // To network order: BPF_END | BPF_TO_BE, 16 bits.
  asm.op(0xdc, 4, 0, 0, 16);
  asm.op(STORE16, 1, 4, 14);
  asm.here(untagged, noRoom, short);
}
