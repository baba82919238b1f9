/** The HTTP API over real sockets: JSON and protobuf, checks, paging, OpenAPI, who is let in. */
import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Validator } from '@seriousme/openapi-schema-validator';
import test from 'ava';
import fc from 'fast-check';
import { ROUTES } from '#mgmt/api.ts';
import { decodeMessage, encodeMessage, MESSAGE_NAMES } from '#mgmt/messages.ts';
import { ApiServer } from '#mgmt/server.ts';
import { until, which } from '../support/process.ts';
import { type Answer, call, type Harness, startHarness } from './harness.ts';

const PROTOBUF = 'application/x-protobuf';

async function withSwitch(
  work: (harness: Harness, send: Send) => Promise<void>,
  options: Parameters<typeof startHarness>[0] = {},
): Promise<void> {
  const harness = await startHarness(options);
  const where = { socketPath: harness.server.socketPath };
  try {
    await work(harness, (...args) => call(where, ...args));
  } finally {
    await harness.stop();
  }
}

type Send = (
  method: string,
  path: string,
  body?: object | string | Buffer,
  headers?: Record<string, string>,
) => Promise<Answer>;

async function bridgeWithPort(send: Send): Promise<void> {
  await send('POST', '/v1/bridges', { name: 'br0' });
  await send('POST', '/v1/bridges/br0/ports', { name: 'p1', type: 'dummy' });
}

test('a bridge and its ports are made, read, changed and deleted', (t) =>
  withSwitch(async ({ fake }, send) => {
    t.is((await send('POST', '/v1/bridges', { name: 'br0', failMode: 'secure' })).status, 200);
    const port = await send('POST', '/v1/bridges/br0/ports', { name: 'p1', type: 'dummy', tag: 7, ofportRequest: 4 });
    t.like(port.json, { bridge: 'br0', ofport: 4, linkUp: true, state: 'up', spec: { name: 'p1', tag: 7 } });
    t.is((await send('PATCH', '/v1/bridges/br0/ports/p1', { name: 'p1', mtuRequest: 9000 })).json.spec.tag, 7);
    t.is(fake.bridges.get('br0')!.port('p1')!.mtuRequest, 9000);
    const { json } = await send('GET', '/v1/bridges/br0');
    t.deepEqual(
      json.ports.map((each: { ofport: number }) => each.ofport),
      [65534, 4],
    );
    t.is((await send('DELETE', '/v1/bridges/br0/ports/p1')).status, 200);
    t.is((await send('DELETE', '/v1/bridges/br0')).status, 200);
    t.deepEqual((await send('GET', '/v1/bridges')).json, { bridges: [], nextPage: '', total: 0 });
  }));

