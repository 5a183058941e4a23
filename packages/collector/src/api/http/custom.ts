// What applications write, and the audit trail.
import {
  Accepted,
  type AuditRecord,
  AuditRecords,
  type CustomEvent,
  CustomEvents,
  type Measure,
  Measures,
  NewEvent,
  NewMeasure,
  severities,
} from '@fleetreel/proto/http';
import type { FastifyRequest } from 'fastify';
import Type, { type TProperties, type TSchema } from 'typebox';
import { checkKey, put } from '#api/custom.ts';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import { from, many, one, type Parameters, texts, to } from '#api/http/parameters.ts';
import { customBodyBytesMax, customEntriesMax, customPageBytesMax } from '#limits.ts';
import type { EntryKind } from '#log/custom.ts';
import { customLimit, type FoundEvent, type FoundMeasure, type FoundRecord } from '#query/custom.ts';

const linesType = 'application/x-ndjson';

const limit = Type.Optional(
  Type.String({
    description: `At most so many, from 1 to ${customLimit.max}; ${customLimit.default} when it is absent. A page also ends where its texts and metadata have ${customPageBytesMax / 1024 / 1024} MiB`,
    examples: ['100'],
  }),
);
const before = Type.Optional(
  Type.String({
    description:
      'Continues a list: what `before` of the answer says, with the same parameters. The range is that of the first page, so that pages stay as they are while others are written',
    examples: ['1795235211539000-1795238811539000-42-0'],
  }),
);
const name = Type.Optional(
  Type.Array(Type.String({ minLength: 1 }), {
    description: 'Names: repeated, or separated by commas; * stands for any characters; none means all',
    examples: [['cpu.*']],
    style: 'form',
    explode: true,
  }),
);
const where = Type.Optional(
  texts(
    'Conditions on metadata, all of which hold: a key, a comparison (=, !=, <, <=, >, >=) and a number, true, false, a text where * stands for any characters, or a text in quotes as it stands. Only metadata of that type are compared',
    ['size>=10', 'host=web-*'],
  ),
);
const pattern = (description: string, example: string) =>
  Type.Optional(Type.String({ description: `${description}; * stands for any characters`, examples: [example] }));
const severity = Type.Optional(
  Type.Array(Type.Enum([...severities]), {
    description: 'How grave: repeated, or separated by commas; none means all',
    examples: [['error']],
    style: 'form',
    explode: true,
  }),
);

/** How entries are sent: alone, or many in one of three forms. */
const body = (kind: EntryKind, entry: TSchema) => ({
  content: {
    'application/json': {
      schema: Type.Union([entry, Type.Array(entry), Type.Object({ [`${kind}s`]: Type.Array(entry) })]),
    },
    [linesType]: { schema: Type.String({ description: 'One object a line' }) },
  },
});
const headers = Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({
      pattern: '^[ -~]{1,128}$',
      description:
        'A call that is sent again with the same key and entries, by the same writer, is stored once: within two minutes in any case, later where the entries have times of their own. With other entries it is another call',
    }),
  ),
});

export async function customRoutes(app: App, parts: FaceParts): Promise<void> {
  await app.register(async (writing: App) => {
    // As bytes: what is wrong is told by entry, and nothing is put up with silently.
    const raw = (_: unknown, content: Buffer, done: (error: null, content: Buffer) => void) => done(null, content);
    writing.removeAllContentTypeParsers();
    for (const type of ['application/json', linesType])
      writing.addContentTypeParser(type, { parseAs: 'buffer', bodyLimit: customBodyBytesMax }, raw);
    write(writing, parts, 'measure', NewMeasure);
    write(writing, parts, 'event', NewEvent);
  });
  readRoutes(app, parts);
  auditRoutes(app, parts);
}

