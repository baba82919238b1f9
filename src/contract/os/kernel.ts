/** Sockets and devices of the kernel's network: AF_XDP, TAP, packet sockets, netlink. Part of os.ts, whose rules hold here. */
import { native } from '#native';
import { checked } from './result.ts';

// AF_XDP (Documentation/networking/af_xdp.rst). The results are "or -errno".

/** bpf(2): `attributes` is a union bpf_attr, whose addresses must be those of live memory. */
export const bpf = native.bpf;

/** A new non-blocking AF_XDP socket. */
export const xskOpen = native.xskOpen;

/** Binds it to one queue of an interface, with the flags of struct sockaddr_xdp. */
export const xskBind = native.xskBind;

/** setsockopt(2): 0. */
export const xskSet = native.xskSet;

/** getsockopt(2): bytes written to `value`. */
export const xskGet = native.xskGet;

/** Asks the kernel to send what lies in the tx ring. -EAGAIN and -EBUSY: some of it is still there. */
export const xskSend = native.xskSend;

/** Asks the kernel to look at the fill ring, and with busy polling to run the driver. */
export const xskReceive = native.xskReceive;

/** A descriptor while which is open the interface takes frames for every address (packet(7), PACKET_MR_PROMISC). */
export const promiscuous = (ifindex: number): number => checked('promiscuous mode', native.promiscuous(ifindex));

// Kernel interfaces

/**
 * A queue of the TAP device of this name (tun(4)), non-blocking, frames with a virtio-net header of 10 bytes. `fresh`: the
 * device must not be there yet; `several`: it may get more queues. It lives as long as a queue is open.
 * Errors: EPERM (no CAP_NET_ADMIN), EBUSY (there already), ENOENT (no /dev/net/tun), EINVAL (another kind of device).
 */
export const tapOpen = (name: string, fresh: boolean, several: boolean): number =>
  checked('TUNSETIFF', native.tapOpen(name, fresh, several), name);

/** Which unfinished frames a TAP device hands out: bits TUN_F_* of linux/if_tun.h. Errors: EINVAL. */
export const tapOffload = (fd: number, flags: number): void => {
  checked('TUNSETOFFLOAD', native.tapOffload(fd, flags));
};

/** A packet socket (packet(7)), non-blocking, that receives nothing before `packetBind`. Errors: EPERM. */
export const packetOpen = (): number => checked('socket AF_PACKET', native.packetOpen());

/** An option of level SOL_PACKET with a number. */
export const packetOption = (fd: number, name: number, value: number): void => {
  checked('setsockopt SOL_PACKET', native.packetOption(fd, name, value), String(name));
};

/** Gives a packet socket the receive ring of its version; `map` it whole. Errors: EINVAL, ENOMEM, EBUSY. */
export const packetRing = (fd: number, blockBytes: number, blocks: number, frameBytes: number): void => {
  checked('PACKET_RX_RING', native.packetRing(fd, blockBytes, blocks, frameBytes));
};

/** From now on the socket receives what the interface does. Errors: ENODEV, ENETDOWN. */
export const packetBind = (fd: number, ifindex: number, promiscuous: boolean): void => {
  checked('bind AF_PACKET', native.packetBind(fd, ifindex, promiscuous), String(ifindex));
};

/** Frames lost since the last call for want of room, or -errno. */
export const packetDrops = native.packetDrops;

/** Sets the buffers of a socket, beyond the system's limits where the process may. */
export const socketBuffers = (fd: number, sendBytes: number, receiveBytes: number): void => {
  checked('SO_SNDBUF', native.socketBuffers(fd, sendBytes, receiveBytes));
};

/** A bound, non-blocking netlink socket (netlink(7)); `groups` is a bit mask. Errors: EPROTONOSUPPORT. */
export const netlinkOpen = (protocol: number, groups: number): number =>
  checked('socket AF_NETLINK', native.netlinkOpen(protocol, groups));

/**
 * Sends a burst of at most 64 frames over a packet socket (`socket`) or a TAP queue: frames sent, or -EINVAL for a burst that is too
 * large. Frame i is the next `counts[i]` pieces, pairs of address and length; `results[i]` becomes 0 or the errno for which
 * it was not taken. Never blocks.
 */
export const sendFrames = native.sendFrames;

/**
 * Receives at most `n` (64) frames, each into two pieces: frames received, or -errno (-EAGAIN). `lengths[i]` is the length
 * of frame i; on a socket it may be more than the pieces hold. Never blocks.
 */
export const receiveFrames = native.receiveFrames;