test('every wrong request names the field and a fix', (t) =>
  withSwitch(async (_harness, send) => {
    await bridgeWithPort(send);
    const cases: [string, string, object | string, Record<string, string>, number, string, string, RegExp][] = [
      ['POST', '/v1/bridges', {}, {}, 400, 'invalid_request', 'name', /give name/],
      [
        'POST',
        '/v1/bridges',
        { name: 'x', nam: 1 },
        {},
        400,
        'invalid_request',
        'nam',
        /did you mean name|known fields|leave it out/,
      ],
      ['POST', '/v1/bridges', { name: 5 }, {}, 400, 'invalid_request', 'name', /type string/],
      [
        'POST',
        '/v1/bridges',
        { name: 'b', failMode: 'open' },
        {},
        400,
        'invalid_request',
        'failMode',
        /standalone, secure/,
      ],
      ['POST', '/v1/bridges', { name: 'br0' }, {}, 409, 'exists', 'name', /PUT/],
      ['POST', '/v1/bridges/br0/ports', { name: 'p2', tag: 5000 }, {}, 400, 'invalid_request', 'tag', /^$/],
      [
        'POST',
        '/v1/bridges/br0/ports',
        { name: 'p2', trunks: [1, 'x'] },
        {},
        400,
        'invalid_request',
        'trunks[1]',
        /integer/,
      ],
      [
        'POST',
        '/v1/bridges/br0/ports',
        { name: 'p2', options: { a: 5 } },
        {},
        400,
        'invalid_request',
        'options.a',
        /string/,
      ],
      ['POST', '/v1/bridges/no/ports', { name: 'p2' }, {}, 404, 'no_such_bridge', 'bridge', /^$/],
      [
        'POST',
        '/v1/bridges/br0/flows',
        { mods: [{ command: 'ad', flow: '' }] },
        {},
        400,
        'invalid_request',
        'mods[0].command',
        /add, modify/,
      ],
      [
        'POST',
        '/v1/bridges/br0/flows',
        {
          mods: [
            { command: 'add', flow: 'ip,actions=drop' },
            { command: 'add', flow: 'ipx,actions=drop' },
          ],
        },
        {},
        400,
        'unknown_keyword',
        'mods[1].flow.ipx',
        /^/,
      ],
      [
        'POST',
        '/v1/bridges/br0/flows',
        'ip,actions=drop\n# c\nnw_src=1.2.3.256,actions=drop',
        { 'content-type': 'text/plain' },
        400,
        '',
        'line 3',
        /^/,
      ],
      ['POST', '/v1/bridges', '{', { 'content-type': 'application/json' }, 400, 'invalid_request', 'body', /^/],
      ['POST', '/v1/bridges', 'name', { 'content-type': 'text/plain' }, 415, 'invalid_request', 'body', /protobuf/],
      ['POST', '/v1/bridges', 'x', { 'content-type': 'text/html' }, 415, 'invalid_request', 'body', /json/],
      [
        'PUT',
        '/v1/switch',
        { otherConfig: { 'max-idel': '5000' } },
        {},
        400,
        'unknown_option',
        'otherConfig.max-idel',
        /max-idle/,
      ],
      ['POST', '/v1/transactions', { operations: [{}] }, {}, 400, 'invalid_request', 'operations[0]', /exactly one/],
    ];
    for (const [method, path, body, headers, status, code, field, hint] of cases) {
      const answer = await send(method, path, body, headers);
      const about = `${method} ${path} ${JSON.stringify(body)} → ${answer.bytes}`;
      t.is(answer.status, status, about);
      if (code) t.is(answer.json.error.code, code, about);
      t.is(answer.json.error.field, field, about);
      t.regex(answer.json.error.hint, hint, about);
      t.not(answer.json.error.message, '', about);
    }
    t.is((await send('GET', '/v1/nothing')).status, 404);
    t.is((await send('GET', '/v1/bridges/br0/flows?limt=4')).json.error.field, 'limt');
    t.is((await send('GET', '/v1/bridges/br0/flows?limit=0')).json.error.field, 'limit');
    t.is((await send('GET', '/v1/bridges/br0/flows')).json.total, 1, 'nothing of the wrong requests is in force');
  }));

test('protobuf and JSON say the same, in requests, replies and errors', (t) =>
  withSwitch(async (_harness, send) => {
    const body = encodeMessage('BridgeSpec', {
      name: 'br0',
      failMode: 'secure',
      otherConfig: { 'mac-aging-time': '60' },
    });
    const headers = { 'content-type': PROTOBUF, accept: PROTOBUF };
    const made = await send('POST', '/v1/bridges', body, headers);
    t.is(made.headers['content-type'], PROTOBUF);
    t.like(decodeMessage('Bridge', made.bytes), { spec: { name: 'br0', failMode: 'secure' } });
    const mods = { mods: [{ command: 'add', flow: 'cookie=0xffffffffffffffff,ip,actions=drop' }] };
    const applied = await send('POST', '/v1/bridges/br0/flows', encodeMessage('FlowMods', mods), headers);
    t.deepEqual(decodeMessage('Applied', applied.bytes), { applied: 1 });
    await send('POST', '/v1/bridges/br0/ports', { name: 'p1', type: 'dummy', tag: 0 });
    for (const route of ROUTES.filter(({ method, url }) => method === 'GET' && !url.includes(':port'))) {
      const url = route.url.replace(':name', 'br0').replace(/lookup$/, 'lookup?address=127.0.0.1');
      const json = (await send('GET', url)).json;
      const bytes = (await send('GET', url, undefined, { accept: PROTOBUF })).bytes;
      const both = [json, decodeMessage(route.reply, bytes)].map((message) =>
        decodeMessage(route.reply, encodeMessage(route.reply, message)),
      );
      if (!/healthz|coverage|config|flows|ports|bridges/.test(url)) t.deepEqual(both[1], both[0], url);
      t.deepEqual(Object.keys(both[1]!), Object.keys(both[0]!), url);
    }
    const wrong = await send('POST', '/v1/bridges', encodeMessage('BridgeSpec', { failMode: 'secure' }), headers);
    t.is(wrong.status, 400);
    t.like(decodeMessage('ErrorReply', wrong.bytes), { error: { field: 'name', code: 'invalid_request' } });
    const junk = await send('POST', '/v1/bridges', Buffer.from([0xff, 0xff, 0xff]), headers);
    t.is(junk.status, 400);
    t.like(decodeMessage('ErrorReply', junk.bytes), { error: { field: 'body' } });
  }));

