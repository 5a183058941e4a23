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
    expect(operation.security, route).toEqual(need === 'public' ? [] : schemes.map((name) => ({ [name]: [] })));
  }
  expect(open).toContain('GET /healthz');
  expect(open).toContain('POST /api/v1/login');
});

describe('who may', () => {
  test('every method does what it asks for, for everybody', async () => {
    using client = openClient(faces.grpc.port);
    for (const [path, need] of faces.grpc.needs)
      for (const caller of callers) {
        const error = await client.call(path, caller.bearer);
        const code = error?.metadata.get('fleetreel-code')[0];
        expect.soft(verdictOf(code), `${path} for ${caller.who}: ${error?.message}`).toBe(expected(need, caller));
        if (verdictOf(code) !== 'may')
          expect.soft(error?.code).toBe(code === 'not_signed_in' ? status.UNAUTHENTICATED : status.PERMISSION_DENIED);
      }
  });

  test('every route does what it asks for, for everybody', async () => {
    const routes = [...faces.http.needs];
    expect(routes.length).toBeGreaterThan(40);
    // What ends the session that it is asked with comes last.
    routes.sort(([a], [b]) => Number(a.endsWith('/logout')) - Number(b.endsWith('/logout')));
    for (const [route, need] of routes) {
      const [method = '', pattern = ''] = route.split(' ');
      const path = pattern.replaceAll(/:\w+/g, 'none').replace('*', 'none');
      // It is what GET is, which files do not have, and its answers have no body that says why.
      if (method === 'HEAD') {
        expect(need).toBe(faces.http.needs.get(`GET ${pattern}`) ?? 'public');
        continue;
      }
      for (const caller of callers) {
        const { status: is, text, headers } = await ask(method, path, caller.bearer);
        const code = /"code":"(\w+)"/.exec(text)?.[1];
        expect.soft(verdictOf(code), `${route} for ${caller.who}: ${is} ${text}`).toBe(expected(need, caller));
        expect.soft(headers.has('www-authenticate'), route).toBe(is === 401);
      }
    }
  });

  test('the table of methods has none that is not served', () => {
    expect(Object.keys(needs).sort()).toEqual([...faces.grpc.needs.keys()].sort());
  });
});

type Document = { paths: Record<string, Record<string, { security?: Record<string, string[]>[] }>> };

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
