// Who may use what: every route and method of the running faces, from their own lists.
import { scopes } from '@fleetreel/proto/http';
import { packageDefinition } from '@fleetreel/proto/services';
import { startNats } from '@fleetreel/test/servers/nats';
import { startQuestdb } from '@fleetreel/test/servers/questdb';
import { Client, credentials, Metadata, type MethodDefinition, type ServiceError, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Identity, Need } from '#access/identity.ts';
import { needs } from '#api/grpc/rights.ts';
import { keepTables } from '#store/schema.ts';
import { serveRooms, startFaces, startLog } from '#testing.ts';

/**
 * What is decided of every route; the servers enforce tables of their own. Another decision, or a new route, changes a line here, too:
 * `public` is for whoever reaches the port, `known` for all who show credentials, the others are rights.
 */
const routes: Readonly<Record<string, Need>> = {
  'GET /docs/static/theme/fleetreel.css': 'public',
  'GET /docs': 'public',
  'GET /docs/static/index.html': 'public',
  'GET /docs/static/swagger-initializer.js': 'public',
  'GET /docs/json': 'public',
  'GET /docs/yaml': 'public',
  'GET /docs/static/*': 'public',
  'GET /docs/errors': 'public',
  'GET /api/v1/catalog': 'read',
  'GET /api/v1/hosts': 'read',
  'GET /api/v1/hosts/:host': 'read',
  'DELETE /api/v1/hosts/:host': 'admin',
  'GET /api/v1/latest': 'read',
  'GET /api/v1/rows': 'read',
  'GET /api/v1/series': 'read',
  'GET /api/v1/coverage': 'read',
  'GET /api/v1/live': 'read',
  'POST /api/v1/replays': 'replay',
  'GET /api/v1/replays/:id': 'replay',
  'GET /api/v1/dead-letters': 'read',
  'GET /api/v1/dead-letters/:sequence': 'read',
  'POST /api/v1/dead-letters/redrive': 'admin',
  'DELETE /api/v1/dead-letters': 'admin',
  'POST /api/v1/login': 'public',
  'POST /api/v1/logout': 'known',
  'POST /api/v1/link/check': 'public',
  'POST /api/v1/link': 'public',
  'GET /api/v1/me': 'known',
  'POST /api/v1/me/password': 'known',
  'GET /api/v1/me/sessions': 'known',
  'DELETE /api/v1/me/sessions/:id': 'known',
  'GET /api/v1/users': 'admin',
  'POST /api/v1/users': 'admin',
  'PATCH /api/v1/users/:user': 'admin',
  'DELETE /api/v1/users/:user': 'admin',
  'POST /api/v1/users/:user/link': 'admin',
  'POST /api/v1/link/first': 'admin',
  'DELETE /api/v1/users/:user/sessions': 'admin',
  'GET /api/v1/keys': 'admin',
  'POST /api/v1/keys': 'admin',
  'DELETE /api/v1/keys/:id': 'admin',
  'POST /api/v1/enrolments': 'admin',
  'POST /api/v1/enrolments/claim': 'public',
  'GET /api/v1/credentials': 'admin',
  'DELETE /api/v1/credentials/:host': 'admin',
  'GET /api/v1/agents': 'read',
  'GET /api/v1/agents/settings': 'read',
  'PUT /api/v1/agents/settings/:target': 'admin',
  'DELETE /api/v1/agents/settings/:target': 'admin',
  'POST /api/v1/measure': 'write:measure',
  'POST /api/v1/event': 'write:event',
  'GET /api/v1/measure': 'read',
  'GET /api/v1/event': 'read',
  'GET /api/v1/audit': 'admin',
  'GET /healthz': 'public',
  'GET /readyz': 'public',
  'GET /metrics': 'read',
  'GET /metrics/fleet': 'read',
  'GET /*': 'public',
};

