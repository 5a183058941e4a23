// That no tenant sees or changes what another has: two tenants full of data, and hostile requests by every route, method, socket
// and stream that the running faces have, from their own lists.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { encodeFrame, type Frame, subject } from '@fleetreel/proto';
import type {
  Accepted,
  AuditRecords,
  DeadLetters,
  Enrolled,
  InvitedUser,
  ReplaySession,
  SignedIn,
} from '@fleetreel/proto/http';
import { KeyPair } from '@fleetreel/proto/nats_jwt';
import { packageDefinition } from '@fleetreel/proto/services';
import { ReelReader } from '@fleetreel/reel/reader';
import { NatsInstallation } from '@fleetreel/test/servers/nats_installation';
import { freePort, startProgram } from '@fleetreel/test/servers/program';
import { type Questdb, startQuestdb } from '@fleetreel/test/servers/questdb';
import { Client, credentials, Metadata, type MethodDefinition, type ServiceError, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { Enrolment, readIssuer } from '#access/enrolment.ts';
import type { Identity } from '#access/identity.ts';
import { systemClock } from '#clock.ts';
import { describedHost, serveRooms, startFaces, startLog } from '#testing.ts';

/** Requests of the generator; more are asked for by the environment. */
const requests = Number(process.env.FLEETREEL_TENANT_REQUESTS ?? 400);
const seed = Number(process.env.FLEETREEL_TENANT_SEED ?? 20_261_122);
/** Requests that are asked at once. */
const atOnce = 8;
/** How long a socket or stream is silent before it is taken to have told all, milliseconds. */
const silentMilliseconds = 100;

/** What only the tenant acme has, and no request says: in names, texts, labels and as a value. */
const mark = { text: 'leaked-7f3a', value: 424242.125 };
/** What the tenant default has of the same kind: where it is answered, a mistake would have shown the other. */
const own = { text: 'own-5b2c', value: 171717.125 };
const password = 'correct horse battery';

const closing = new AsyncDisposableStack();
const folder = closing.adopt(mkdtempSync(join(tmpdir(), 'fleetreel-tenants-')), (path) =>
  rmSync(path, { recursive: true, force: true }),
);
let faces: Awaited<ReturnType<typeof startFaces>>['faces'];
let log: Awaited<ReturnType<typeof startLog>>['log'];
let registry: Awaited<ReturnType<typeof startLog>>['registry'];
let questdb: Questdb;
let enrolment: Enrolment;
let client: Client;
let bearers: Record<Tenant, string>;
/** Secrets of acme, which must be worth the same afterwards. */
let kept: { session: string; invitation: string; enrolment: string };
/** Values that are of acme, by what a parameter is called. */
let foreign: Readonly<Record<string, readonly string[]>>;
let sequence = 0;

type Tenant = 'default' | 'acme';
type Random = { next: () => number; pick: <T>(of: readonly T[]) => T };

beforeAll(async () => {
  const nats = closing.use(await NatsInstallation.start());
  questdb = closing.use(await startQuestdb());
  const [httpPort, grpcPort] = [await freePort(), await freePort()];
  const issuer = nats.write('issuer.json', JSON.stringify(nats.keys.issuer));
  const flags = {
    'nats-url': nats.collector.url,
    'nats-credentials': nats.collector.credentials,
    'http-port': httpPort,
    'grpc-port': grpcPort,
    'logging-level': 'warn',
  };
  // It stores what comes; what is asked is asked of faces here, whose lists of routes and methods are in reach.
  closing.use(
    await startProgram(
      'packages/collector/src/main.ts',
      ['run', ...Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)])],
      questdb.environment,
    ),
  );
  const ready = async () => (await fetch(`http://127.0.0.1:${httpPort}/readyz`)).status;
  await vi.waitFor(async () => expect(await ready()).toBe(200), { timeout: 60_000, interval: 100 });

  const started = await startFaces(closing, 'none');
  ({ faces } = started);
  const { telemetry } = started;
  const bounds = { age_ms: 3_600_000, bytes: 1024 ** 3 };
  ({ log, registry } = await startLog(closing, nats.collector, bounds, telemetry));
  enrolment = await Enrolment.open({
    log,
    issuer: readIssuer(issuer),
    nats: nats.collector,
    clock: systemClock,
    telemetry,
  });
  closing.defer(() => enrolment.close());
  const allowances = { rate: 20_000, bytes: 4 * 1024 * 1024, names: 100_000 };
  await serveRooms(closing, { telemetry, faces, log, registry, questdb, enrolment, allowances });
  client = closing.adopt(new Client(`127.0.0.1:${faces.grpc.port}`, credentials.createInsecure()), (one) =>
    one.close(),
  );
  await fill();
  const publishing = new AbortController();
  const published = publishAll(publishing.signal);
  closing.defer(async () => {
    publishing.abort();
    await published;
  });
}, 120_000);

afterAll(() => closing.disposeAsync());

