/** The contract's messages (proto/datapath.proto) as types and as bytes. */
import path from 'node:path';
import protobuf from 'protobufjs';

export const CONTRACT_VERSION = 3;

export interface PortConfigMessage {
  portNo: number;
  name: string;
  type: string;
  options: Record<string, string>;
  mtu: number;
}

export interface PortMessage {
  config: PortConfigMessage;
  state: string;
  lastError: string;
  linkUp: boolean;
  facts: Record<string, string>;
}

export interface FlowMessage {
  id: number;
  /** Triples: key word index, value, mask. */
  words: number[];
  actions: number[];
}

export interface RxqMessage {
  portNo: number;
  queue: number;
  enabled: boolean;
  usage: number;
  why: string;
}

export interface PmdMessage {
  worker: number;
  core: number;
  numa: number;
  isolated: boolean;
  rxqs: RxqMessage[];
}

/** Requests by the name of their body. */
export interface RequestBodies {
  hello: { version: number };
  addPort: PortConfigMessage;
  setPort: PortConfigMessage;
  deletePort: { portNo: number };
  dumpFlows: Record<string, never>;
  getPmds: Record<string, never>;
  clearPmdCounters: Record<string, never>;
  setOptions: { options: Record<string, string> };
  resume: { ports: string[]; lanes: number };
  exit: Record<string, never>;
}

export interface ReplyBodies {
  hello: {
    version: number;
    pid: number;
    ports: PortMessage[];
    lanes: { count: number };
    options: Record<string, string>;
  };
  portNumber: { portNo: number };
  flows: { flows: FlowMessage[]; more: boolean };
  pmds: { pmds: PmdMessage[] };
  done: Record<string, never>;
  portStatus: PortMessage;
  lanesChanged: { count: number };
}

export type RequestName = keyof RequestBodies;
export type ToDatapath = { id: number } & Partial<RequestBodies>;
export type FromDatapath = { id: number; error?: { code: string; message: string } | undefined } & Partial<ReplyBodies>;

const file = path.join(import.meta.dirname, '../../proto/datapath.proto');
const root = protobuf.loadSync(file);
const toDatapath = root.lookupType('ringway.datapath.v1.ToDatapath');
const fromDatapath = root.lookupType('ringway.datapath.v1.FromDatapath');

/** Missing scalars, lists and maps are filled in; of a oneof only the member that is there. */
const AS_OBJECT = { defaults: true, longs: Number, arrays: true, objects: true } as const;

export const encodeRequest = (message: ToDatapath): Uint8Array => toDatapath.encode(message).finish();
export const encodeReply = (message: FromDatapath): Uint8Array => fromDatapath.encode(message).finish();

/** @throws Error when the bytes are not such a message. */
export const decodeRequest = (bytes: Uint8Array): ToDatapath =>
  toDatapath.toObject(toDatapath.decode(bytes), { ...AS_OBJECT, oneofs: false }) as ToDatapath;
export const decodeReply = (bytes: Uint8Array): FromDatapath =>
  fromDatapath.toObject(fromDatapath.decode(bytes), { ...AS_OBJECT, oneofs: false }) as FromDatapath;
