import {
  type DeadLetter,
  DeadLetterBytes,
  type DeadLetterOutcome,
  DeadLetters,
  DeadLetterOutcome as Outcome,
} from '@fleetreel/proto/http';
import type { FastifyRequest } from 'fastify';
import Type from 'typebox';
import { changeDeadLetters } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import { many, one, oneOf, type Parameters } from '#api/http/parameters.ts';
import { systemClock } from '#clock.ts';
import { deadLettersMax } from '#limits.ts';
import type { DeadLetterHead } from '#log/dead.ts';
import { deadKinds } from '#log/publish.ts';
import { deadLettersDefault, listDead, sequenceOf } from '#query/dead_letters.ts';

const optional = (description: string, example: string) =>
  Type.Optional(Type.String({ description, examples: [example] }));

const filter = {
  host: optional('The host that it is from', 'web-1'),
  reason: Type.Optional(Type.Enum([...deadKinds], { description: 'Why it was put aside', examples: ['future'] })),
  from: optional('Put aside at or after: RFC 3339, milliseconds since 1970, or relative to now (-1h)', '-1h'),
  to: optional('Put aside before', 'now'),
  before: optional('Only those with a smaller sequence: what `before` of the answer says', '1000000'),
  limit: optional(
    `At most so many, from 1 to ${deadLettersMax}; of a list ${deadLettersDefault} when it is absent`,
    '100',
  ),
};
const choice = {
  ...filter,
  sequence: Type.Optional(
    Type.Array(Type.String({ minLength: 1 }), {
      description: 'Sequences: repeated, or separated by commas, instead of a filter',
      examples: [['1']],
      style: 'form',
      explode: true,
    }),
  ),
  all: Type.Optional(Type.Enum(['true'], { description: 'All of them, where there is neither sequence nor filter' })),
};

type Asked = Pick<FastifyRequest<{ Querystring: Parameters }>, 'query' | 'identity' | 'ip'>;

const now = () => systemClock.now_us() / 1000;
const questionOf = (parameters: Parameters) =>
  Object.fromEntries(Object.keys(filter).map((name) => [name, one(parameters[name])]));

export function deadLetterRoutes(app: App, { rooms }: FaceParts): void {
  const tags = ['operation'];
  const change =
    (what: 'redrive' | 'discard') =>
    async ({ query: parameters, identity, ip: address }: Asked): Promise<DeadLetterOutcome> => {
      const wanted = {
        ...questionOf(parameters),
        sequences: many(parameters.sequence),
        all: oneOf(parameters, 'all', ['true']) === 'true',
      };
      const { before = null, ...outcome } = await changeDeadLetters(
        { rooms },
        { identity, address },
        what,
        wanted,
        now(),
      );
      return { ...outcome, before };
    };
  const redrive = change('redrive');
  const discard = change('discard');
  app.get<{ Querystring: Parameters }>(
    '/dead-letters',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'Messages that could not be stored, the newest first',
        tags,
        querystring: Type.Object(filter),
        response: { 200: json('Dead letters, without their bytes', DeadLetters), ...problem(400, 503) },
      },
    },
    async ({ query, identity: { tenant } }) => {
      const { letters, before = null } = await listDead(rooms().deadLetters, tenant, questionOf(query), now());
      return { letters: letters.map(letterJson), before };
    },
  );
  app.get<{ Params: { sequence: string } }>(
    '/dead-letters/:sequence',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'One dead letter with its bytes',
        tags,
        params: Type.Object({ sequence: Type.String({ description: 'Its sequence in the log', examples: ['1'] }) }),
        querystring: Type.Object({}),
        response: { 200: json('The dead letter', DeadLetterBytes), ...problem(400, 404, 503) },
      },
    },
    async ({ params, identity: { tenant } }) => {
      const { bytes, ...letter } = await rooms().deadLetters.get(tenant, sequenceOf(params.sequence, 'sequence'));
      return { ...letterJson(letter), base64: Buffer.from(bytes).toString('base64') };
    },
  );
  app.post<{ Querystring: Parameters }>(
    '/dead-letters/redrive',
    {
      config: { scope: 'admin' },
      schema: {
        summary: 'Publish dead letters again',
        description:
          'Each goes into the log under the subject that it came by, and is no dead letter any more when the log has it. One that can not be stored this time either comes back, with its tries counted.',
        tags,
        querystring: Type.Object(choice),
        response: { 200: json('What was done', Outcome), ...problem(400, 403, 503) },
      },
    },
    (request) => redrive(request),
  );
  app.delete<{ Querystring: Parameters }>(
    '/dead-letters',
    {
      config: { scope: 'admin' },
      schema: {
        summary: 'Throw dead letters away',
        tags,
        querystring: Type.Object(choice),
        response: { 200: json('What was done', Outcome), ...problem(400, 403, 503) },
      },
    },
    (request) => discard(request),
  );
}

const letterJson = ({ kind, ...letter }: DeadLetterHead): DeadLetter => ({
  ...letter,
  reason: kind,
  detail: letter.reason,
});