/** The same of every method. */
const methods: Readonly<Record<string, Need>> = {
  '/fleetreel.v1.Query/ListHosts': 'read',
  '/fleetreel.v1.Query/Catalog': 'read',
  '/fleetreel.v1.Query/Latest': 'read',
  '/fleetreel.v1.Query/Rows': 'read',
  '/fleetreel.v1.Query/Series': 'read',
  '/fleetreel.v1.Query/Coverage': 'read',
  '/fleetreel.v1.Live/Watch': 'read',
  '/fleetreel.v1.Live/Follow': 'replay',
  '/fleetreel.v1.Replay/Play': 'replay',
  '/fleetreel.v1.DeadLetters/ListDeadLetters': 'read',
  '/fleetreel.v1.DeadLetters/GetDeadLetter': 'read',
  '/fleetreel.v1.DeadLetters/RedriveDeadLetters': 'admin',
  '/fleetreel.v1.DeadLetters/DiscardDeadLetters': 'admin',
  '/fleetreel.v1.Access/GetMe': 'known',
  '/fleetreel.v1.Access/ListUsers': 'admin',
  '/fleetreel.v1.Access/CreateUser': 'admin',
  '/fleetreel.v1.Access/ChangeUser': 'admin',
  '/fleetreel.v1.Access/DeleteUser': 'admin',
  '/fleetreel.v1.Access/CreateLink': 'admin',
  '/fleetreel.v1.Access/EndSessions': 'admin',
  '/fleetreel.v1.Access/ListKeys': 'admin',
  '/fleetreel.v1.Access/CreateKey': 'admin',
  '/fleetreel.v1.Access/RevokeKey': 'admin',
  '/fleetreel.v1.Enrolment/Enrol': 'admin',
  '/fleetreel.v1.Enrolment/ClaimEnrolment': 'public',
  '/fleetreel.v1.Enrolment/ListCredentials': 'admin',
  '/fleetreel.v1.Enrolment/RevokeCredentials': 'admin',
  '/fleetreel.v1.Agents/ListAgents': 'read',
  '/fleetreel.v1.Agents/ListAgentSettings': 'read',
  '/fleetreel.v1.Agents/ChangeAgentSettings': 'admin',
  '/fleetreel.v1.Custom/PutMeasures': 'write:measure',
  '/fleetreel.v1.Custom/PutEvents': 'write:event',
  '/fleetreel.v1.Custom/FindMeasures': 'read',
  '/fleetreel.v1.Custom/FindEvents': 'read',
  '/fleetreel.v1.Audit/FindAuditRecords': 'admin',
  '/grpc.health.v1.Health/Check': 'public',
  '/grpc.health.v1.Health/List': 'public',
  '/grpc.health.v1.Health/Watch': 'public',
  '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo': 'public',
  '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo': 'public',
};

const closing = new AsyncDisposableStack();
const password = 'correct horse battery';

let faces: Awaited<ReturnType<typeof startFaces>>['faces'];
/** What each brings, and what it may do. */
let callers: { who: string; bearer: string | undefined; may: readonly string[] }[];

beforeAll(async () => {
  const [nats, questdb] = await Promise.all([startNats(), startQuestdb()]);
  closing.use(nats);
  closing.use(questdb);
  const started = await startFaces(closing, 'none');
  ({ faces } = started);
  const { telemetry } = started;
  const { log, registry } = await startLog(
    closing,
    nats.url,
    { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 },
    telemetry,
  );
  await keepTables({ http_url: questdb.httpUrl, user: questdb.user, password: questdb.password }, 30, telemetry);
  await serveRooms(closing, { telemetry, faces, log, registry, questdb });
  await setUpCallers();
}, 120_000);

async function setUpCallers(): Promise<void> {
  const { users, keys } = faces.access;
  const from = { address: '127.0.0.1', program: '' };
  const admin = async (tenant: string): Promise<Identity> => ({
    tenant,
    kind: 'user',
    id: '',
    name: `admin of ${tenant}`,
    scopes: new Set(['admin'] as const),
  });
  const viewer = async () => {
    const { link } = await users.create('default', { user: 'viewer', role: 'viewer' });
    return (await users.useLink({ code: link.code, password }, from)).secret;
  };
  const { code } = await users.adminLink('default');
  callers = [
    { who: 'nobody', bearer: undefined, may: [] },
    { who: 'viewer', bearer: await viewer(), may: ['known', 'read', 'replay'] },
    {
      who: 'admin',
      bearer: (await users.useLink({ code, user: 'ada', password }, from)).secret,
      may: ['known', ...scopes],
    },
  ];
  for (const scope of scopes) {
    const { secret } = await keys.create(await admin('default'), { name: scope, scopes: [scope] });
    const may = scope === 'admin' ? ['known', ...scopes] : ['known', scope];
    callers.push({ who: `the scope ${scope}`, bearer: secret, may });
  }
  const { secret } = await keys.create(await admin('acme'), { name: 'of acme', scopes: ['admin'] });
  callers.push({ who: 'an admin of another tenant', bearer: secret, may: ['known', ...scopes] });
}

afterAll(() => closing.disposeAsync());

/** What a caller is answered where all that counts is whether it may. */
type Verdict = 'may' | 'not_signed_in' | 'not_permitted';
const expected = (need: Need, { bearer, may }: (typeof callers)[number]): Verdict => {
  if (need === 'public') return 'may';
  if (bearer === undefined) return 'not_signed_in';
  return may.includes(need) ? 'may' : 'not_permitted';
};
/** What says that a method is broken, and nothing of who may. */
const failures = [status.UNKNOWN, status.DEADLINE_EXCEEDED, status.UNIMPLEMENTED, status.INTERNAL, status.UNAVAILABLE];
const verdictOf = (code: unknown): Verdict => (code === 'not_signed_in' || code === 'not_permitted' ? code : 'may');

async function ask(method: string, path: string, bearer: string | undefined, more: RequestInit = {}) {
  const answer = await fetch(`http://127.0.0.1:${faces.http.port}${path}`, {
    method,
    ...more,
    headers: { ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }), ...(more.headers as object) },
  });
  return { status: answer.status, text: await answer.text(), headers: answer.headers };
}

