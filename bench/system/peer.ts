/**
 * A switch under test, driven from outside only: its own command line, vhost-user sockets and /proc. Whatever is
 * measured of one switch can so be measured of the other in the same way.
 */
import { readFileSync } from 'node:fs';
import type { PmdStats } from '../../test/support/pmd-stats.ts';
import type { RunResult } from '../../test/support/process.ts';

export interface StartOptions {
  /** CPU of the one PMD, and of the daemons' other threads. */
  pmdCore: number;
  mainCore: number;
  otherConfig?: Record<string, string>;
}

export interface SwitchUnderTest {
  readonly name: string;
  /** Starts with bridge br0, one PMD and empty flow tables. */
  start(options: StartOptions): Promise<void>;
  /** Adds a vhost-user port, with OpenFlow numbers 1, 2, … in the order of adding, that connects to `socket`. */
  addVhostPort(name: string, socket: string): Promise<void>;
  /** Replaces the flow tables; syntax of ovs-ofctl(8). */
  setFlows(flows: string[]): Promise<void>;
  /** Runs the switch's ofctl; rejects when it fails. */
  ofctl(...args: string[]): Promise<string>;
  appctl(...args: string[]): Promise<RunResult>;
  clearPmdStats(): Promise<void>;
  pmdStats(): Promise<PmdStats>;
  /** Garbage collections on the PMDs since the counters were cleared; absent where there is no collector. */
  collections?(): Promise<number>;
  /** Pids of its daemons. */
  pids(): number[];
  stop(): Promise<void>;
}

/** Resident memory of the daemons in bytes. */
export function residentBytes(pids: number[]): number {
  return pids.reduce((sum, pid) => {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return sum + Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  }, 0);
}

/** Processor time that the daemons have used, in seconds (proc(5), fields 14 and 15 of stat, in ticks of 10 ms). */
export function cpuSeconds(pids: number[]): number {
  return pids.reduce((sum, pid) => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return sum + (Number(fields[11]) + Number(fields[12])) / 100;
  }, 0);
}
