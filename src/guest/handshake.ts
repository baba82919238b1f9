/**
 * The conversation that makes rings out of a connection, in the two orders seen in the field: DPDK's virtio_user, and QEMU,
 * which announces call descriptors and enables rings before any memory is shared.
 */
import {
  encodeMemoryTable,
  encodeU64,
  GET_FEATURES,
  GET_INFLIGHT_FD,
  GET_PROTOCOL_FEATURES,
  GET_QUEUE_NUM,
  GET_STATUS,
  GET_VRING_BASE,
  INFLIGHT,
  NET_SET_MTU,
  SET_FEATURES,
  SET_INFLIGHT_FD,
  SET_MEM_TABLE,
  SET_OWNER,
  SET_PROTOCOL_FEATURES,
  SET_STATUS,
  SET_VRING_ADDR,
  SET_VRING_BASE,
  SET_VRING_CALL,
  SET_VRING_ENABLE,
  SET_VRING_ERR,
  SET_VRING_KICK,
  SET_VRING_NUM,
  VRING_ADDRESS,
  VRING_STATE,
} from '#ports/vhost-user/wire.ts';
import type { Connection } from './connection.ts';
import { featureMask, featureNames, hasFeature, hasProtocol } from './features.ts';
import type { MemoryRegion } from './memory.ts';
import type { Settings } from './options.ts';

/** What both sides agreed on. */
export interface Negotiated {
  readonly features: bigint;
  readonly protocol: bigint;
  /** Virtio features that the switch offered. */
  readonly offered: bigint;
  /** Queue pairs that both sides have. */
  readonly queuePairs: number;
}

/** A ring as the switch gets to know it. Ring 2i receives, ring 2i+1 transmits (virtio 1.2 section 5.1.2). */
export interface RingPlan {
  readonly index: number;
  readonly size: number;
  /** Where the switch begins to read the available ring. */
  readonly base: number;
  /** User addresses of its parts. */
  readonly address: { readonly descriptors: number; readonly available: number; readonly used: number };
  readonly kickFd: number;
  readonly callFd: number;
  /** Where the switch may tell of a ring that makes no sense; announced in QEMU's order only. */
  readonly errorFd: number;
}

const vringState = (index: number, num: number): Uint8Array => VRING_STATE.encode({ index, num });

const vringAddress = ({ index, address }: RingPlan): Uint8Array =>
  VRING_ADDRESS.encode({
    index,
    flags: 0,
    descriptors: BigInt(address.descriptors),
    used: BigInt(address.used),
    available: BigInt(address.available),
    log: 0n,
  });

const memoryTable = (regions: readonly MemoryRegion[]): Uint8Array =>
  encodeMemoryTable(
    regions.map(({ guestAddress, size, userAddress, mmapOffset }) => ({
      guestAddress: BigInt(guestAddress),
      size: BigInt(size),
      userAddress: BigInt(userAddress),
      mmapOffset: BigInt(mmapOffset),
    })),
  );

/** SET_VRING_ENABLE for a ring. */
export const sendEnable = (connection: Connection, ring: number, on: boolean): void =>
  connection.send(SET_VRING_ENABLE, vringState(ring, on ? 1 : 0));

const STATUS_ACKNOWLEDGE = 1;
const STATUS_DRIVER = 2;
const STATUS_DRIVER_OK = 4;
const STATUS_FEATURES_OK = 8;

/** Agrees on features. @throws Error naming what the switch lacks. */
export async function negotiate(connection: Connection, settings: Settings): Promise<Negotiated> {
  const virtioUser = settings.order === 'virtio-user';
  if (virtioUser) connection.send(SET_OWNER);
  const offered = await connection.requestU64(GET_FEATURES);
  let features = offered & settings.wanted;
  const missing = settings.required & ~offered;
  if (missing !== 0n) throw new Error(`the switch does not offer ${featureNames(missing).join(', ')}`);
  let protocol = 0n;
  let queuePairs = 1;
  if (settings.protocol !== 0n && hasFeature(offered, 'PROTOCOL_FEATURES')) {
    features |= featureMask(['PROTOCOL_FEATURES']);
    protocol = (await connection.requestU64(GET_PROTOCOL_FEATURES)) & settings.protocol;
    connection.send(SET_PROTOCOL_FEATURES, encodeU64(protocol));
    if (hasProtocol(protocol, 'MQ')) queuePairs = Number(await connection.requestU64(GET_QUEUE_NUM));
  }
  if (settings.queues > 1 && (queuePairs < settings.queues || !hasFeature(features, 'MQ'))) {
    throw new Error(`the switch offers ${queuePairs} queue pairs; ${settings.queues} are wanted`);
  }
  if (!virtioUser) {
    connection.send(SET_OWNER);
    await connection.requestU64(GET_FEATURES);
  }
  if (settings.mtu !== undefined && hasProtocol(protocol, 'NET_MTU')) {
    if (hasProtocol(protocol, 'REPLY_ACK')) await connection.acknowledged(NET_SET_MTU, encodeU64(BigInt(settings.mtu)));
    else connection.send(NET_SET_MTU, encodeU64(BigInt(settings.mtu)));
  }
  return { features, protocol, offered, queuePairs: settings.queues };
}