test('the document says by what each route can be used, and of no other that it needs nothing', async () => {
  const document = JSON.parse((await ask('GET', '/docs/json', undefined)).text) as Document & {
    components: { securitySchemes: object };
  };
  const schemes = Object.keys(document.components.securitySchemes);
  expect(schemes).toEqual(['bearer', 'apiKey', 'session']);
  const open: string[] = [];
  for (const [route, need] of faces.http.needs) {
    const [method = '', url = ''] = route.split(' ');
    const operation = document.paths[url.replace(/:(\w+)/g, '{$1}')]?.[method.toLowerCase()];
    if (operation === undefined) continue;
    if (need === 'public') open.push(route);
    // Before it is known who there is, all that is not public is answered so.
    if (need !== 'public') expect.soft(Object.keys(operation.responses), route).toContain('503');
    expect(operation.security, route).toEqual(need === 'public' ? [] : schemes.map((name) => ({ [name]: [] })));
  }
  expect(open).toContain('GET /healthz');
  expect(open).toContain('POST /api/v1/login');
});

describe('who may', () => {
  test('every route asks for what is decided', () => {
    const served = [...faces.http.needs].filter(([route]) => !route.startsWith('HEAD '));
    // The console's files are served where it is built.
    expect({ 'GET /*': 'public', ...Object.fromEntries(served) }).toEqual(routes);
  });

  test('every method asks for what is decided', () => {
    expect(Object.fromEntries(faces.grpc.needs)).toEqual(methods);
  });

  test('every method does what it asks for, for everybody', async () => {
    using client = openClient(faces.grpc.port);
    for (const [path, need] of Object.entries(methods))
      for (const caller of callers) {
        const error = await client.call(path, caller.bearer);
        const code = error?.metadata.get('fleetreel-code')[0];
        expect.soft(verdictOf(code), `${path} for ${caller.who}: ${error?.message}`).toBe(expected(need, caller));
        expect.soft(failures, `${path} for ${caller.who}: ${error?.message}`).not.toContain(error?.code);
        if (verdictOf(code) !== 'may')
          expect.soft(error?.code).toBe(code === 'not_signed_in' ? status.UNAUTHENTICATED : status.PERMISSION_DENIED);
      }
  });

  test('every route does what it asks for, for everybody', async () => {
    const served = [...faces.http.needs.keys()];
    // What ends the session that it is asked with comes last.
    served.sort((a, b) => Number(a.endsWith('/logout')) - Number(b.endsWith('/logout')));
    for (const route of served) {
      const [method = '', pattern = ''] = route.split(' ');
      const path = pattern.replaceAll(/:\w+/g, 'none').replace('*', 'none');
      // It is what GET is, which files do not have, and its answers have no body that says why.
      if (method === 'HEAD') {
        expect(faces.http.needs.get(route), route).toBe(routes[`GET ${pattern}`] ?? 'public');
        continue;
      }
      const need = routes[route] ?? 'admin';
      for (const caller of callers) {
        const { status: is, text, headers } = await ask(method, path, caller.bearer);
        const code = /"code":"(\w+)"/.exec(text)?.[1];
        expect.soft(verdictOf(code), `${route} for ${caller.who}: ${is} ${text}`).toBe(expected(need, caller));
        // What is missing is what it is asked for.
        if (route !== 'GET /readyz') expect.soft(is, `${route} for ${caller.who}: ${text}`).toBeLessThan(500);
        expect.soft(headers.has('www-authenticate'), route).toBe(is === 401);
      }
    }
  });

  test('the server knows of no method that it does not serve', () => {
    expect(Object.keys(needs).sort()).toEqual([...faces.grpc.needs.keys()].sort());
  });
});

type Document = { paths: Record<string, Record<string, { security?: Record<string, string[]>[]; responses: object }>> };

/** Calls methods by their paths, with one message that is empty, but where that would wait for data. */
function openClient(port: number) {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  const { Follow } = packageDefinition['fleetreel.v1.Live'] as unknown as Record<
    string,
    MethodDefinition<object, object>
  >;
  const messages: Readonly<Record<string, Buffer | undefined>> = {
    '/fleetreel.v1.Live/Follow': Follow?.requestSerialize({ token: 'none' }),
  };
  return {
    call(path: string, bearer: string | undefined): Promise<ServiceError | undefined> {
      const metadata = new Metadata();
      if (bearer !== undefined) metadata.set('authorization', `Bearer ${bearer}`);
      return new Promise((resolve) => {
        const bytes = () => messages[path] ?? Buffer.alloc(0);
        const options = { deadline: Date.now() + 20_000 };
        const call = client.makeServerStreamRequest(path, bytes, (answer: Buffer) => answer, {}, metadata, options);
        call.on('data', () => call.cancel());
        call.on('error', (error: ServiceError) => resolve(error));
        call.on('end', () => resolve(undefined));
      });
    },
    [Symbol.dispose]: () => client.close(),
  };
}