test('random bytes as protobuf bodies are answered with 4xx or done, never with 500', (t) =>
  withSwitch(async (_harness, send) => {
    await bridgeWithPort(send);
    const paths = ['/v1/bridges', '/v1/bridges/br0/flows', '/v1/transactions', '/v1/trace', '/v1/flows/diff'];
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...paths), fc.uint8Array({ maxLength: 60 }), async (path, bytes) => {
        const { status } = await send('POST', path, Buffer.from(bytes), { 'content-type': PROTOBUF });
        t.true(
          status === 200 || (status >= 400 && status < 500),
          `${path} ${Buffer.from(bytes).toString('hex')} → ${status}`,
        );
      }),
      { numRuns: 150 },
    );
  }));

test('the OpenAPI document is valid and has every route', (t) =>
  withSwitch(async (_harness, send) => {
    const { json } = await send('GET', '/openapi.json');
    const result = await new Validator().validate(json);
    t.true(result.valid, JSON.stringify(result.errors));
    for (const { method, url } of ROUTES) {
      const path = url.replace(/:(\w+)/g, '{$1}');
      t.truthy(json.paths[path]?.[method.toLowerCase()], `${method} ${url}`);
    }
    for (const name of MESSAGE_NAMES) t.truthy(json.components.schemas[name], name);
    const { content } = json.paths['/v1/bridges'].post.requestBody;
    t.deepEqual(Object.keys(content), ['application/json', PROTOBUF]);
  }));

test('pages join to the whole list as it was at the first page', (t) =>
  withSwitch(async (_harness, send) => {
    await send('POST', '/v1/bridges', { name: 'br0', failMode: 'secure' });
    const flow = (n: number): object => ({ command: 'add', flow: `priority=${n},ip,actions=drop` });
    await send('POST', '/v1/bridges/br0/flows', { mods: Array.from({ length: 25 }, (_, n) => flow(n + 1)) });
    const seen: number[] = [];
    let page = '';
    do {
      const { json } = await send('GET', `/v1/bridges/br0/flows?limit=10${page && `&page=${page}`}`);
      seen.push(...json.flows.map((each: { priority: number }) => each.priority));
      t.is(json.total, 25);
      page = json.nextPage;
      await send('DELETE', '/v1/bridges/br0/flows');
    } while (page);
    t.deepEqual(
      seen.sort((a, b) => a - b),
      Array.from({ length: 25 }, (_, n) => n + 1),
    );
    t.is((await send('GET', '/v1/bridges/br0/flows?page=nope.10')).json.error.code, 'page_expired');
  }));

test('100 000 flows go in with one request, or none of them', (t) =>
  withSwitch(
    async ({ manager }, send) => {
      await send('POST', '/v1/bridges', { name: 'br0', failMode: 'secure' });
      const lines = Array.from(
        { length: 100_000 },
        (_, n) => `ip,nw_dst=10.${n >> 16}.${(n >> 8) & 255}.${n & 255} actions=drop`,
      );
      const text = { 'content-type': 'text/plain' };
      const bad = await send('POST', '/v1/bridges/br0/flows', [...lines, 'ip,actions=nosuch'].join('\n'), text);
      t.is(bad.json.error.field, 'line 100001');
      t.is(manager.bridge('br0').aggregate('').flows, 0);
      t.deepEqual((await send('POST', '/v1/bridges/br0/flows', lines.join('\n'), text)).json, { applied: 100_000 });
      t.is(manager.bridge('br0').aggregate('').flows, 100_000);
    },
    { ofproto: true },
  ));

test('a body above its limit is refused with 413', (t) =>
  withSwitch(async (_harness, send) => {
    const { status, json } = await send('POST', '/v1/bridges', { name: 'x'.repeat(2 << 20) });
    t.is(status, 413);
    t.is(json.error.field, 'body');
  }));

