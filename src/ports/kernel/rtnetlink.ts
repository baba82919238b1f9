/**
 * rtnetlink messages (rtnetlink(7), linux/if_link.h, linux/if_addr.h): written and read, as bytes. Numbers are in the
 * machine's own order, little-endian here.
 *
 * A message is a header of 16 bytes (length, type, flags, sequence number, port), a fixed part, and attributes of length,
 * type and value, each padded to 4 bytes.
 */

export const NETLINK_ROUTE = 0;
/** Group bit of link changes. */
export const GROUP_LINK = 1;

const HEADER = 16;
const LINK_FIXED = 16;

const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
export const RTM_NEWLINK = 16;
export const RTM_DELLINK = 17;
const RTM_GETLINK = 18;
const RTM_NEWADDR = 20;

const REQUEST = 1;
const ACK = 4;
const DUMP = 0x300;
const REPLACE_OR_CREATE = 0x500;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_OPERSTATE = 16;
const IFLA_LINKINFO = 18;
const IFLA_NUM_TX_QUEUES = 31;
const IFLA_NUM_RX_QUEUES = 32;
const IFLA_INFO_KIND = 1;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_FLAGS = 8;
/** No duplicate address detection: the address is usable at once. */
const IFA_F_NODAD = 2;

export const IFF_UP = 1;
export const IFF_RUNNING = 0x40;

/** RFC 2863 names of IF_OPER_*. */
const OPERSTATES = ['unknown', 'notpresent', 'down', 'lowerlayerdown', 'testing', 'dormant', 'up'];

/** A network interface. */
export interface Link {
  readonly ifindex: number;
  readonly name: string;
  readonly mac: string;
  readonly mtu: number;
  /** Administratively up. */
  readonly up: boolean;
  /** It has a carrier. */
  readonly running: boolean;
  readonly operstate: string;
  /** `veth`, `tun`, `bridge`, …; empty for hardware. */
  readonly kind: string;
  readonly rxQueues: number;
  readonly txQueues: number;
}

