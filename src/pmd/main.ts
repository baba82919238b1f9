/** rw-datapathd: the data process. Its main thread holds port sessions and the contract; workers forward packets. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { pino } from 'pino';
import type { ReplyBodies, ToDatapath } from '#contract/messages.ts';
import { lockFile } from '#contract/os.ts';
import { defaultRundir } from '#contract/rundir.ts';
import { Journal } from '#ports/vhost-user/journal-file.ts';
import { type AssignMode, parseCpuMask } from './assign.ts';
import { usableCpus } from './cpus.ts';
import { LeftLanes } from './left-lanes.ts';
import { sessionTypes } from './port-types.ts';
import { Ports } from './ports.ts';
import { type ContractHandler, ContractServer } from './server.ts';
import type { WorkerOptions } from './verbs.ts';
import { PmdWorker } from './workers.ts';

const SAMPLE_MS = 1000;
/** A worker without a packet for so long sleeps until a guest kicks; other_config:pmd-sleep-max=0 keeps it polling. */
const SLEEP_AFTER_MICROS = 200;
/** Front ends that were connected to a data plane that died are waited for so long; QEMU tries once a second. */
const GATHER_MS = 2000;
const ASSIGN_MODES: readonly AssignMode[] = ['cycles', 'roundrobin', 'group'];

const bad = (text: string): Error => Object.assign(new Error(text), { code: 'bad_option' });

/** The settings that the data plane obeys, checked as a whole. @throws Error naming the key. */
function readOptions(options: Readonly<Record<string, string>>): {
  cores: number[];
  mode: AssignMode;
  worker: WorkerOptions;
} {
  const mask = options['pmd-cpu-mask'];
  let cores = [-1];
  if (mask !== undefined) {
    try {
      cores = parseCpuMask(mask, usableCpus());
    } catch (error) {
      throw bad((error as Error).message);
    }
  }
  const mode = (options['pmd-rxq-assign'] ?? 'cycles') as AssignMode;
  if (!ASSIGN_MODES.includes(mode)) throw bad(`pmd-rxq-assign: "${mode}" is none of ${ASSIGN_MODES.join(', ')}`);
  const sleep = options['pmd-sleep-max'];
  if (sleep !== undefined && !/^\d{1,5}$/.test(sleep))
    throw bad(`pmd-sleep-max: "${sleep}" is no number of microseconds`);
  return { cores, mode, worker: { sleepAfterMicros: sleep === '0' ? Number.POSITIVE_INFINITY : SLEEP_AFTER_MICROS } };
}

class DataPlane implements ContractHandler {
  readonly ports: Ports;
  readonly #log: pino.Logger;
  readonly #rundir: string;
  #workers: PmdWorker[] = [];
  #options: Record<string, string> = {};
  #server: ContractServer | undefined;
  /** What was logged last of a port, by its number. */
  readonly #logged = new Map<number, string>();
  #exit: () => void;