/** Both tenants get one of everything; web-1 is a host of both. */
async function fill(): Promise<void> {
  const identity = (tenant: Tenant): Identity => ({
    tenant,
    kind: 'user',
    id: '',
    name: `admin of ${tenant}`,
    scopes: new Set(['admin'] as const),
  });
  const keys = await Promise.all(
    (['default', 'acme'] as const).map((tenant) =>
      faces.access.keys.create(identity(tenant), { name: textOf(tenant), scopes: ['admin'] }),
    ),
  );
  bearers = { default: keys[0]?.secret ?? '', acme: keys[1]?.secret ?? '' };
  for (const tenant of ['default', 'acme'] as const) {
    for (const host of hostsOf(tenant)) await describeHost(tenant, host);
    // Of the time before the log.
    const { text, value } = tenant === 'acme' ? mark : own;
    for (const host of hostsOf(tenant))
      await questdb.query(
        `INSERT INTO cpu (ts, tenant, host, core, used_percent) SELECT dateadd('s', cast(-x as int), now()), '${tenant}', '${host}', '${text}', ${value} FROM long_sequence(60)`,
      );
  }
  const as = (tenant: Tenant) => ({ bearer: bearers[tenant] });
  const invited = await json<InvitedUser>('POST', 'users', as('acme'), { user: mark.text, role: 'viewer' });
  const zoe = await json<InvitedUser>('POST', 'users', as('acme'), { user: 'zoe', role: 'admin' });
  const signedIn = await json<SignedIn>('POST', 'link', {}, { code: zoe.link.code, password, mode: 'token' });
  for (const user of ['bob', own.text]) await json('POST', 'users', as('default'), { user, role: 'viewer' });
  for (const [tenant, host] of [
    ['acme', 'acme-1'],
    ['acme', 'web-1'],
    ['default', 'web-1'],
    ['default', own.text],
  ] as const)
    await json('POST', 'enrolments', as(tenant), { host, mode: 'credentials' });
  const enrolled = await json<Enrolled>('POST', 'enrolments', as('acme'), { host: mark.text, mode: 'code' });
  for (const [tenant, settings] of [
    ['acme', { 'tags.rack': mark.text }],
    ['default', { 'tags.rack': own.text }],
  ] as const)
    for (const target of ['host:web-1', 'all']) {
      const path = `agents/settings/${encodeURIComponent(target)}`;
      await json('PUT', path, as(tenant), { settings });
    }
  for (const tenant of ['default', 'acme'] as const) {
    const { text, value } = tenant === 'acme' ? mark : own;
    const metadata = { note: text };
    const headers = { 'idempotency-key': idempotencyKey };
    for (const count of [1, 2, 3]) {
      const each = count === 1 ? headers : {};
      await json('POST', 'measure', { ...as(tenant), ...each }, { name: 'orders', value, metadata });
      await json('POST', 'event', { ...as(tenant), ...each }, { name: 'orders', text, metadata });
    }
    for (let count = 0; count < 3; count++) {
      const bytes = Buffer.from(`\xff no frame of ${text} ${count}`, 'latin1');
      await log.jetstream.publish(subject({ tenant, kind: 'frame', host: hostsOf(tenant)[1] ?? '' }), bytes);
    }
  }
  await publish();
  kept = { session: signedIn.token ?? '', invitation: invited.link.code, enrolment: enrolled.code ?? '' };
  const answered = async (path: string, tenant: Tenant) => JSON.stringify(await json('GET', path, as(tenant)));
  for (const tenant of ['default', 'acme'] as const)
    for (const path of ['measure', 'event', 'audit', 'latest?table=cpu', 'dead-letters'])
      await vi.waitFor(async () => expect(await answered(path, tenant)).toMatch(/"id"|"sequence"|"time"/), {
        timeout: 20_000,
        interval: 100,
      });
  const letters = await json<DeadLetters>('GET', 'dead-letters', as('acme'));
  const audit = await json<AuditRecords>('GET', 'audit?limit=1', as('acme'));
  const replay = await json<ReplaySession>('POST', 'replays?from=-1h&to=now&speed=0', as('acme'));
  const pages = await Promise.all(
    ['measure?limit=1', 'event?limit=1', 'dead-letters?limit=1'].map((path) =>
      json<{ before: string | number | null }>('GET', path, as('acme')),
    ),
  );
  const secretId = (secret: string) => secret.split('_')[1] ?? '';
  const token = await followed(bearers.acme);
  const hosts = ['acme-1', 'web-1'];
  const sequences = letters.letters.map((letter) => String(letter.sequence));
  foreign = {
    host: hosts,
    hosts,
    target: ['host:acme-1', 'host:web-1', 'acme-1', 'all', 'tag:tenant=acme'],
    id: [secretId(bearers.acme), secretId(kept.session), secretId(kept.invitation), replay.id],
    sequence: sequences,
    sequences,
    from_sequence: sequences,
    to_sequence: sequences,
    before: [...pages, audit].flatMap(({ before }) => (before === null ? [] : String(before))),
    token: [token],
    user: ['zoe'],
    actor: ['zoe', 'admin of acme', secretId(bearers.acme)],
    code: [`frl_${secretId(kept.invitation)}_${'x'.repeat(43)}`, `${kept.enrolment.slice(0, -1)}x`],
    idempotency_key: [idempotencyKey],
    'idempotency-key': [idempotencyKey],
    where: ['tenant=acme', `note=*`, 'source=*'],
  };
}

