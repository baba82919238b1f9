/** The contract's server in the data process: one control plane at a time, over <rundir>/datapath.sock. */
import { Channel } from '#contract/channel.ts';
import {
  CONTRACT_VERSION,
  decodeRequest,
  encodeReply,
  type FromDatapath,
  type PortMessage,
  type ReplyBodies,
  type ToDatapath,
} from '#contract/messages.ts';
import { accept, close, EAGAIN, eventfd, unixListen, unlinkIfSocket, Watcher } from '#contract/os.ts';

/** Flows in one frame of a dump. */
const FLOWS_PER_FRAME = 1024;
/** A refused connection that says nothing is closed after this. */
const REFUSAL_MS = 1000;

/** What the process does for the control plane; each may throw an Error, whose `code` and message go back. */
export interface ContractHandler {
  /** A control plane attached (`doorbell`: eventfd that workers signal) or went away (-1). */
  control(doorbell: number): Promise<void>;
  /** memfd and wake eventfd of each lane. */
  laneFds(): number[];
  hello(): Pick<ReplyBodies['hello'], 'ports' | 'options'>;
  /** Descriptors that it takes out of `fds` are its own. */
  request(message: ToDatapath, fds: number[]): Promise<Partial<ReplyBodies>>;
}

export class ContractServer {
  readonly #path: string;
  readonly #handler: ContractHandler;
  readonly #listener: number;
  readonly #watcher: Watcher;
  #channel: Channel | undefined;
  #doorbell = -1;
  /** Requests are carried out one after the other, in order. */
  #turn: Promise<unknown> = Promise.resolve();

  /** @throws OsError when the socket cannot be made. */
  constructor(path: string, handler: ContractHandler) {
    this.#path = path;
    this.#handler = handler;
    unlinkIfSocket(path);
    this.#listener = unixListen(path, { mode: 0o600 });
    this.#watcher = new Watcher(() => this.#accept());
    this.#watcher.add(this.#listener);
  }

  /** Tells the control plane, if one is attached. */
  event(body: Partial<ReplyBodies>): void {
    this.#send({ id: 0, ...body });
  }

  portStatus(port: PortMessage): void {
    this.event({ portStatus: port });
  }

  lanesChanged(): void {
    const fds = this.#handler.laneFds();
    this.#send({ id: 0, lanesChanged: { count: fds.length / 2 } }, [this.#doorbell, ...fds]);
  }

  /** Ends the connection to the control plane, which may connect anew. */
  drop(reason: string): void {
    this.#channel?.close(reason);
  }

  get doorbell(): number {
    return this.#doorbell;
  }

  close(): void {
    this.#watcher.remove(this.#listener);
    this.#watcher.close();
    close(this.#listener);
    unlinkIfSocket(this.#path);
    this.#channel?.close();
  }

  #accept(): void {
    const fd = accept(this.#listener);
    if (fd === -EAGAIN || fd < 0) return;
    if (this.#channel) {
      this.#refuse(fd);
      return;
    }
    const channel = new Channel(fd, {
      frame: (bytes, fds) => this.#enqueue(channel, bytes, fds),
      closed: () => this.#turnOf(() => this.#detach(channel)),
    });
    this.#channel = channel;
  }

  /** Stays open until the peer has spoken, so that it reads the answer before it finds the connection closed. */
  #refuse(fd: number): void {
    const limit = setTimeout(() => refused.close(), REFUSAL_MS);
    const refused = new Channel(fd, {
      frame: (_, fds) => {
        for (const extra of fds) close(extra);
        refused.close();
      },
      closed: () => clearTimeout(limit),
    });
    refused.send(encodeReply({ id: 0, error: { code: 'busy', message: 'another control plane is attached' } }));
  }

  #turnOf(work: () => Promise<void>): void {
    this.#turn = this.#turn.then(work).catch(() => undefined);
  }

  async #detach(channel: Channel): Promise<void> {
    if (this.#channel !== channel) return;
    try {
      await this.#handler.control(-1);
    } finally {
      if (this.#doorbell >= 0) close(this.#doorbell);
      this.#doorbell = -1;
      this.#channel = undefined;
    }
  }

  #send(message: FromDatapath, fds: readonly number[] = []): void {
    this.#channel?.send(encodeReply(message), fds);
  }

  #enqueue(channel: Channel, bytes: Uint8Array, fds: number[]): void {
    let message: ToDatapath;
    try {
      message = decodeRequest(bytes);
    } catch {
      for (const fd of fds) close(fd);
      channel.close('a frame that is no contract message');
      return;
    }
    this.#turnOf(async () => {
      try {
        if (this.#channel !== channel) return;
        if (message.hello) await this.#hello(message.id, message.hello.version);
        else this.#reply(message.id, await this.#handler.request(message, fds));
      } catch (error) {
        const { code, message: text } = error as { code?: string; message: string };
        this.#send({ id: message.id, error: { code: code ?? 'failed', message: text } });
      } finally {
        for (const fd of fds) close(fd);
      }
    });
  }

  #reply(id: number, body: Partial<ReplyBodies>): void {
    const flows = body.flows?.flows;
    if (!flows) return this.#send({ id, ...body });
    for (let at = 0; at === 0 || at < flows.length; at += FLOWS_PER_FRAME) {
      const more = at + FLOWS_PER_FRAME < flows.length;
      this.#send({ id, flows: { flows: flows.slice(at, at + FLOWS_PER_FRAME), more } });
    }
  }

  async #hello(id: number, version: number): Promise<void> {
    if (version !== CONTRACT_VERSION) {
      throw Object.assign(
        new Error(`contract version ${version} is not ${CONTRACT_VERSION}, which this data plane speaks`),
        {
          code: 'version',
        },
      );
    }
    if (this.#doorbell < 0) this.#doorbell = eventfd();
    await this.#handler.control(this.#doorbell);
    const fds = this.#handler.laneFds();
    const { ports, options } = this.#handler.hello();
    const hello = { version: CONTRACT_VERSION, pid: process.pid, ports, options, lanes: { count: fds.length / 2 } };
    this.#send({ id, hello }, [this.#doorbell, ...fds]);
  }
}
