/**
 * Opens an interface for AF_XDP: program, sockets and their bind, in the best mode that the interface has.
 *
 * Everything hangs on descriptors of this process (the program's link, the sockets, the promiscuous membership), so that the
 * interface is as it was before when they are closed, also by a SIGKILL.
 */
import { readdirSync } from 'node:fs';
import { close, OsError, promiscuous } from '#contract/os.ts';
import {
  attachXdp,
  createSocketMap,
  DRV_MODE,
  loadXdpProgram,
  SKB_MODE,
  setSocket,
  XDP_DEV_BOUND_ONLY,
  XDP_HAS_FRAGS,
} from './bpf.ts';
import { kernelFunction } from './btf.ts';
import {
  RX_HEADROOM,
  TX_METADATA_BYTES,
  XDP_COPY,
  XDP_USE_NEED_WAKEUP,
  XDP_USE_SG,
  XDP_ZEROCOPY,
  type XdpPiece,
} from './layout.ts';
import type { XdpMode, XdpOptions } from './options.ts';
import { redirectProgram } from './program.ts';
import { XskSocket } from './socket.ts';

const ETHERNET = 14;
/** With two VLAN tags. */
const LONGEST_ETHERNET = 22;
const SMALL_FRAME = 2048;
const LARGE_FRAME = 4096;

/** The interface to be opened. */
export interface XdpInterface {
  readonly name: string;
  readonly ifindex: number;
  readonly mtu: number;
  /** `veth`, `tun`, …; empty for hardware. */
  readonly kind: string;
}

/** What a kernel may lack, asked for as long as it does not refuse. */
interface Extras {
  readonly multiBuffer: boolean;
  readonly txChecksum: boolean;
}

interface Opened extends Extras {
  readonly mode: XdpMode;
  readonly tags: boolean;
  readonly link: number;
  readonly sockets: readonly XskSocket[];
}

/** Best first. Zero-copy drivers differ in what metadata they read, so it is used in copy mode only. */
const EXTRAS: readonly Extras[] = [
  { multiBuffer: true, txChecksum: true },
  { multiBuffer: true, txChecksum: false },
  { multiBuffer: false, txChecksum: false },
];

export class XdpDevice {
  readonly #interface: XdpInterface;
  readonly #options: XdpOptions;
  readonly #frameBytes: number;
  readonly #promiscuous: number;
  readonly #opened: Opened;