/** What the switch keeps with us to find its place after a crash ("Inflight I/O tracking"): its bytes are its own affair. */
export interface InflightArea {
  readonly description: Uint8Array;
  readonly fd: number;
}

/**
 * Hands the switch its inflight area, where INFLIGHT_SHMFD was agreed on; asks it for one first where there is none.
 * @returns the area, to be kept for the next connection; its descriptor is the caller's.
 */
export async function shareInflight(
  connection: Connection,
  settings: Settings,
  agreed: Negotiated,
  area: InflightArea | undefined,
): Promise<InflightArea | undefined> {
  if (!hasProtocol(agreed.protocol, 'INFLIGHT_SHMFD')) return area;
  let kept = area;
  if (!kept) {
    const wish = { size: 0n, offset: 0n, queues: settings.queues * 2, queueSize: settings.ringSize };
    const { payload, fd } = await connection.requestWithFd(GET_INFLIGHT_FD, INFLIGHT.encode(wish));
    kept = { description: payload, fd };
  }
  if (hasProtocol(agreed.protocol, 'REPLY_ACK')) {
    await connection.acknowledged(SET_INFLIGHT_FD, kept.description, [kept.fd]);
  } else {
    connection.send(SET_INFLIGHT_FD, kept.description, [kept.fd]);
  }
  return kept;
}

/** The rest of the conversation; `enabled` queue pairs carry frames afterwards. */
export async function startRings(
  connection: Connection,
  settings: Settings,
  agreed: Negotiated,
  regions: readonly MemoryRegion[],
  rings: readonly RingPlan[],
  enabled: number,
): Promise<void> {
  const canAck = hasProtocol(agreed.protocol, 'REPLY_ACK');
  const withStatus = hasProtocol(agreed.protocol, 'STATUS');
  const switchable = hasFeature(agreed.features, 'PROTOCOL_FEATURES');
  const virtioUser = settings.order === 'virtio-user';
  const tell = async (request: number, payload: Uint8Array, fds: readonly number[] = []): Promise<void> => {
    if (canAck && settings.acknowledge === 'all') await connection.acknowledged(request, payload, fds);
    else connection.send(request, payload, fds);
  };
  const enable = async (): Promise<void> => {
    if (!switchable) return;
    for (const ring of rings) await tell(SET_VRING_ENABLE, vringState(ring.index, ring.index >> 1 < enabled ? 1 : 0));
  };
  const status = async (bits: number): Promise<void> => {
    if (!withStatus) return;
    await tell(SET_STATUS, encodeU64(BigInt(bits)));
    const now = Number(await connection.requestU64(GET_STATUS));
    if ((now & bits) !== bits)
      throw new Error(`the switch answers device status 0x${now.toString(16)}, not 0x${bits.toString(16)}`);
  };

  for (const ring of rings) {
    await tell(SET_VRING_CALL, encodeU64(BigInt(ring.index)), [ring.callFd]);
    if (!virtioUser) await tell(SET_VRING_ERR, encodeU64(BigInt(ring.index)), [ring.errorFd]);
  }
  if (!virtioUser) await enable();
  if (withStatus) await tell(SET_STATUS, encodeU64(0n));
  await status(STATUS_ACKNOWLEDGE);
  await status(STATUS_ACKNOWLEDGE | STATUS_DRIVER);
  await tell(SET_FEATURES, encodeU64(agreed.features));
  await status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
  const fds = regions.map((region) => region.fd);
  if (canAck) await connection.acknowledged(SET_MEM_TABLE, memoryTable(regions), fds);
  else connection.send(SET_MEM_TABLE, memoryTable(regions), fds);
  for (const ring of rings) {
    await tell(SET_VRING_NUM, vringState(ring.index, ring.size));
    await tell(SET_VRING_BASE, vringState(ring.index, ring.base));
    await tell(SET_VRING_ADDR, vringAddress(ring));
    await tell(SET_VRING_KICK, encodeU64(BigInt(ring.index)), [ring.kickFd]);
    if (!virtioUser) await tell(SET_VRING_CALL, encodeU64(BigInt(ring.index)), [ring.callFd]);
  }
  await enable();
  await status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
  // The answer to a request shows that all messages before it have been taken.
  await connection.requestU64(GET_FEATURES);
}

/** Stops the rings in order, as a driver does at shutdown. @returns where the switch stopped in each ring. */
export async function stopRings(
  connection: Connection,
  agreed: Negotiated,
  rings: readonly number[],
): Promise<number[]> {
  if (hasFeature(agreed.features, 'PROTOCOL_FEATURES')) {
    for (const index of rings) sendEnable(connection, index, false);
  }
  const bases: number[] = [];
  for (const index of rings) {
    const reply = await connection.request(GET_VRING_BASE, vringState(index, 0));
    bases.push(VRING_STATE.decode(reply).num);
  }
  return bases;
}