test('a dump as text is that of ovs-ofctl, in the terms of the protocol version that is asked for', (t) =>
  withSwitch(
    async (_harness, send) => {
      await send('POST', '/v1/bridges', { name: 'br0', failMode: 'secure' });
      const mods = { mods: [{ command: 'add', flow: 'priority=5,ip,actions=mod_nw_dst:1.2.3.4' }] };
      await send('POST', '/v1/bridges/br0/flows?protocol=OpenFlow11', mods);
      const text = async (query: string): Promise<string> =>
        String((await send('GET', `/v1/bridges/br0/flows?${query}`, undefined, { accept: 'text/plain' })).bytes);
      t.is(await text('stats=false'), ' priority=5,ip actions=mod_nw_dst:1.2.3.4\n');
      t.is(
        await text('stats=false&protocol=OpenFlow13'),
        ' reset_counts priority=5,ip actions=set_field:1.2.3.4->ip_dst\n',
      );
      t.is(await text('filter=arp'), '');
      const refused = await send('GET', '/v1/bridges/br0/flows?protocol=x', undefined, { accept: 'text/plain' });
      t.is(refused.status, 400);
      t.is(refused.json.error.field, 'protocol');
      t.is((await send('GET', '/v1/bridges/nosuch/flows', undefined, { accept: 'text/plain' })).status, 404);
      const many = Array.from({ length: 1203 }, (_, n) => `priority=${n + 1},actions=drop`).join('\n');
      await send('PUT', '/v1/bridges/br0/flows', many, { 'content-type': 'text/plain' });
      t.is((await text('')).split('\n').length, 1204);
    },
    { ofproto: true },
  ));

test('flows are replaced so that those that stay keep their statistics, and compared', (t) =>
  withSwitch(
    async ({ manager }, send) => {
      await send('POST', '/v1/bridges', { name: 'br0', failMode: 'secure' });
      await send('POST', '/v1/bridges/br0/flows', {
        mods: [
          { command: 'add', flow: 'ip,actions=drop' },
          { command: 'add', flow: 'arp,actions=drop' },
        ],
      });
      await new Promise((done) => setTimeout(done, 30));
      const b = 'ip,actions=drop\nudp,priority=5,actions=NORMAL\n';
      const { json } = await send('POST', '/v1/flows/diff', { bridge: 'br0', b });
      t.deepEqual(json.lines, ['-arp actions=drop', '+priority=5,udp actions=NORMAL']);
      const { json: applied } = await send('PUT', '/v1/bridges/br0/flows', { flows: b.trim().split('\n') });
      t.deepEqual(applied, { applied: 2 });
      const ages = Object.fromEntries(
        manager
          .bridge('br0')
          .dumpFlows('')
          .map(({ match, duration }) => [match, duration]),
      );
      t.deepEqual(Object.keys(ages).sort(), ['ip', 'udp']);
      t.true(ages['ip']! > ages['udp']!);
    },
    { ofproto: true },
  ));

test('a transaction is all or none and tells the operation that failed', (t) =>
  withSwitch(async ({ fake }, send) => {
    const operations = [
      { setBridge: { name: 'br0' } },
      { setPort: { bridge: 'br0', port: { name: 'p1', type: 'dummy' } } },
      { setPort: { bridge: 'br0', port: { name: 'p2', type: 'bogus' } } },
    ];
    const { status, json } = await send('POST', '/v1/transactions', { operations });
    t.is(status, 400);
    t.is(json.error.field, 'operations[2].setPort.port');
    t.is(fake.bridges.size, 0);
    t.is((await send('POST', '/v1/transactions', { operations: operations.slice(0, 2) })).status, 200);
    t.is((await send('POST', '/v1/transactions', { operations: [], generation: 1 })).json.error.code, 'conflict');
  }));

test('changes of one port at the same time are all kept', (t) =>
  withSwitch(async ({ fake }, send) => {
    await bridgeWithPort(send);
    const columns = [
      { mtuRequest: 9000 },
      { tag: 7 },
      { config: ['no-flood'] },
      { externalIds: { a: 'b' } },
      { options: { c: 'd' } },
    ];
    await Promise.all(columns.map((column) => send('PATCH', '/v1/bridges/br0/ports/p1', { name: 'p1', ...column })));
    t.like(fake.bridges.get('br0')!.port('p1'), {
      mtuRequest: 9000,
      tag: 7,
      config: ['no-flood'],
      options: { c: 'd' },
    });
  }));

