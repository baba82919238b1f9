/**
 * A path-compressed binary trie of the prefixes that rules of a table use on one 32-bit key word.
 *
 * It answers two questions about a packet's word: which prefix lengths have an entry that covers it, and how many leading
 * bits had to be seen to know that. A subtable whose prefix length is not among the first needs no search, and a megaflow
 * then has to match those leading bits only, not the whole prefix. (The idea is that of the classifier of Open vSwitch:
 * lib/classifier.h, "Prefix Tracking".)
 *
 * Invariants: a node stands for the first `length` bits of `bits`; below it the next bit selects the child; every node but
 * the root has entries of its own (`count`) or two children.
 */
interface Node {
  bits: number;
  length: number;
  count: number;
  zero: Node | undefined;
  one: Node | undefined;
}

const prefixMask = (length: number): number => (length === 0 ? 0 : (-1 << (32 - length)) | 0);

const bitAt = (bits: number, at: number): number => (bits >>> (31 - at)) & 1;

const newNode = (bits: number, length: number, count: number): Node => ({
  bits: bits & prefixMask(length),
  length,
  count,
  zero: undefined,
  one: undefined,
});

const setChild = (node: Node, bit: number, child: Node | undefined): void => {
  if (bit === 0) node.zero = child;
  else node.one = child;
};

/** Length of a mask that is a prefix of a 32-bit word: 1..32; 0 for an empty mask; -1 for any other. */
export function prefixLength(mask: number): number {
  const length = Math.clz32(~mask);
  return (mask | 0) === prefixMask(length) ? length : -1;
}

export class PrefixTrie {
  readonly #root: Node = newNode(0, 0, 0);
  /** Of the last `lookup`: bit n-1 is set when an entry of length n covers the value. */
  lengths = 0;
  /** Of the last `lookup`: leading bits that decided it, 0..32. */
  examined = 0;

  /** @param length 1..32 */
  insert(value: number, length: number): void {
    let node = this.#root;
    for (;;) {
      if (node.length === length) {
        node.count++;
        return;
      }
      const bit = bitAt(value, node.length);
      const child = bit === 0 ? node.zero : node.one;
      if (child === undefined) {
        setChild(node, bit, newNode(value, length, 1));
        return;
      }
      const common = Math.min(Math.clz32(value ^ child.bits), child.length, length);
      if (common === child.length) {
        node = child;
        continue;
      }
      const fork = newNode(value, common, 0);
      setChild(node, bit, fork);
      setChild(fork, bitAt(child.bits, common), child);
      node = fork;
    }
  }

  /** Takes back one `insert` of the same prefix. */
  remove(value: number, length: number): void {
    let parent: Node | undefined;
    let node = this.#root;
    let grand: Node | undefined;
    while (node.length < length) {
      grand = parent;
      parent = node;
      const child = bitAt(value, node.length) === 0 ? node.zero : node.one;
      if (child === undefined) return;
      node = child;
    }
    if (node.length !== length || node.bits !== (value & prefixMask(length)) || node.count === 0) return;
    node.count--;
    if (parent === undefined || node.count > 0) return;
    if (node.zero !== undefined && node.one !== undefined) return;
    setChild(parent, bitAt(node.bits, parent.length), node.zero ?? node.one);
    if (grand === undefined || parent.count > 0) return;
    if (parent.zero !== undefined && parent.one !== undefined) return;
    setChild(grand, bitAt(parent.bits, grand.length), parent.zero ?? parent.one);
  }

  /** Fills `lengths` and `examined` for a packet's word. */
  lookup(value: number): void {
    let lengths = 0;
    let node = this.#root;
    for (;;) {
      if (node.zero === undefined && node.one === undefined) {
        this.examined = node.length;
        break;
      }
      const child = bitAt(value, node.length) === 0 ? node.zero : node.one;
      if (child === undefined) {
        this.examined = node.length + 1;
        break;
      }
      const common = Math.clz32(value ^ child.bits);
      if (common < child.length) {
        this.examined = common + 1;
        break;
      }
      if (child.count > 0) lengths |= 1 << (child.length - 1);
      node = child;
    }
    this.lengths = lengths;
  }
}