const idempotencyKey = 'the same of both';
const textOf = (tenant: Tenant): string => (tenant === 'acme' ? mark : own).text;
/** Of acme there is one that no request says: its name alone would be a leak. */
const hostsOf = (tenant: Tenant): string[] =>
  tenant === 'acme' ? ['web-1', mark.text, 'acme-1'] : ['web-1', own.text];

const describeHost = (tenant: Tenant, host: string) =>
  registry.describe(tenant, describedHost(host, { os: textOf(tenant), machine_id: `${textOf(tenant)}-${host}` }));

/** What hosts send, once. */
async function publish(): Promise<void> {
  for (const tenant of ['default', 'acme'] as const)
    for (const host of hostsOf(tenant)) {
      const { text, value } = tenant === 'acme' ? mark : own;
      const bytes = encodeFrame({
        session: '00000000000000ab',
        sequence: ++sequence,
        time_us: Date.now() * 1000,
        interval_ms: 1000,
        tables: { cpu: { core: [text], used_percent: [value] } } as Frame['tables'],
      });
      await log.jetstream.publish(subject({ tenant, kind: 'frame', host }), bytes);
    }
}

/** The same over and over, so that there is something live; and what a request may have forgotten or thrown away of its own. */
async function publishAll(signal: AbortSignal): Promise<void> {
  for (let round = 0; !signal.aborted; round++) {
    await publish();
    if (round % 10 === 0) for (const host of hostsOf('default')) await describeHost('default', host);
    if (round % 5 === 0)
      await log.jetstream.publish(
        `fr.v1.default.frame.${own.text}`,
        Buffer.from(`\xff no frame of ${own.text}`, 'latin1'),
      );
    await pause(200, undefined, { signal }).catch(() => undefined);
  }
}

/** What came back: all that it says, in bytes and in words. */
type Answer = { status: number; ok: boolean; bytes: Buffer };

const url = (path: string): string => `http://127.0.0.1:${faces.http.port}${path}`;

type Headers = Record<string, string>;
const headersOf = ({ bearer, ...more }: { bearer?: string } & Headers): Headers => ({
  ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }),
  ...more,
});

async function ask(method: string, path: string, headers: Headers, body?: string): Promise<Answer> {
  const answer = await fetch(url(path), {
    method,
    redirect: 'manual',
    headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
    ...(body !== undefined && { body }),
  });
  const head = Buffer.from(JSON.stringify([...answer.headers]));
  const bytes = Buffer.concat([head, Buffer.from(await answer.arrayBuffer())]);
  return { status: answer.status, ok: answer.ok, bytes };
}

async function json<T>(
  method: string,
  path: string,
  { bearer, ...headers }: { bearer?: string } & Headers,
  body?: unknown,
): Promise<T> {
  const given = {
    ...headersOf({ ...(bearer !== undefined && { bearer }), ...headers }),
    ...(body !== undefined && { 'content-type': 'application/json' }),
  };
  const answer = await fetch(url(`/api/v1/${path}`), {
    method,
    headers: given,
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return (text === '' ? undefined : JSON.parse(text)) as T;
}

/** Opens a socket, says something, and hears what comes until it is silent, or closed where `ends`. */
async function talk(path: string, bearer: string, messages: readonly string[], ends = false): Promise<Answer> {
  const socket = new WebSocket(url(path).replace('http', 'ws'), {
    headers: headersOf({ bearer }),
  } as unknown as string[]);
  const heard: Buffer[] = [];
  const until = ends ? ending() : silence();
  socket.addEventListener('open', () => {
    for (const message of messages) socket.send(message);
  });
  socket.addEventListener('message', ({ data }) => {
    heard.push(Buffer.from(String(data)));
    until.heard();
  });
  socket.addEventListener('error', () => until.over());
  socket.addEventListener('close', ({ reason }) => {
    heard.push(Buffer.from(reason));
    until.over();
  });
  await until.silent;
  const ok = socket.readyState === WebSocket.OPEN;
  socket.close();
  const bytes = Buffer.concat(heard);
  return { status: bytes.includes('"internal"') ? 500 : 200, ok, bytes };
}

/** Resolves when it is over. */
function ending() {
  const { promise: silent, resolve: over } = Promise.withResolvers<void>();
  return { silent, heard: () => undefined, over };
}

/** Resolves when nothing was heard for a while, or it is over. */
function silence() {
  const { promise: silent, resolve } = Promise.withResolvers<void>();
  let timer = setTimeout(resolve, 3 * silentMilliseconds);
  const last = setTimeout(resolve, 10 * silentMilliseconds);
  return {
    silent: silent.finally(() => {
      clearTimeout(timer);
      clearTimeout(last);
    }),
    heard: () => {
      clearTimeout(timer);
      timer = setTimeout(resolve, silentMilliseconds);
    },
    over: resolve,
  };
}

type Method = MethodDefinition<object, object>;
/** The methods that our contracts describe, by their paths; the others take nothing. */
const methods = new Map(
  Object.values(packageDefinition)
    .filter((one) => !('type' in one))
    .flatMap((service) => Object.values(service as unknown as Record<string, Method>))
    .map((method) => [method.path, method]),
);

/** Calls a method with some messages; of a stream, what comes until it is silent. */
async function call(path: string, metadata: Metadata, messages: readonly Buffer[]): Promise<Answer> {
  // Of what our contracts do not describe it is not known whether it ends by itself.
  const { requestStream = false, responseStream = true } = methods.get(path) ?? {};
  const heard: Buffer[] = [];
  const take = (bytes: Buffer) => {
    heard.push(bytes);
    return bytes;
  };
  const same = (bytes: Buffer) => bytes;
  const options = { deadline: Date.now() + 30_000 };
  const talking = requestStream
    ? client.makeBidiStreamRequest<Buffer, Buffer>(path, same, take, metadata, options)
    : undefined;
  const [first = Buffer.alloc(0)] = messages;
  const stream = talking ?? client.makeServerStreamRequest(path, same, take, first, metadata, options);
  const until = responseStream ? silence() : undefined;
  const ended = Promise.withResolvers<ServiceError | undefined>();
  stream.on('data', () => until?.heard());
  stream.on('error', (error: ServiceError) => ended.resolve(error));
  stream.on('end', () => ended.resolve(undefined));
  for (const message of messages) talking?.write(message);
  // A replay that is not told anything more ends by itself.
  if (messages.length <= 1) talking?.end();
  const cut = until?.silent.then(() => stream.cancel());
  const error = await ended.promise;
  until?.over();
  await cut;
  const isCut = error?.code === status.CANCELLED;
  const words = error ? `${error.details} ${JSON.stringify(error.metadata?.getMap())}` : '';
  const bad = [status.INTERNAL, status.UNKNOWN, status.DATA_LOSS, status.DEADLINE_EXCEEDED];
  return {
    status: error === undefined || isCut ? 200 : bad.includes(error.code) ? 500 : 400,
    ok: error === undefined || isCut,
    bytes: Buffer.concat([...heard, Buffer.from(words)]),
  };
}

function metadataOf(bearer: string, more: Headers = {}): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries({ authorization: `Bearer ${bearer}`, ...more })) metadata.set(name, value);
  return metadata;
}