test('an address off this machine needs a token', (t) => {
  const options = {
    manager: { datapath: {} } as never,
    rundir: '/tmp',
    version: '',
    log: console,
    exit: () => undefined,
  };
  t.throws(() => new ApiServer({ ...options, address: '0.0.0.0:8480', token: '' }), { message: /bearer token/ });
  t.throws(() => new ApiServer({ ...options, address: '[::]:8480', token: '' }), { message: /bearer token/ });
  t.throws(() => new ApiServer({ ...options, address: '8480', token: '' }), { message: /host:port/ });
  t.notThrows(() => new ApiServer({ ...options, address: '127.0.0.1:8480', token: '' }));
  t.notThrows(() => new ApiServer({ ...options, address: '0.0.0.0:8480', token: 'secret' }));
});

test('TCP asks for the token that was set, the unix socket does not', (t) =>
  withSwitch(
    async ({ server }, send) => {
      const port = Number(server.address.split(':').at(-1));
      const at = { host: '127.0.0.1', port };
      t.is((await call(at, 'GET', '/healthz')).status, 401);
      t.is((await call(at, 'GET', '/healthz', undefined, { authorization: 'Bearer wrong' })).status, 401);
      t.is((await call(at, 'GET', '/healthz', undefined, { authorization: 'Bearer secret' })).status, 200);
      t.is((await send('GET', '/healthz')).status, 200);
    },
    { address: '127.0.0.1:0', token: 'secret' },
  ));

test('a page of another site cannot use the loopback address', (t) =>
  withSwitch(
    async ({ server }) => {
      const port = Number(server.address.split(':').at(-1));
      const at = { host: '127.0.0.1', port };
      const text = { 'content-type': 'text/plain' };
      t.is(
        (await call(at, 'POST', '/v1/bridges/br0/flows', '', { ...text, origin: 'http://evil.example' })).status,
        403,
      );
      t.is((await call(at, 'GET', '/healthz', undefined, { host: 'evil.example' })).status, 403);
      t.is(
        (
          await call(at, 'GET', '/healthz', undefined, {
            host: `localhost:${port}`,
            origin: `http://localhost:${port}`,
          })
        ).status,
        200,
      );
    },
    { address: '127.0.0.1:0' },
  ));

test('the socket belongs to its owner alone, a stale one is replaced, a live one respected', (t) =>
  withSwitch(async ({ rundir, server, manager }) => {
    t.is((await stat(server.socketPath)).mode & 0o777, 0o600);
    const options = { manager, rundir, address: '', token: '', version: '', log: console, exit: () => undefined };
    await t.throwsAsync(new ApiServer(options).listen(), { message: /another rw-vswitchd answers/ });
    const deep = new ApiServer({ ...options, rundir: join(rundir, 'x'.repeat(100)) });
    await t.throwsAsync(deep.listen(), { message: /too long for a unix socket/ });
  }));

test('metrics are in the text format of Prometheus', (t) =>
  withSwitch(async (_harness, send) => {
    await bridgeWithPort(send);
    const { bytes, headers } = await send('GET', '/metrics');
    t.regex(String(headers['content-type']), /^text\/plain; version=0\.0\.4/);
    const text = bytes.toString();
    t.regex(text, /^ringway_pmd_rx_packets_total\{worker="0"\} 7$/m);
    t.regex(text, /^ringway_port_drops_total\{bridge="br0",port="p1",reason="rx_bad_descriptor"\} 2$/m);
    t.regex(text, /^ringway_bridge_flows\{bridge="br0"\} 1$/m);
  }));

test('exit is answered before it happens', (t) =>
  withSwitch(async ({ exits }, send) => {
    t.is((await send('POST', '/v1/exit', { keepDatapath: true })).status, 200);
    await until('the exit', () => exits.length > 0);
    t.deepEqual(exits, [true]);
  }));

const withCurl = which('curl') ? test : test.skip;
withCurl(`curl works on the unix socket${which('curl') ? '' : ' (curl is not installed)'}`, (t) =>
  withSwitch(async ({ server }) => {
    const curl = (...args: string[]) =>
      promisify(execFile)('curl', ['-s', '--unix-socket', server.socketPath, ...args]);
    await curl('http://rw/v1/bridges', '-H', 'content-type: application/json', '-d', '{"name":"br0"}');
    const { stdout } = await curl(
      'http://rw/v1/bridges/br0/flows',
      '-H',
      'content-type: text/plain',
      '-d',
      'ip,actions=drop',
    );
    t.deepEqual(JSON.parse(stdout), { applied: 1 });
  }),
);
