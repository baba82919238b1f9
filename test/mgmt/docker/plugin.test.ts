import { existsSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { DockerPlugin, PLUGIN_SOCKET, pluginSocket } from '#mgmt/docker/plugin.ts';
import { allEndpoints, allNetworks } from '#mgmt/docker/records.ts';
import { Child } from '../../support/process.ts';
import { call, quiet, startHarness } from '../harness.ts';
import { createEndpoint, createNetwork, id, startRig } from './rig.ts';

const TYPE = 'application/vnd.docker.plugins.v1.1+json';

test('the plugin says what it is, in the content type of plugins', async (t) => {
  const rig = await startRig();
  try {
    const activate = await rig.raw('POST', '/Plugin.Activate');
    t.is(activate.headers['content-type'], TYPE);
    t.deepEqual(activate.json, { Implements: ['NetworkDriver'] });
    t.deepEqual(await rig.ask('GetCapabilities'), { Scope: 'local', ConnectivityScope: 'local' });
    for (const method of ['FreeNetwork', 'DiscoverNew', 'DiscoverDelete'])
      t.deepEqual(await rig.ask(method), {}, method);
    t.deepEqual(await rig.ask('AllocateNetwork', { NetworkID: id(1) }), { Options: {} });
    const unknown = await rig.raw('POST', '/NetworkDriver.Nonsense', {});
    t.is(unknown.status, 404);
    t.regex(unknown.json.Err, /there is no POST \/NetworkDriver.Nonsense/);
    const broken = await rig.raw('POST', '/NetworkDriver.CreateNetwork', '{"NetworkID"');
    t.is(broken.status, 400);
    t.regex(broken.json.Err, /not JSON/);
    t.is(statSync(rig.socket).mode & 0o777, 0o600);
  } finally {
    await rig.stop();
  }
  t.false(existsSync(rig.socket));
});

test('what other_config says decides whether and where the plugin listens', (t) => {
  t.is(pluginSocket({}, false), '');
  t.is(pluginSocket({}, true), PLUGIN_SOCKET);
  t.is(pluginSocket({ docker: 'true' }, false), PLUGIN_SOCKET);
  t.is(pluginSocket({ docker: 'false' }, true), '');
  t.is(pluginSocket({ docker: 'true', 'docker-socket': '/x/y.sock' }, false), '/x/y.sock');
});

test('the configuration switches the plugin on and off, and refuses a socket that cannot be', async (t) => {
  const harness = await startHarness();
  const { manager, rundir } = harness;
  const plugin = new DockerPlugin({ recover: async () => {} } as never, quiet);
  manager.onOptions = async (options) => {
    await plugin.listen(pluginSocket(options, false));
  };
  const set = (otherConfig: Record<string, string>): Promise<number> =>
    manager.transact([{ kind: 'SetSwitch', record: { ...manager.model.switch, otherConfig } }]);
  try {
    const socket = join(rundir, 'plugin.sock');
    await set({ docker: 'true', 'docker-socket': socket });
    t.true(existsSync(socket));
    writeFileSync(join(rundir, 'file'), '');
    const bad = { docker: 'true', 'docker-socket': join(rundir, 'file') };
    await t.throwsAsync(set(bad), { message: /plugin socket .*file/ });
    t.true(existsSync(socket), 'the plugin is as before');
    await t.throwsAsync(set({ docker: 'yes' }), { message: /not a valid docker/ });
    await set({});
    t.false(existsSync(socket));
  } finally {
    await plugin.close();
    await harness.stop();
  }
});

test('a socket left by a crash is taken over, one in use is not', async (t) => {
  const rig = await startRig();
  const other = new DockerPlugin(rig.driver, quiet);
  try {
    await t.throwsAsync(other.listen(rig.socket), { message: /another switch answers/ });
    const stale = join(rig.rundir, 'stale.sock');
    // A process that is killed leaves the file of its socket.
    const code = `require('node:net').createServer().listen(process.argv[1], () => console.log('listens'))`;
    const dead = new Child(process.execPath, ['-e', code, stale]);
    await dead.waitFor(/listens/, 'the socket');
    await dead.stop('SIGKILL');
    t.true(existsSync(stale));
    await other.listen(stale);
    const answer = await call({ socketPath: stale }, 'POST', '/Plugin.Activate');
    t.deepEqual(answer.json, { Implements: ['NetworkDriver'] });
  } finally {
    await other.close();
    await rig.stop();
  }
});

test('no request, however malformed, brings the plugin down', async (t) => {
  const rig = await startRig();
  const methods = [
    'CreateNetwork',
    'DeleteNetwork',
    'CreateEndpoint',
    'EndpointOperInfo',
    'DeleteEndpoint',
    'Join',
    'Leave',
  ];
  const wild = fc.record(
    {
      NetworkID: fc.oneof(fc.constant(id(1)), fc.jsonValue()),
      EndpointID: fc.oneof(fc.constant(id(2)), fc.jsonValue()),
      Options: fc.jsonValue(),
      IPv4Data: fc.jsonValue(),
      Interface: fc.jsonValue(),
    },
    { requiredKeys: [] },
  );
  try {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...methods), fc.oneof(wild, fc.jsonValue()), async (method, body) => {
        const { status, json } = await rig.raw('POST', `/NetworkDriver.${method}`, JSON.stringify(body));
        return status === 200 ? json.Err === undefined : status === 400 && typeof json.Err === 'string';
      }),
      { numRuns: 300 },
    );
    t.deepEqual(await rig.ask('Plugin.Activate'), { Implements: ['NetworkDriver'] });
  } finally {
    await rig.stop();
  }
});

test('whatever order requests come in, pairs and ports are those of the endpoints told of', async (t) => {
  const step = fc.record({
    method: fc.constantFrom('CreateNetwork', 'DeleteNetwork', 'CreateEndpoint', 'DeleteEndpoint', 'Join', 'recover'),
    network: fc.integer({ min: 1, max: 2 }),
    endpoint: fc.integer({ min: 3, max: 5 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      const rig = await startRig();
      try {
        const networks = new Set<number>();
        const endpoints = new Map<number, number>();
        for (const { method, network, endpoint } of steps) {
          if (method === 'recover') await rig.driver.recover();
          else {
            const body = method === 'CreateNetwork' ? createNetwork(network) : createEndpoint(network, endpoint);
            const answer = await rig.ask(method, body);
            if (answer.Err !== undefined) continue;
          }
          if (method === 'CreateNetwork') networks.add(network);
          if (method === 'CreateEndpoint' && !endpoints.has(endpoint)) endpoints.set(endpoint, network);
          if (method === 'DeleteEndpoint') endpoints.delete(endpoint);
          if (method === 'DeleteNetwork') {
            networks.delete(network);
            for (const [key, at] of endpoints) if (at === network) endpoints.delete(key);
          }
        }
        const { model } = rig.manager;
        t.deepEqual(
          allNetworks(model)
            .map((n) => n.id)
            .sort(),
          [...networks].map(id).sort(),
        );
        const told = [...endpoints.keys()].map(id).sort();
        t.deepEqual(
          allEndpoints(model)
            .map((e) => e.id)
            .sort(),
          told,
        );
        t.deepEqual(
          [...rig.links.pairs.keys()].sort(),
          told.map((e) => `rwh-${e.slice(0, 11)}`),
        );
      } finally {
        await rig.stop();
      }
    }),
    { numRuns: 25 },
  );
});
