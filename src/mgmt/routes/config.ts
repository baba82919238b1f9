/** The configuration as a whole: read at once, changed in transactions. */
import { RequestError } from '#ofproto/api.ts';
import { applyChange, type Columns, type ConfigChange, type Model } from '../model.ts';
import type { Route } from '../route.ts';
import { change } from '../single-change.ts';
import {
  type BridgeSpecMessage,
  bridgeMessage,
  bridgeRecord,
  findPort,
  type PortSpecMessage,
  portRecord,
} from '../views.ts';

const tag = 'configuration';

interface OperationMessage {
  setSwitch?: { otherConfig?: Columns; externalIds?: Columns };
  setBridge?: BridgeSpecMessage;
  deleteBridge?: string;
  setPort?: { bridge: string; port: PortSpecMessage };
  deletePort?: { bridge: string; port: string };
}

const switchChange = (model: Model, message: NonNullable<OperationMessage['setSwitch']>): ConfigChange => ({
  kind: 'SetSwitch',
  record: { uuid: model.switch.uuid, otherConfig: message.otherConfig ?? {}, externalIds: message.externalIds ?? {} },
});

function operationChange(model: Model, operation: OperationMessage): ConfigChange {
  if (operation.setSwitch) return switchChange(model, operation.setSwitch);
  if (operation.setBridge) return { kind: 'SetBridge', record: bridgeRecord(operation.setBridge) };
  if (operation.deleteBridge !== undefined) return { kind: 'DeleteBridge', name: operation.deleteBridge };
  if (operation.setPort) {
    const { bridge, port } = operation.setPort;
    return { kind: 'SetPort', bridge, record: portRecord(port, findPort(model, bridge, port.name)) };
  }
  if (operation.deletePort)
    return { kind: 'DeletePort', bridge: operation.deletePort.bridge, name: operation.deletePort.port };
  throw new RequestError('invalid_request', 'operation is empty', { field: 'operations' });
}

export const configRoutes: readonly Route[] = [
  {
    method: 'GET',
    url: '/v1/config',
    summary: 'All of the configuration, with state and statistics',
    tag,
    reply: 'Config',
    handler: ({ manager, version }) => ({
      generation: manager.generation,
      uuid: manager.model.switch.uuid,
      switch: { otherConfig: manager.model.switch.otherConfig, externalIds: manager.model.switch.externalIds },
      bridges: [...manager.model.bridges.values()].map((model) => bridgeMessage(manager, model)),
      version,
    }),
  },
  {
    method: 'POST',
    url: '/v1/transactions',
    summary: 'Several changes of the configuration: all or none',
    tag,
    body: 'Transaction',
    reply: 'TransactionReply',
    handler: async ({ manager }, { body }) => {
      const { operations, generation } = body as { operations?: OperationMessage[]; generation?: number };
      let model = manager.model;
      const changes = (operations ?? []).map((operation) => {
        const one = operationChange(model, operation);
        // A port that is deleted and added again in one transaction is a new one.
        if (one.kind === 'DeletePort' || one.kind === 'DeleteBridge') model = tryApply(model, one);
        return one;
      });
      return { generation: await manager.transact(changes, generation) };
    },
  },
  {
    method: 'GET',
    url: '/v1/switch',
    summary: 'Columns of the Open_vSwitch record',
    tag,
    reply: 'SwitchOptions',
    handler: ({ manager }) => ({
      otherConfig: manager.model.switch.otherConfig,
      externalIds: manager.model.switch.externalIds,
    }),
  },
  {
    method: 'PUT',
    url: '/v1/switch',
    summary: 'Replace the columns of the Open_vSwitch record',
    tag,
    body: 'SwitchOptions',
    reply: 'SwitchOptions',
    handler: async ({ manager }, { body }) => {
      await change(manager, (model) => switchChange(model, body as NonNullable<OperationMessage['setSwitch']>));
      return { otherConfig: manager.model.switch.otherConfig, externalIds: manager.model.switch.externalIds };
    },
  },
];

/** Errors are told when the transaction is run. */
function tryApply(model: Model, change: ConfigChange): Model {
  try {
    return applyChange(model, change);
  } catch {
    return model;
  }
}
