/**
 * The catalogue: every counter and drop reason of the data plane, once. Documentation, metrics, `coverage/show`, the API
 * and the shared-memory layout are made from it; a test keeps docs/counters.md equal to it.
 */
export interface CatalogueEntry {
  readonly name: string;
  readonly help: string;
}

/** Counters of a port, per worker; the index is the slot in the shared counters row (catalogue order is layout). */
export const PORT_COUNTERS = [
  { name: 'rx_packets', help: 'frames received from the guest' },
  { name: 'rx_bytes', help: 'bytes of those frames' },
  { name: 'tx_packets', help: 'frames delivered to the guest' },
  { name: 'tx_bytes', help: 'bytes of those frames' },
  { name: 'rx_bursts', help: 'polls that brought at least one frame' },
  { name: 'tx_bursts', help: 'bursts delivered' },
  { name: 'kicks', help: 'notifications taken from the guest' },
  { name: 'calls', help: 'notifications sent to the guest' },
  { name: 'copied_bytes', help: 'payload bytes copied into this port' },
  { name: 'checksums', help: 'checksums computed for a guest that does not take partial ones' },
  { name: 'segmented', help: 'GSO frames segmented for a guest that does not take them' },
  { name: 'zero_copy_packets', help: 'frames passed to this port by reference, within a shared pool' },
  { name: 'bad_returns', help: 'buffers returned by a client that did not hold them; ignored' },
] as const satisfies readonly CatalogueEntry[];

/** Why a packet was lost; index 0 stands for "not dropped". Each cause counts in exactly one reason, at one port. */
export const DROP_REASONS = [
  { name: 'none', help: 'not dropped' },
  { name: 'rx_bad_descriptor', help: 'rx: a descriptor outside guest memory, a loop, or a chain that is too long' },
  { name: 'rx_short_frame', help: 'rx: shorter than a virtio-net header and an Ethernet header' },
  { name: 'rx_oversize', help: 'rx: longer than 65 550 bytes or in more segments than the switch takes' },
  { name: 'rx_bad_offload', help: 'rx: checksum or GSO fields that contradict the frame, or were not negotiated' },
  { name: 'tx_ring_full', help: 'tx: the guest gave no buffer' },
  { name: 'tx_bad_descriptor', help: 'tx: a buffer outside guest memory, a loop, or not writable' },
  { name: 'tx_mtu', help: 'tx: frame longer than the MTU of the port' },
  { name: 'tx_too_big_for_buffer', help: 'tx: frame longer than the buffers that the guest gave' },
  { name: 'tx_port_down', help: 'tx: port has no guest, or its queue is disabled' },
  { name: 'tx_offload', help: 'tx: a GSO frame that cannot be segmented for this guest' },
  { name: 'flow_drop', help: 'the flow says drop' },
  { name: 'no_such_port', help: 'output to a port that does not exist' },
  { name: 'upcall_ring_full', help: 'miss while the upcall ring was full' },
  { name: 'no_control_plane', help: 'miss while no control plane was attached' },
  { name: 'upcall_unanswered', help: 'miss that the control plane left without an answer' },
  { name: 'ttl_exceeded', help: 'TTL or hop limit ran out at dec_ttl' },
  { name: 'controller', help: 'sent to a controller, none connected' },
  { name: 'no_match', help: 'table miss' },
  { name: 'translation_error', help: 'the pipeline was too deep or contradicts itself' },
  { name: 'vlan_policy', help: 'the VLAN is not admitted by the port' },
  { name: 'no_learnt_port', help: 'NORMAL: no port to send to' },
  { name: 'hairpin', help: 'NORMAL: destination is where the frame came from' },
  { name: 'reserved_multicast', help: 'NORMAL: link-local group address 01-80-c2-00-00-0x' },
  { name: 'group_no_bucket', help: 'group without a live bucket' },
  { name: 'port_blocked', help: 'port configured not to receive or not to forward' },
  { name: 'clone_exhausted', help: 'more copies in one burst than the switch has slots' },
  { name: 'rx_kernel_full', help: 'rx: the kernel found no room for a frame in the ring or buffer of the port' },
  { name: 'tx_kernel_full', help: 'tx: the kernel had no room for the frame (EAGAIN, ENOBUFS)' },
  { name: 'tx_kernel_refused', help: 'tx: the kernel would not take the frame for another reason' },
  { name: 'tx_pool_empty', help: 'tx: the pool of the port has no free buffer' },
  { name: 'tunnel_no_destination', help: 'output to a tunnel port with remote_ip=flow, tun_dst not set' },
  { name: 'tunnel_no_route', help: 'no route to the other end of the tunnel that leaves by a bridge' },
  { name: 'tunnel_no_neighbour', help: 'next hop to the other end of the tunnel not known yet; it is being asked for' },
  { name: 'tunnel_congestion', help: 'congestion met under the tunnel, and the packet inside cannot be told' },
  { name: 'tunnel_bad_header', help: 'from a tunnel: header cut short, of another version, or with a wrong checksum' },
  { name: 'tunnel_too_long', help: 'into a tunnel: longer than a frame may be with the header of the tunnel' },
  {
    name: 'tx_iotlb_miss',
    help: 'tx: the translation of a buffer behind a vIOMMU is not here yet; it is being asked for',
  },
] as const satisfies readonly CatalogueEntry[];