const encoded = (path: string, message: object): Buffer =>
  methods.get(path)?.requestSerialize(message) ?? Buffer.alloc(0);

/** The token that a cursor of somebody is at. */
async function followed(bearer: string): Promise<string> {
  const path = '/fleetreel.v1.Live/Follow';
  return await vi.waitFor(
    async () => {
      const { bytes } = await call(path, metadataOf(bearer), [encoded(path, { from: '-10m' })]);
      const text = bytes.toString('latin1');
      const [token] = /MSAx?[\w-]{20,}/.exec(text) ?? [];
      if (token === undefined) throw new Error(`there is no token in ${text.slice(0, 500)}`);
      return token;
    },
    { timeout: 20_000, interval: 50 },
  );
}

/** The forms in which something may be in an answer. */
const formsOf = ({ text, value }: typeof mark): Buffer[] => {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  // In base64 it begins at one of three places of a group; what is around it is left out.
  const groups = [0, 1, 2].map((before) =>
    Buffer.from(`${' '.repeat(before)}${text}`)
      .toString('base64')
      .slice(before === 0 ? 0 : before + 1, -4),
  );
  return [Buffer.from(text), Buffer.from(String(value)), Buffer.from(String(value).replace('.', '')), bytes].concat(
    groups.map((group) => Buffer.from(group)),
  );
};
const [foreignForms, ownForms] = [formsOf(mark), formsOf(own)];
const has = ({ bytes }: Answer, forms: readonly Buffer[]): boolean => forms.some((form) => bytes.includes(form));

/** Something that is asked for: a route, a socket or a method. */
type Operation = {
  name: string;
  /** Asks it as somebody: plainly, as who uses it would, or with what the generator makes up. */
  ask: (bearer: string, random: Random | undefined) => { asked: string; answer: Promise<Answer> };
};