  constructor(rundir: string, log: pino.Logger, exit: () => void) {
    this.#log = log;
    this.#rundir = rundir;
    this.#exit = exit;
    this.ports = new Ports(
      sessionTypes(rundir, (key) => this.#options[key]),
      (port) => {
        const { config, state, lastError } = port;
        // Facts may be counts, which change all the time.
        if (this.#logged.get(config.portNo) !== `${config.name} ${state} ${lastError}`) {
          this.#logged.set(config.portNo, `${config.name} ${state} ${lastError}`);
          log.info({ port: config.name, state, error: lastError || undefined }, 'port status');
        }
        this.#server?.portStatus(port);
      },
    );
  }

  serve(socket: string): void {
    this.#server = new ContractServer(socket, this);
  }

  async useWorkers(cores: readonly number[], options: WorkerOptions): Promise<void> {
    const old = this.#workers;
    const fresh = cores.map(
      (core, i) =>
        new PmdWorker(i, cores.length, core, options, {
          fault: () => this.ports.faults(),
          nonsense: (worker, what) => {
            this.#log.error({ worker, what }, 'control plane wrote nonsense');
            this.#server?.drop(what);
          },
          died: (worker, error) => {
            this.#log.fatal({ worker, error: error.stack ?? error.message }, 'PMD worker died');
            process.exit(1);
          },
        }),
    );
    const doorbell = this.#server?.doorbell ?? -1;
    await Promise.all(fresh.map((w) => w.ask({ verb: 'control', doorbell })));
    // The old workers go on forwarding until the new ones can: their flows come first.
    if (old.length > 0) {
      const flows = await old[0]!.flows();
      await Promise.all(fresh.map((w) => w.ask({ verb: 'flows', flows })));
    }
    await this.ports.useWorkers(fresh);
    this.#workers = fresh;
    if (doorbell >= 0) this.#server!.lanesChanged();
    for (const worker of old) await worker.close();
  }

  async control(doorbell: number): Promise<void> {
    this.#log.info(doorbell >= 0 ? 'control plane attached' : 'control plane gone: forwarding on');
    await Promise.all(this.#workers.map((w) => w.ask({ verb: 'control', doorbell })));
  }

  laneFds(): number[] {
    return this.#workers.flatMap((w) => [w.laneFd, w.wakeFd]);
  }

  hello(): Pick<ReplyBodies['hello'], 'ports' | 'options'> {
    return { ports: this.ports.list(), options: this.#options };
  }

  async request(message: ToDatapath, fds: number[]): Promise<Partial<ReplyBodies>> {
    if (message.addPort) return { portNumber: { portNo: await this.ports.add(message.addPort) } };
    if (message.setPort) await this.ports.set(message.setPort);
    else if (message.deletePort) await this.ports.delete(message.deletePort.portNo);
    else if (message.dumpFlows) return { flows: { flows: await this.#dumpFlows(), more: false } };
    else if (message.getPmds) return { pmds: { pmds: this.#pmds() } };
    else if (message.clearPmdCounters) await Promise.all(this.#workers.map((w) => w.ask({ verb: 'clear' })));
    else if (message.setOptions) await this.#setOptions(message.setOptions.options);
    else if (message.resume) this.#resume(message.resume.ports, message.resume.lanes, fds);
    else if (message.exit) setImmediate(this.#exit);
    else throw Object.assign(new Error('unknown request'), { code: 'unknown_request' });
    return { done: {} };
  }

  /** Goes on with what another data plane left, once its front ends are back. */
  #resume(ports: readonly string[], lanes: number, fds: number[]): void {
    if (fds.length !== lanes)
      throw Object.assign(new Error(`resume: ${lanes} lanes came with ${fds.length} descriptors`), {
        code: 'bad_resume',
      });
    const journal = Journal.of(this.#rundir);
    const left = new LeftLanes(fds.splice(0), journal);
    void this.ports
      .gather(ports, GATHER_MS)
      .then(() => left.handTo(this.#workers))
      .catch((error: Error) => this.#log.error({ error: error.message }, 'upcalls of the data plane before are lost'))
      .finally(() => left.close());
  }

  async #setOptions(options: Record<string, string>): Promise<void> {
    const wanted = readOptions(options);
    const before = readOptions(this.#options);
    this.#options = { ...options };
    if (wanted.cores.join() !== before.cores.join()) await this.useWorkers(wanted.cores, wanted.worker);
    else await Promise.all(this.#workers.map((w) => w.ask({ verb: 'options', options: wanted.worker })));
    if (wanted.mode !== before.mode) await this.ports.rebalance(wanted.mode);
  }

  async #dumpFlows(): Promise<ReplyBodies['flows']['flows']> {
    const flows = await this.#workers[0]!.flows();
    return flows.map(({ id, words, actions }) => ({ id, words: Array.from(words), actions: Array.from(actions) }));
  }

  #pmds(): ReplyBodies['pmds']['pmds'] {
    return this.#workers.map(({ worker, core }) => {
      const { isolated, rxqs } = this.ports.usage(worker);
      return {
        worker,
        core,
        numa: 0,
        isolated,
        rxqs: rxqs.map((q) => ({
          portNo: q.portNo,
          queue: q.queue,
          enabled: true,
          usage: Number.isNaN(q.usage) ? -1 : q.usage,
          why: q.why,
        })),
      };
    });
  }

  async stop(): Promise<void> {
    this.#server?.close();
    await this.ports.stop();
    for (const worker of this.#workers) await worker.close();
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { rundir: { type: 'string' }, help: { type: 'boolean', short: 'h' } } });
  if (values.help) {
    console.log('rw-datapathd [--rundir DIR]: the Ringway data plane; started by rw-vswitchd');
    return;
  }
  const rundir = defaultRundir(values.rundir);
  mkdirSync(rundir, { recursive: true });
  const log = pino({ name: 'rw-datapathd' });
  const pidFile = path.join(rundir, 'rw-datapathd.pid');
  const lock = lockFile(`${pidFile}.lock`);
  if (lock < 0) {
    console.error(`rw-datapathd: another data plane runs in ${rundir} (see ${pidFile})`);
    process.exit(1);
  }
  let stopping = false;
  const exit = (): void => {
    if (stopping) return;
    stopping = true;
    plane.stop().finally(() => {
      rmSync(pidFile, { force: true });
      log.info('stopped');
      process.exit(0);
    });
  };
  const plane = new DataPlane(rundir, log, exit);
  const { cores, worker } = readOptions({});
  await plane.useWorkers(cores, worker);
  writeFileSync(pidFile, `${process.pid}\n`);
  plane.serve(path.join(rundir, 'datapath.sock'));
  process.on('SIGTERM', exit);
  process.on('SIGINT', exit);
  process.on('SIGHUP', () => undefined);
  setInterval(() => plane.ports.sample(SAMPLE_MS / 1000).catch(() => undefined), SAMPLE_MS);
  log.info({ pid: process.pid, rundir }, 'data plane ready');
}

main().catch((error) => {
  console.error(`rw-datapathd: ${(error as Error).message}`);
  process.exit(1);
});
