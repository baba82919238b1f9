/** What a configuration change must obey before the switch is asked. */
import { RequestError } from '#ofproto/api.ts';
import type { BridgeRecord, ConfigChange, Model, PortRecord } from './model.ts';
import { BRIDGE_OPTIONS, checkOptions, PORT_OPTIONS, SWITCH_OPTIONS } from './options.ts';

/** Names go into paths, flow texts and OpenFlow port descriptions. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,62}$/;

/** Smallest MTU of IPv4 (RFC 791). */
const MIN_MTU = 68;

function checkName(name: string, what: string): void {
  if (NAME.test(name)) return;
  throw new RequestError('bad_name', `"${name}" is not a valid ${what} name`, {
    field: 'name',
    hint: 'use up to 63 letters, digits, and _ . : @ -, starting with a letter, a digit or _',
  });
}

/** @throws RequestError that names the field and says how to put it right. */
export function checkChange(model: Model, change: ConfigChange): void {
  if (change.kind === 'SetSwitch') {
    checkOptions(SWITCH_OPTIONS, change.record.otherConfig, model.switch.otherConfig);
  } else if (change.kind === 'SetBridge') {
    checkBridge(change.record, model.bridges.get(change.record.name)?.bridge);
  } else if (change.kind === 'SetPort') {
    checkPort(model, change.bridge, change.record, model.bridges.get(change.bridge)?.ports.get(change.record.name));
  }
}

function checkBridge(record: BridgeRecord, before: BridgeRecord | undefined): void {
  checkName(record.name, 'bridge');
  checkOptions(BRIDGE_OPTIONS, record.otherConfig, before?.otherConfig ?? {});
}

function checkPort(model: Model, bridge: string, record: PortRecord, before: PortRecord | undefined): void {
  checkName(record.name, 'port');
  checkOptions(PORT_OPTIONS, record.otherConfig, before?.otherConfig ?? {});
  if (record.vlanMode === 'access' && record.trunks.length > 0) {
    throw new RequestError('bad_value', 'an access port has no trunks', {
      field: 'trunks',
      hint: 'clear trunks, or choose another vlan_mode',
    });
  }
  if (record.mtuRequest > 0 && record.mtuRequest < MIN_MTU) {
    throw new RequestError('bad_value', `MTU ${record.mtuRequest} is too small`, {
      field: 'mtuRequest',
      hint: `give ${MIN_MTU} to 65535, or 0 for 1500`,
    });
  }
  for (const [name, { ports }] of model.bridges) {
    for (const other of ports.values()) {
      if (other.name === record.name) continue;
      const path = socketPath(record);
      if (path !== '' && path === socketPath(other) && !sharesSocket(record, other)) {
        throw new RequestError('exists', `${path} is the socket of port ${other.name} already`, {
          field: 'options.path',
          hint:
            record.type === 'memif'
              ? 'give every memif port there an option id of its own'
              : 'give every port a socket of its own',
          status: 409,
        });
      }
      if (name === bridge && record.ofportRequest > 0 && other.ofportRequest === record.ofportRequest) {
        throw new RequestError(
          'exists',
          `OpenFlow port ${record.ofportRequest} is asked for by port ${other.name} already`,
          {
            field: 'ofportRequest',
            status: 409,
          },
        );
      }
    }
  }
}

/** Memif ports share a socket: each end of each id is there once. */
function sharesSocket(a: PortRecord, b: PortRecord): boolean {
  const end = ({ options }: PortRecord) => `${options['role'] ?? 'server'} ${options['id'] ?? '0'}`;
  return a.type === 'memif' && b.type === 'memif' && end(a) !== end(b);
}

const socketPath = (port: PortRecord): string => port.options.path ?? port.options['vhost-server-path'] ?? '';