type Schema = {
  type?: string;
  enum?: readonly unknown[];
  const?: unknown;
  anyOf?: readonly Schema[];
  items?: Schema;
  required?: readonly string[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
};
type Parameter = { name: string; in: string; required?: boolean; schema?: Schema };
type Described = {
  parameters?: Parameter[];
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, unknown>;
};
type Document = { paths: Record<string, Record<string, Described>> };

/** What a parameter is where a question is meant well, by its name. */
const usual: Readonly<Record<string, readonly string[]>> = {
  table: ['cpu'],
  tables: ['cpu'],
  field: ['used_percent'],
  fields: ['used_percent'],
  host: ['web-1'],
  hosts: ['web-1'],
  from: ['-1h', '-10m'],
  to: ['now'],
  step: ['5s', '1m', 'auto'],
  agg: ['avg', 'max', 'last'],
  aggregation: ['avg', 'max', 'last'],
  limit: ['1000'],
  name: ['orders'],
  names: ['orders'],
  where: [`note=${own.text}`],
  speed: ['0'],
  all: ['true'],
  user: ['bob'],
  role: ['viewer'],
  target: ['host:web-1', 'all'],
  mode: ['credentials'],
  core: [own.text],
  key: ['core', 'tags.rack', 'note'],
  type: ['subscribe'],
  id: ['a'],
};
/** What a question that is meant well always says. */
const said = new Set(['from', 'to', 'start', 'watches', 'table', 'step']);

/** What could make a mistake of ours tell of another tenant: names of it, wildcards, quotes, look-alikes, names of prototypes. */
const hostile = [
  'acme',
  'acme-1',
  'acme.acme-1',
  'acme/acme-1',
  'acme:acme-1',
  '../acme/hosts',
  '..%2f..%2facme',
  'default.acme-1',
  'fr.v1.acme.frame.acme-1',
  '$KV.agents.acme.acme-1',
  '*',
  '>',
  '**',
  '%',
  '_',
  '.*',
  "web-1' OR tenant = 'acme",
  "') OR 1=1 --",
  "web-1'; SELECT * FROM cpu WHERE tenant = 'acme",
  'web-1","tenant":"acme',
  'web-1\nfr.v1.acme.frame.acme-1',
  'web-1\0acme',
  'acme\0acme-1',
  'acme%00acme-1',
  '{acme}',
  '\u0430cme-1',
  '\uff41cme-1',
  'acme\u20101',
  'acme-1\u200b',
  'ACME-1',
  'acme-1 ',
  '__proto__',
  'constructor',
  'hasOwnProperty',
  'undefined',
  'null',
  '',
  '-1',
  '0',
  '1e9',
  '18446744073709551615',
  'x'.repeat(300),
  'acme-1,web-1',
];
const hostileNames = ['tenant', 'Tenant', 'tenant_id', 'label.tenant', 'host', 'hosts', 'host[]', '__proto__'];
const hostileHeaders = ['x-tenant', 'tenant', 'x-scope-orgid', 'x-forwarded-for', 'x-forwarded-user', 'x-original-url'];

function textFor(name: string, random: Random | undefined): string {
  const well = usual[name];
  if (random === undefined) return well?.[0] ?? '';
  const from = random.next();
  return random.pick((from < 0.35 ? foreign[name] : from < 0.7 ? well : undefined) ?? hostile);
}

/** A value of a schema, as one may be and as none should be. */
function valueFor(name: string, schema: Schema, random: Random): unknown {
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return random.next() < 0.8 ? random.pick(schema.enum) : textFor(name, random);
  if (schema.anyOf) return valueFor(name, random.pick(schema.anyOf), random);
  if (schema.type === 'number' || schema.type === 'integer') return random.pick([0, 1, -1, 1.5, 1e300, 2 ** 53]);
  if (schema.type === 'boolean') return random.next() < 0.5;
  if (schema.type === 'array')
    return Array.from({ length: Math.floor(random.next() * 3) }, () => valueFor(name, schema.items ?? {}, random));
  if (schema.type !== 'object') return textFor(name, random);
  const made: [string, unknown][] = [];
  for (const [property, one] of Object.entries(schema.properties ?? {}))
    if (schema.required?.includes(property) || random.next() < 0.5)
      made.push([property, valueFor(property, one, random)]);
  if (typeof schema.additionalProperties === 'object')
    made.push([textFor('key', random), valueFor('value', schema.additionalProperties, random)]);
  if (random.next() < 0.3) made.push([random.pick(hostileNames), textFor('host', random)]);
  return Object.fromEntries(made);
}

const extraHeaders = (random: Random): Headers => {
  const headers: Headers = {};
  if (random.next() < 0.2) headers[random.pick(hostileHeaders)] = random.pick(['acme', 'acme-1', '/api/v1/hosts']);
  // Of a secret of the other tenant only its name is known.
  const [id = ''] = foreign.id ?? [];
  if (random.next() < 0.05) headers['x-api-key'] = `frk_${id}_${'x'.repeat(43)}`;
  if (random.next() < 0.05) headers.cookie = `fleetreel_session=frs_${foreign.id?.[1]}_${'x'.repeat(43)}`;
  return headers;
};

/** Every route that the server has; sockets are opened and told something. */
async function routes(): Promise<Operation[]> {
  const document = (await (await fetch(url('/docs/json'))).json()) as Document;
  return [...faces.http.needs.keys()].flatMap((route): Operation | [] => {
    const [method = '', pattern = ''] = route.split(' ');
    // It is what GET is, without the content.
    if (method === 'HEAD') return [];
    const described = document.paths[pattern.replaceAll(/:(\w+)/g, '{$1}')]?.[method.toLowerCase()];
    if (described?.responses['101']) return socketOperation(route, pattern);
    const { parameters = [], requestBody } = described ?? {};
    const schema = requestBody?.content['application/json']?.schema;
    return {
      name: route,
      ask(bearer, random) {
        const query = new URLSearchParams();
        const headers = random ? extraHeaders(random) : {};
        for (const { name, in: where, required } of parameters) {
          const isSaid = required || said.has(name);
          if (random ? !isSaid && random.next() < 0.7 : !isSaid) continue;
          // Where the table is wrong, nothing else is looked at.
          const isTable = (name === 'table' || name === 'field') && (random?.next() ?? 0) < 0.9;
          const value = isTable ? (usual[name]?.[0] ?? '') : textFor(name, random);
          if (where === 'query') query.append(name, value);
          else if (where === 'header' && /^[ -~]+$/.test(value)) headers[name] = value;
          if (where === 'query' && random && random.next() < 0.1) query.append(name, textFor(name, random));
        }
        if (random && random.next() < 0.1) query.append(random.pick(hostileNames), textFor('host', random));
        const filled = pattern
          .replaceAll(/:(\w+)/g, (_, name: string) => encodeURIComponent(textFor(name, random) || 'x'))
          .replace('*', () => encodeURIComponent(random ? textFor('host', random) : 'x'));
        const body = schema && random ? JSON.stringify(valueFor('', schema, random)) : undefined;
        const path = `${filled}?${query.toString()}`.replace(/\?$/, '');
        const asked = `${method} ${path} ${JSON.stringify(headers)} ${body ?? ''}`;
        return { asked, answer: ask(method, path, headersOf({ bearer, ...headers }), body) };
      },
    };
  });
}

/** What is said on a socket. */
const commands: Schema = {
  anyOf: [
    ...['subscribe', 'subscribe', 'subscribe_hosts', 'unsubscribe'].map((type) => ({
      type: 'object',
      required: ['type', 'id', 'table'],
      properties: {
        type: { const: type },
        id: { type: 'string' },
        table: { enum: ['cpu'] },
        hosts: { type: 'array', items: { type: 'string' } },
        fields: { type: 'array', items: { enum: ['used_percent'] } },
      },
    })),
    ...['seek', 'speed', 'pause', 'resume', 'step'].map((type) => ({
      type: 'object',
      required: ['type'],
      properties: {
        type: { const: type },
        to: { type: 'string' },
        speed: { type: 'number' },
        frames: { type: 'integer' },
      },
    })),
  ],
};

function socketOperation(name: string, pattern: string): Operation {
  return {
    name,
    ask(bearer, random) {
      const first = { type: 'subscribe', id: 'a', table: 'cpu', hosts: [] as string[] };
      if (random && random.next() < 0.5) first.hosts.push(textFor('hosts', random));
      const more = random
        ? Array.from({ length: Math.floor(random.next() * 4) }, () => valueFor('', commands, random))
        : [];
      const messages = [first, ...more].map((message) => JSON.stringify(message));
      const id = random && random.next() < 0.4 ? encodeURIComponent(textFor('id', random) || 'x') : undefined;
      const answer = async () => {
        let path = pattern;
        if (pattern.includes(':id')) {
          // All places may be taken: then it is one that there is not.
          const made = await ask('POST', '/api/v1/replays?from=-10m&to=now&speed=0', headersOf({ bearer }));
          path = pattern.replace(':id', id ?? /"id":"(\w+)"/.exec(made.bytes.toString())?.[1] ?? 'none');
        }
        return await talk(path, bearer, messages);
      };
      return { asked: `${pattern} ${id ?? ''} ${messages.join(' ')}`, answer: answer() };
    },
  };
}

type DescribedField = { name: string; label: string; type: string; typeName: string };
type Descriptor = {
  name: string;
  field: DescribedField[];
  nestedType: Descriptor[];
  options: { mapEntry?: boolean } | null;
};

/** A message, as its description says; where it is meant well only what such a question says. */
function messageFor(of: Descriptor, random: Random | undefined): object {
  const chosen = of.field.filter(({ name }) => said.has(name) || (random ? random.next() < 0.5 : name === 'fields'));
  return Object.fromEntries(chosen.map((field) => [field.name, fieldFor(field, of, random)]));
}

function fieldFor(field: DescribedField, of: Descriptor, random: Random | undefined): unknown {
  const nested = of.nestedType.find(({ name }) => name === field.typeName);
  if (nested?.options?.mapEntry) {
    const value = nested.field.find(({ name }) => name === 'value');
    return value && random ? { [textFor('key', random)]: one(value, nested, random) } : {};
  }
  if (field.label !== 'LABEL_REPEATED') return one(field, of, random);
  return Array.from({ length: random ? Math.floor(random.next() * 3) : 1 }, () => one(field, of, random));
}

function one({ name, type, typeName }: DescribedField, of: Descriptor, random: Random | undefined): unknown {
  if (type === 'TYPE_MESSAGE') {
    const known = packageDefinition[`fleetreel.v1.${typeName}`] as unknown as { type: Descriptor };
    return messageFor(of.nestedType.find((nested) => nested.name === typeName) ?? known.type, random);
  }
  if (type === 'TYPE_BOOL') return random ? random.next() < 0.5 : false;
  if (type === 'TYPE_BYTES') return Buffer.from(textFor(name, random));
  if (type === 'TYPE_STRING') return name === 'table' && (random?.next() ?? 0) < 0.9 ? 'cpu' : textFor(name, random);
  const number = Number(textFor(name, random));
  return Number.isSafeInteger(number) && number >= 0 ? number : 0;
}

/** Every method that the server has. */
const rpcs = (): Operation[] =>
  [...faces.grpc.needs.keys()].map((path) => ({
    name: path,
    ask(bearer, random) {
      const { requestType, requestStream } = (methods.get(path) ?? {}) as Partial<Method> & {
        requestType?: { type: Descriptor };
      };
      const messages: object[] = [];
      if (requestType && !requestStream) messages.push(messageFor(requestType.type, random));
      if (requestType && requestStream) {
        // Of such a message one field counts, and the first says what it is about.
        const [start, ...others] = requestType.type.field;
        const field = (one: typeof start) => messageFor({ ...requestType.type, field: one ? [one] : [] }, random);
        const begun = { [start?.name ?? '']: {}, ...field(start) };
        messages.push(begun);
        if (random)
          for (let count = Math.floor(random.next() * 4); count > 0; count--) messages.push(field(random.pick(others)));
      }
      const more = random ? extraHeaders(random) : {};
      const asked = `${path} ${JSON.stringify(more)} ${JSON.stringify(messages)}`;
      const bytes = messages.map((message) => encoded(path, message));
      return { asked, answer: call(path, metadataOf(bearer, more), bytes) };
    },
  }));

/** Those that have nothing of a tenant's to tell where they are asked plainly, or change something. */
const tellNothing =
  /\/docs|\/healthz|\/readyz|GET \/\*|\/catalog$|\/metrics$|\/me\/sessions|^(?:PUT|POST|PATCH|DELETE) |\/Catalog$|^\/grpc\.|\/(?:Create|Change|Delete|End|Revoke|Enrol|Claim|Redrive|Discard|Put)\w*$/;

describe('a tenant', () => {
  test('is told what is its own by every route and method, so that what follows could find it', async () => {
    for (const tenant of ['acme', 'default'] as const) {
      const bearer = bearers[tenant];
      const letters = await json<DeadLetters>('GET', 'dead-letters', { bearer });
      const place = String(letters.letters[0]?.sequence);
      const [right, wrong] = tenant === 'acme' ? [foreignForms, ownForms] : [ownForms, foreignForms];
      for (const { name, ask: askIt } of [...(await routes()), ...rpcs()]) {
        if (tellNothing.test(name)) continue;
        const told = async (): Promise<Answer> => {
          if (name.endsWith('/:sequence'))
            return await ask('GET', `/api/v1/dead-letters/${place}`, headersOf({ bearer }));
          if (name.endsWith('/GetDeadLetter'))
            return await call(name, metadataOf(bearer), [encoded(name, { sequence: place })]);
          return await askIt(bearer, undefined).answer;
        };
        // What comes as it happens may come after a while.
        await vi.waitFor(
          async () => {
            const answer = await told();
            const words = answer.bytes.toString('latin1').slice(0, 500);
            expect(has(answer, right), `${name} as ${tenant}: ${words}`).toBe(true);
            expect.soft(has(answer, wrong), `${name} as ${tenant}: ${words}`).toBe(false);
          },
          { timeout: 20_000, interval: 50 },
        );
      }
    }
  });

  test('does not take a replay that waits for another', async () => {
    const { id } = await json<ReplaySession>('POST', 'replays?from=-10m&to=now&speed=0', { bearer: bearers.acme });
    const path = `/api/v1/replays/${id}`;
    const messages = [JSON.stringify({ type: 'subscribe', id: 'a', table: 'cpu', hosts: [] })];
    const foreign = await talk(path, bearers.default, messages, true);
    expect([foreign.ok, foreign.bytes.includes('replay_not_found'), has(foreign, foreignForms)]).toEqual([
      false,
      true,
      false,
    ]);
    // It waits for its own reader still, which may have to wait for the first rows.
    const socket = new WebSocket(url(path).replace('http', 'ws'), {
      headers: headersOf({ bearer: bearers.acme }),
    } as unknown as string[]);
    const texts: string[] = [];
    socket.addEventListener('message', ({ data }) => texts.push(String(data)));
    socket.addEventListener('open', () => socket.send(messages[0] ?? ''));
    await vi.waitFor(() => expect(texts.join()).toContain(mark.text), { timeout: 20_000, interval: 50 });
    socket.close();
  });

  test(`sees and changes nothing of another by ${requests} hostile requests`, {
    timeout: 60_000 + requests * 200,
  }, async () => {
    const random = generator(seed);
    const operations = [...(await routes()), ...rpcs()];
    const telling = operations.filter(({ name }) => !tellNothing.test(name));
    const before = await theirs();
    const [leaks, failures] = [[] as string[], [] as string[]];
    const counts = { asked: 0, answered: 0, own: 0 };
    const began_ms = performance.now();
    const worker = async () => {
      while (counts.asked < requests) {
        // Each once before any is chosen again.
        const operation = operations[counts.asked] ?? random.pick(random.next() < 0.7 ? telling : operations);
        counts.asked++;
        const { asked, answer: answering } = operation.ask(bearers.default, random);
        const answer = await answering;
        if (answer.ok) counts.answered++;
        if (has(answer, ownForms)) counts.own++;
        if (has(answer, foreignForms)) leaks.push(asked);
        if (answer.status === 500) failures.push(`${asked}: ${answer.bytes.toString('latin1').slice(0, 300)}`);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, worker));
    if (process.env.FLEETREEL_TENANT_REQUESTS)
      console.info({ ...counts, seed, seconds: Math.round((performance.now() - began_ms) / 1000) });
    expect(leaks.slice(0, 5), `seed ${seed}`).toEqual([]);
    expect(failures.slice(0, 5), `seed ${seed}`).toEqual([]);
    expect(requests).toBeGreaterThanOrEqual(operations.length);
    // Enough of them were answered, and with rows, for it to mean something.
    expect(counts.answered).toBeGreaterThan(requests / 5);
    expect(counts.own).toBeGreaterThan(requests / 20);

    expect(await theirs()).toEqual(before);
    expect((await ask('GET', '/api/v1/me', headersOf({ bearer: kept.session }))).status).toBe(200);
    const checked = await ask('POST', '/api/v1/link/check', {}, JSON.stringify({ code: kept.invitation }));
    expect(checked.status).toBe(200);
    // From an address of which no wrong code came.
    const claimed = await enrolment.claim(
      { code: kept.enrolment, publicKey: KeyPair.create('user').publicKey },
      '192.0.2.1',
    );
    expect(claimed).toMatchObject({ tenant: 'acme', host: mark.text });
  });

  test('writes under the idempotency key of another as if that had not been', async () => {
    const body = { name: 'orders', value: own.value, metadata: { note: own.text } };
    const write = async (tenant: Tenant, key: string) =>
      await json<Accepted>('POST', 'measure', { bearer: bearers[tenant], 'idempotency-key': key }, body);
    for (const tenant of ['default', 'acme', 'default', 'acme'] as const)
      expect(await write(tenant, `first of ${tenant}`)).toMatchObject({ accepted: 1 });
    for (const [tenant, duplicate] of [
      ['default', false],
      ['acme', false],
      ['default', true],
      ['acme', true],
    ] as const)
      expect(await write(tenant, 'one of both')).toEqual({ accepted: 1, duplicate });
  });

  test('records nothing of another by the command line', async () => {
    const environment = { FLEETREEL_KEY: bearers.default, FLEETREEL_ADDRESS: `127.0.0.1:${faces.grpc.port}` };
    const record = async (file: string, ...args: string[]) => {
      const path = join(folder, file);
      const program = await startProgram(
        'packages/cli/src/main.ts',
        ['record', path, '--to', 'now', ...args],
        environment,
      );
      expect((await program.exited).code, program.lines.join('\n')).toBe(0);
      await using reader = await ReelReader.open(path);
      return { hosts: [...reader.hosts].sort(), range: reader.range_us, bytes: await frames(reader) };
    };
    const all = await record('all.reel', '--from', '-1h');
    expect(all.hosts).toEqual([own.text, 'web-1']);
    expect(all.bytes.includes(own.text)).toBe(true);
    expect(foreignForms.some((form) => all.bytes.includes(form))).toBe(false);
    const none = await record('none.reel', '--from', '-1h', '--host', 'acme-1');
    expect([none.hosts, none.bytes.length]).toEqual([[], 0]);
  });
});

/** The bytes of all frames of a file. */
async function frames(reader: ReelReader): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of reader.frames()) for (const { bytes } of part) parts.push(bytes);
  return Buffer.concat(parts);
}