export type PortCounter = (typeof PORT_COUNTERS)[number]['name'];
export type DropReason = (typeof DROP_REASONS)[number]['name'];

/** Counters of a worker (dpif-netdev/pmd-stats-show). */
export const WORKER_COUNTERS = [
  { name: 'iterations', help: 'turns of the poll loop' },
  { name: 'idle_iterations', help: 'turns that found no packet' },
  { name: 'busy_cycles', help: 'TSC cycles in turns that found packets' },
  { name: 'idle_cycles', help: 'TSC cycles in turns that found none' },
  { name: 'sleeps', help: 'times the worker slept' },
  { name: 'rx_packets', help: 'packets received' },
  { name: 'recirculated', help: 'packets that passed the datapath again' },
  { name: 'simple_hits', help: 'hits of the port short cut (no header needed)' },
  { name: 'emc_hits', help: 'exact-match cache hits' },
  { name: 'megaflow_hits', help: 'megaflow classifier hits' },
  { name: 'megaflow_lookups', help: 'subtables searched for those hits' },
  { name: 'misses', help: 'packets that no megaflow matched' },
  { name: 'upcalls', help: 'misses handed to the control plane' },
  { name: 'lost', help: 'misses that were dropped' },
  { name: 'tx_packets', help: 'packets handed to ports' },
  { name: 'tx_batches', help: 'bursts handed to ports' },
  { name: 'flows', help: 'megaflows installed (gauge)' },
  { name: 'masks', help: 'subtables (gauge)' },
  { name: 'bus_faults', help: 'touches of memory that a guest took away' },
  { name: 'collections', help: 'garbage collections on the worker, counted once a second' },
] as const satisfies readonly CatalogueEntry[];

export type WorkerCounter = (typeof WORKER_COUNTERS)[number]['name'];

const indexOf = (list: readonly CatalogueEntry[], name: string): number => {
  const at = list.findIndex((entry) => entry.name === name);
  if (at < 0) throw new RangeError(`catalogue has no entry ${name}`);
  return at;
};

/** Slot of a port counter in its row. */
export const portCounter = (name: PortCounter): number => indexOf(PORT_COUNTERS, name);
/** Number of a drop reason; its slot in the port row is DROP_BASE + number. */
export const dropReason = (name: DropReason): number => indexOf(DROP_REASONS, name);
/** Slot of a worker counter in its row. */
export const workerCounter = (name: WorkerCounter): number => indexOf(WORKER_COUNTERS, name);

/** First drop slot of a port's counter row. */
export const DROP_BASE = 16;
/** Slots (float64) of a port's counter row. */
export const PORT_ROW = 64;
/** Slots (float64) of a worker's counter row. */
export const WORKER_ROW = 64;

if (
  PORT_COUNTERS.length > DROP_BASE ||
  DROP_BASE + DROP_REASONS.length > PORT_ROW ||
  WORKER_COUNTERS.length > WORKER_ROW
) {
  throw new RangeError('catalogue outgrew its rows');
}