export interface NetlinkMessage {
  readonly type: number;
  readonly seq: number;
  readonly body: Uint8Array;
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** The messages in a datagram; one whose length makes no sense ends it. */
export function* messagesOf(bytes: Uint8Array): Generator<NetlinkMessage> {
  const view = viewOf(bytes);
  for (let at = 0; at + HEADER <= bytes.length; ) {
    const length = view.getUint32(at, true);
    if (length < HEADER || at + length > bytes.length) return;
    yield {
      type: view.getUint16(at + 4, true),
      seq: view.getUint32(at + 8, true),
      body: bytes.subarray(at + HEADER, at + length),
    };
    at += (length + 3) & ~3;
  }
}

/** @returns undefined while more is to come; 0 at the end of an answer that went well, else its errno. */
export function resultOf({ type, body }: NetlinkMessage): number | undefined {
  if (type === NLMSG_DONE) return 0;
  if (type !== NLMSG_ERROR) return undefined;
  return body.length < 4 ? 0 : -viewOf(body).getInt32(0, true);
}

function* attributesOf(bytes: Uint8Array): Generator<[number, Uint8Array]> {
  const view = viewOf(bytes);
  for (let at = 0; at + 4 <= bytes.length; ) {
    const length = view.getUint16(at, true);
    if (length < 4 || at + length > bytes.length) return;
    yield [view.getUint16(at + 2, true) & 0x3fff, bytes.subarray(at + 4, at + length)];
    at += (length + 3) & ~3;
  }
}

const textOf = (value: Uint8Array): string => {
  const end = value.indexOf(0);
  return new TextDecoder().decode(end < 0 ? value : value.subarray(0, end));
};

const u32Of = (value: Uint8Array): number => (value.length < 4 ? 0 : viewOf(value).getUint32(0, true));

/** The interface that an RTM_NEWLINK or RTM_DELLINK message speaks of; undefined when it is too short for one. */
export function decodeLink(body: Uint8Array): Link | undefined {
  if (body.length < LINK_FIXED) return undefined;
  const view = viewOf(body);
  // A change of a bridge's port (AF_BRIDGE) says less than there is to say.
  if (body[0] !== 0) return undefined;
  const flags = view.getUint32(8, true);
  let [name, mac, mtu, operstate, kind, rxQueues, txQueues] = ['', '', 0, 0, '', 1, 1];
  for (const [type, value] of attributesOf(body.subarray(LINK_FIXED))) {
    if (type === IFLA_IFNAME) name = textOf(value);
    else if (type === IFLA_ADDRESS) mac = Array.from(value, (byte) => byte.toString(16).padStart(2, '0')).join(':');
    else if (type === IFLA_MTU) mtu = u32Of(value);
    else if (type === IFLA_OPERSTATE) operstate = value[0] ?? 0;
    else if (type === IFLA_NUM_RX_QUEUES) rxQueues = u32Of(value);
    else if (type === IFLA_NUM_TX_QUEUES) txQueues = u32Of(value);
    else if (type === IFLA_LINKINFO)
      for (const [inner, text] of attributesOf(value)) if (inner === IFLA_INFO_KIND) kind = textOf(text);
  }
  return {
    ifindex: view.getInt32(4, true),
    name,
    mac,
    mtu,
    up: (flags & IFF_UP) !== 0,
    running: (flags & IFF_RUNNING) !== 0,
    operstate: OPERSTATES[operstate] ?? 'unknown',
    kind,
    rxQueues,
    txQueues,
  };
}

function encode(type: number, flags: number, seq: number, fixed: Uint8Array, attributes: [number, Uint8Array][]) {
  const length = attributes.reduce((sum, [, value]) => sum + ((4 + value.length + 3) & ~3), HEADER + fixed.length);
  const bytes = new Uint8Array(length);
  const view = viewOf(bytes);
  view.setUint32(0, length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, flags | REQUEST, true);
  view.setUint32(8, seq, true);
  bytes.set(fixed, HEADER);
  let at = HEADER + fixed.length;
  for (const [kind, value] of attributes) {
    view.setUint16(at, 4 + value.length, true);
    view.setUint16(at + 2, kind, true);
    bytes.set(value, at + 4);
    at += (4 + value.length + 3) & ~3;
  }
  return bytes;
}

function linkFixed(ifindex: number, flags: number, change: number): Uint8Array {
  const fixed = new Uint8Array(LINK_FIXED);
  const view = viewOf(fixed);
  view.setInt32(4, ifindex, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, change, true);
  return fixed;
}

const u32Bytes = (value: number): Uint8Array => {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
};

/** Asks for all interfaces. */
export const encodeLinkDump = (seq: number): Uint8Array => encode(RTM_GETLINK, DUMP, seq, linkFixed(0, 0, 0), []);

/** Asks for the interface of a name. */
export const encodeLinkGet = (seq: number, name: string): Uint8Array =>
  encode(RTM_GETLINK, 0, seq, linkFixed(0, 0, 0), [[IFLA_IFNAME, new TextEncoder().encode(`${name}\0`)]]);

export interface LinkChange {
  readonly up?: boolean;
  readonly mtu?: number;
  /** `02:00:00:00:00:01` */
  readonly mac?: string;
}

/** Changes an interface, acknowledged. */
export function encodeLinkSet(seq: number, ifindex: number, change: LinkChange): Uint8Array {
  const attributes: [number, Uint8Array][] = [];
  if (change.mtu !== undefined) attributes.push([IFLA_MTU, u32Bytes(change.mtu)]);
  if (change.mac !== undefined)
    attributes.push([IFLA_ADDRESS, Uint8Array.from(change.mac.split(':'), (part) => Number.parseInt(part, 16))]);
  const fixed = linkFixed(ifindex, change.up ? IFF_UP : 0, change.up === undefined ? 0 : IFF_UP);
  return encode(RTM_NEWLINK, ACK, seq, fixed, attributes);
}

/** An IP address with its prefix length. */
export interface Cidr {
  /** 4 or 16 bytes. */
  readonly address: Uint8Array;
  readonly prefix: number;
}

/** Gives an interface an address, acknowledged; one that it has already stays. */
export function encodeAddressAdd(seq: number, ifindex: number, { address, prefix }: Cidr): Uint8Array {
  const fixed = new Uint8Array(8);
  // AF_INET and AF_INET6.
  fixed[0] = address.length === 4 ? 2 : 10;
  fixed[1] = prefix;
  viewOf(fixed).setUint32(4, ifindex, true);
  const attributes: [number, Uint8Array][] = [
    [IFA_LOCAL, address],
    [IFA_ADDRESS, address],
  ];
  if (address.length === 16) attributes.push([IFA_FLAGS, u32Bytes(IFA_F_NODAD)]);
  return encode(RTM_NEWADDR, ACK | REPLACE_OR_CREATE, seq, fixed, attributes);
}