/** What acme has and others may not change. */
async function theirs(): Promise<object> {
  await stored();
  const get = async (path: string) =>
    await json<Record<string, Record<string, unknown>[]>>('GET', path, { bearer: bearers.acme });
  const [hosts, users, keys, issued, settings, audit, measures, events] = await Promise.all([
    get('hosts'),
    get('users'),
    get('keys'),
    get('credentials'),
    get('agents/settings'),
    get('audit?limit=5000'),
    get('measure?limit=5000'),
    get('event?limit=5000'),
  ]);
  const letters = await Promise.all(
    (foreign.sequence ?? []).map(
      async (place) => (await ask('GET', `/api/v1/dead-letters/${place}`, headersOf({ bearer: bearers.acme }))).status,
    ),
  );
  return {
    hosts: hosts?.hosts?.map(({ host, description }) => ({ host, description })),
    users,
    keys: keys?.keys?.map(({ lastUsed: _time, lastAddress: _address, ...key }) => key),
    issued,
    settings,
    // Who tries to sign in as one of its users is of its concern; and a cursor of its own only waited for the others.
    audit: audit?.records?.filter(
      ({ action, after }) =>
        action !== 'sign_in.fail' && !/^-7\d{3}s$/.test(String((after as { from?: string } | null)?.from)),
    ),
    measures,
    events,
    letters,
  };
}

let cursors = 0;
/** Waits until all that was recorded before is stored: it comes in the order of the log. */
async function stored(): Promise<void> {
  const path = '/fleetreel.v1.Live/Follow';
  const from = `-${7000 + ++cursors}s`;
  await call(path, metadataOf(bearers.acme), [encoded(path, { from })]);
  const audit = async () => JSON.stringify(await json('GET', 'audit', { bearer: bearers.acme }));
  await vi.waitFor(async () => expect(await audit()).toContain(`"${from}"`), { timeout: 30_000, interval: 100 });
}

/** Always the same numbers for a seed (mulberry32). */
function generator(from: number): Random {
  let state = from;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return { next, pick: (of) => of[Math.floor(next() * of.length)] as (typeof of)[number] };
}