function write(app: App, { rooms }: FaceParts, kind: EntryKind, entry: TSchema): void {
  app.post(
    `/${kind}`,
    {
      config: { scope: `write:${kind}` },
      bodyLimit: customBodyBytesMax,
      schema: {
        summary: `Write ${kind}s`,
        description: `One or up to ${customEntriesMax}: a bad one refuses the whole call. Answered when the log has all of them; they can be found about a second later. After 503 the log may have some: the same call again, under the same Idempotency-Key, stores each once.`,
        tags: ['custom'],
        querystring: Type.Object({}),
        headers,
        body: body(kind, entry),
        response: { 200: json('The log has them', Accepted), ...problem(400, 413, 415, 429, 503) },
      },
    },
    async (request) => {
      const key = checkKey([request.headers['idempotency-key']].flat()[0], 'Idempotency-Key');
      const content = request.body as Buffer | undefined;
      const isLines = mediaType(request) === linesType;
      return await put(rooms(), request.identity, kind, { body: content ?? Buffer.alloc(0), isLines }, key);
    },
  );
}

const mediaType = ({ headers: { 'content-type': type = '' } }: FastifyRequest): string =>
  (type.split(';')[0] ?? '').trim().toLowerCase();

function readRoutes(app: App, { rooms }: FaceParts): void {
  const read = (route: string, summary: string, more: TProperties, answer: TSchema) => ({
    config: { scope: 'read' as const },
    schema: {
      summary,
      tags: ['custom'],
      querystring: Type.Object({ name, from, to, where, ...more, limit, before }),
      response: { 200: json(route, answer), ...problem(400, 503, 504) },
    },
  });
  app.get<{ Querystring: Parameters }>(
    '/measure',
    read('Measures, the newest first', 'Measures of applications, the newest first', {}, Measures),
    async ({ query, identity: { tenant } }) => {
      const found = await rooms().query.measures(tenant, questionOf(query));
      return { measures: found.rows.map(measureJson), before: found.before ?? null };
    },
  );
  app.get<{ Querystring: Parameters }>(
    '/event',
    read('Events, the newest first', 'Events of applications, the newest first', { severity }, CustomEvents),
    async ({ query, identity: { tenant } }) => {
      const found = await rooms().query.events(tenant, { ...questionOf(query), severities: many(query.severity) });
      return { events: found.rows.map(eventJson), before: found.before ?? null };
    },
  );
}

function auditRoutes(app: App, { rooms }: FaceParts): void {
  app.get<{ Querystring: Parameters }>(
    '/audit',
    {
      config: { scope: 'admin' },
      schema: {
        summary: 'Who changed what, the newest first',
        tags: ['operation'],
        querystring: Type.Object({
          from: Type.Optional(
            Type.String({ description: 'Begin of the range; the last day when it is absent', examples: ['-7d'] }),
          ),
          to,
          actor: pattern('Id or name of who did it', 'ana'),
          action: pattern('What was done', 'user.*'),
          target: pattern('What it was done to', 'web-*'),
          limit,
          before,
        }),
        response: { 200: json('Records, the newest first', AuditRecords), ...problem(400, 503, 504) },
      },
    },
    async ({ query, identity: { tenant } }) => {
      const [actor, action, target] = [one(query.actor), one(query.action), one(query.target)];
      const found = await rooms().query.auditRecords(tenant, { ...pageOf(query), actor, action, target });
      return { records: found.rows.map(recordJson), before: found.before ?? null };
    },
  );
}

const pageOf = (query: Parameters) => ({
  from: one(query.from),
  to: one(query.to),
  limit: one(query.limit),
  before: one(query.before),
});
const questionOf = (query: Parameters) => ({ ...pageOf(query), names: many(query.name), where: many(query.where) });

const measureJson = ({ id, time_us, ...rest }: FoundMeasure): Measure => ({ id, time: time_us / 1000, ...rest });

const eventJson = ({ id, time_us, end_us, ...rest }: FoundEvent): CustomEvent => ({
  id,
  time: time_us / 1000,
  end: end_us === null ? null : end_us / 1000,
  ...rest,
});

const recordJson = ({ id, time_us, before: was, after, ...rest }: FoundRecord): AuditRecord => ({
  id,
  time: time_us / 1000,
  ...rest,
  before: was === '' ? null : (JSON.parse(was) as unknown),
  after: after === '' ? null : (JSON.parse(after) as unknown),
});