  /** @throws Error that says for every mode why it cannot be had, and what would help. */
  constructor(wanted: XdpInterface, options: XdpOptions) {
    this.#interface = wanted;
    this.#options = options;
    this.#frameBytes = wanted.mtu + LONGEST_ETHERNET <= SMALL_FRAME - RX_HEADROOM ? SMALL_FRAME : LARGE_FRAME;
    const queues = this.#queues();
    this.#opened = this.#open(queues);
    try {
      this.#promiscuous = promiscuous(wanted.ifindex);
    } catch (error) {
      closeOpened(this.#opened);
      throw error;
    }
  }

  /** For workers. @param mtu longest Ethernet payload to be sent. */
  piece(mtu: number): XdpPiece {
    const { sockets, multiBuffer, txChecksum, mode } = this.#opened;
    const most = multiBuffer ? Number.POSITIVE_INFINITY : this.#frameBytes - TX_METADATA_BYTES;
    return {
      sockets: sockets.map(({ place }) => place),
      txQueues: Math.min(sockets.length, queuesOf(this.#interface.name, 'tx')),
      longest: Math.min(mtu + ETHERNET, most),
      needWakeup: this.#options.needWakeup,
      busyPoll: this.#options.busyPollBudget > 0,
      multiBuffer,
      txChecksum,
      partialChecksums: this.#interface.kind !== '' || mode === 'generic',
    };
  }

  /** Mode and losses, by name. */
  facts(): Record<string, string> {
    const { mode, tags, sockets, multiBuffer, txChecksum } = this.#opened;
    const losses = new Map<string, number>();
    for (const socket of sockets) {
      for (const [name, count] of Object.entries(socket.statistics())) {
        if (count > 0 && name !== 'tx_ring_empty_descs') losses.set(name, (losses.get(name) ?? 0) + count);
      }
    }
    return {
      'xdp-mode': mode,
      n_rxq: String(sockets.length),
      'use-need-wakeup': String(this.#options.needWakeup),
      'busy-poll-budget': String(this.#options.busyPollBudget),
      xdp_multi_buffer: String(multiBuffer),
      xdp_tx_checksum: txChecksum ? 'kernel' : 'completed',
      xdp_vlan_tags: tags ? 'restored' : 'in-frame-only',
      ...Object.fromEntries([...losses].map(([name, count]) => [`xsk_${name}`, String(count)])),
    };
  }

  /** The interface is as it was before. No worker may use a piece any more. */
  close(): void {
    close(this.#promiscuous);
    closeOpened(this.#opened);
  }

  #queues(): number {
    const { name } = this.#interface;
    const there = queuesOf(name, 'rx');
    const wanted = this.#options.queues || there;
    if (wanted > there) {
      throw new Error(`option n_rxq is ${wanted}, but ${name} has ${there} rx queues; see ethtool --set-channels`);
    }
    return wanted;
  }

  #open(queues: number): Opened {
    const reasons: string[] = [];
    for (const mode of this.#options.modes) {
      try {
        return this.#openMode(mode, queues);
      } catch (error) {
        if (error instanceof OsError && (error.code === 'EPERM' || error.code === 'EAFNOSUPPORT')) {
          throw new Error(explain(error, this.#interface.name, mode));
        }
        reasons.push(`${mode}: ${explain(error as Error, this.#interface.name, mode)}`);
      }
    }
    throw new Error(`AF_XDP cannot be had on ${this.#interface.name}: ${reasons.join('; ')}`);
  }

  #openMode(mode: XdpMode, queues: number): Opened {
    const { ifindex } = this.#interface;
    const map = createSocketMap(queues);
    const opened: number[] = [map];
    const sockets: XskSocket[] = [];
    try {
      const { program, tags } = this.#load(map, mode);
      opened.push(program);
      const link = attachXdp(program, ifindex, mode === 'generic' ? SKB_MODE : DRV_MODE);
      opened.push(link);
      const extras = this.#bind(mode, queues, sockets);
      sockets.forEach((socket, queue) => {
        setSocket(map, queue, socket.place.fd);
      });
      // The link keeps the program, and that keeps the map.
      close(program);
      close(map);
      return { mode, tags, ...extras, link, sockets };
    } catch (error) {
      for (const fd of opened) close(fd);
      for (const socket of sockets) socket.close();
      throw error;
    }
  }

  /** The program that restores tags if the kernel has what it needs; else one that at least takes long frames. */
  #load(map: number, mode: XdpMode): { program: number; tags: boolean } {
    const { ifindex } = this.#interface;
    const vlanTag = mode === 'generic' ? 0 : kernelFunction('bpf_xdp_metadata_rx_vlan_tag');
    const plain = redirectProgram(map, 0);
    if (vlanTag !== 0) {
      try {
        const flags = XDP_HAS_FRAGS | XDP_DEV_BOUND_ONLY;
        return { program: loadXdpProgram(redirectProgram(map, vlanTag), flags, ifindex), tags: true };
      } catch (error) {
        if (!refused(error)) throw error;
      }
    }
    try {
      return { program: loadXdpProgram(plain, XDP_HAS_FRAGS, ifindex), tags: false };
    } catch (error) {
      if (!refused(error)) throw error;
      return { program: loadXdpProgram(plain, 0, ifindex), tags: false };
    }
  }

  /** One socket per queue. The first finds out what the kernel and the driver have. */
  #bind(mode: XdpMode, queues: number, sockets: XskSocket[]): Extras {
    const copy = mode !== 'native-with-zerocopy';
    const found = EXTRAS.find((extras, i) => {
      if (extras.txChecksum && !(copy && this.#options.txChecksum)) return false;
      try {
        sockets.push(this.#socket(mode, 0, extras));
        return true;
      } catch (error) {
        if (i === EXTRAS.length - 1 || !refused(error)) throw error;
        return false;
      }
    })!;
    for (let queue = 1; queue < queues; queue++) sockets.push(this.#socket(mode, queue, found));
    return found;
  }

  #socket(mode: XdpMode, queue: number, { multiBuffer, txChecksum }: Extras): XskSocket {
    const { needWakeup, busyPollBudget } = this.#options;
    const copy = mode === 'native-with-zerocopy' ? XDP_ZEROCOPY : XDP_COPY;
    return new XskSocket({
      ifindex: this.#interface.ifindex,
      queue,
      frameBytes: this.#frameBytes,
      flags: copy | (needWakeup ? XDP_USE_NEED_WAKEUP : 0) | (multiBuffer ? XDP_USE_SG : 0),
      metadata: txChecksum,
      busyPollBudget,
    });
  }
}

/** The queues of a direction that an interface has now; 1 where the system does not tell. */
function queuesOf(name: string, direction: 'rx' | 'tx'): number {
  try {
    return (
      readdirSync(`/sys/class/net/${name}/queues`).filter((entry) => entry.startsWith(`${direction}-`)).length || 1
    );
  } catch {
    return 1;
  }
}

function closeOpened({ link, sockets }: Opened): void {
  // First the program: no frame comes for a socket that is gone.
  close(link);
  for (const socket of sockets) socket.close();
}

/** Whether a kernel or driver does not know what was asked, so that less may be asked. */
const refused = (error: unknown): boolean =>
  error instanceof OsError && ['EINVAL', 'ENOTSUP', 'EACCES', 'E2BIG'].includes(error.code);

function explain(error: Error, name: string, mode: XdpMode): string {
  if (!(error instanceof OsError)) return error.message;
  const hint = hintFor(error, name, mode);
  return hint ? `${error.message}: ${hint}` : error.message;
}

function hintFor({ code, syscall }: OsError, name: string, mode: XdpMode): string {
  const link = syscall.includes('LINK_CREATE');
  if (code === 'EPERM') return 'AF_XDP needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF; run as root';
  if (code === 'EAFNOSUPPORT') return 'this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)';
  if (code === 'ENOBUFS') return 'the limit of locked memory is too low; raise LimitMEMLOCK (ulimit -l)';
  if (code === 'EBUSY' && link) return `another XDP program is attached; remove it with "ip link set ${name} xdp off"`;
  if (code === 'EBUSY') return 'another AF_XDP socket has the queue';
  if (code === 'ERANGE' && link) return `the MTU is too large for ${mode} XDP with this driver`;
  if (code === 'ENOTSUP') return `the driver has no ${mode} XDP`;
  if (code === 'ENOSPC' && link) return `${name} has fewer rx queues than its peer has tx queues`;
  if (code === 'EINVAL' && link) return 'XDP links need Linux 5.9 or newer';
  return '';
}
