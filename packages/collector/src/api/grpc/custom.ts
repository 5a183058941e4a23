import type { Metadata } from '@fleetreel/proto/http';
import type { AuditHandlers, CustomHandlers, MetadataValue, MetadataValue__Output } from '@fleetreel/proto/services';
import { checkKey, put } from '#api/custom.ts';
import type { FaceParts } from '#api/faces.ts';
import { unary } from '#api/grpc/status.ts';

export function customHandlers(parts: FaceParts): CustomHandlers {
  const { rooms } = parts;
  return {
    PutMeasures: unary(parts, 'Custom/PutMeasures', async ({ measures, idempotency_key }, identity) => {
      const entries = measures.map(({ name, content, value, text, time_us, metadata }) => ({
        name,
        ...(content && { [content]: content === 'value' ? value : text }),
        ...optionalTimes({ time: time_us }),
        metadata: metadataOf(metadata),
      }));
      return await put(rooms(), identity, 'measure', { entries }, keyOf(idempotency_key));
    }),
    PutEvents: unary(parts, 'Custom/PutEvents', async ({ events, idempotency_key }, identity) => {
      const entries = events.map(({ name, text, time_us, end_us, severity, metadata }) => ({
        name,
        text,
        ...optionalTimes({ time: time_us, end: end_us }),
        ...(severity !== '' && { severity }),
        metadata: metadataOf(metadata),
      }));
      return await put(rooms(), identity, 'event', { entries }, keyOf(idempotency_key));
    }),
    FindMeasures: unary(parts, 'Custom/FindMeasures', async ({ limit, ...question }, { tenant }) => {
      const { rows, before = '' } = await rooms().query.measures(tenant, { ...question, limit: limitOf(limit) });
      const measures = rows.map(({ value, text, metadata, ...rest }) => ({
        ...rest,
        ...(value === null ? { text: text ?? '' } : { value }),
        metadata: metadataMessage(metadata),
      }));
      return { measures, before };
    }),
    FindEvents: unary(parts, 'Custom/FindEvents', async ({ limit, ...question }, { tenant }) => {
      const { rows, before = '' } = await rooms().query.events(tenant, { ...question, limit: limitOf(limit) });
      const events = rows.map(({ metadata, end_us, ...rest }) => ({
        ...rest,
        end_us: end_us ?? 0,
        metadata: metadataMessage(metadata),
      }));
      return { events, before };
    }),
  };
}

export function auditHandlers(parts: FaceParts): AuditHandlers {
  const { rooms } = parts;
  return {
    FindAuditRecords: unary(
      parts,
      'Audit/FindAuditRecords',
      async ({ limit, before: cursor, ...question }, { tenant }) => {
        const asked = { ...question, before: cursor, limit: limitOf(limit) };
        const { rows, before = '' } = await rooms().query.auditRecords(tenant, asked);
        const records = rows.map(({ actor: { kind, id, name }, ...rest }) => ({
          ...rest,
          actor_kind: kind,
          actor_id: id,
          actor_name: name,
        }));
        return { records, before };
      },
    ),
  };
}

const keyOf = (text: string): string | undefined => checkKey(text === '' ? undefined : text, 'idempotency_key');

const limitOf = (limit: number): string => (limit === 0 ? '' : String(limit));

/** Times as they are posted, milliseconds, where there is one. */
const optionalTimes = (times: Readonly<Record<string, number | string>>): Record<string, number> =>
  Object.fromEntries(
    Object.entries(times)
      .map(([name, time_us]) => [name, Number(time_us) / 1000] as const)
      .filter(([, time]) => time !== 0),
  );

/** A key without a value has one that is refused by name. */
const metadataOf = (metadata: Readonly<Record<string, MetadataValue__Output>>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(metadata).map(([key, one]) => [key, one.value === undefined ? null : one[one.value]]),
  );

const kinds = { string: 'text', number: 'number', boolean: 'flag' } as const;

const metadataMessage = (metadata: Metadata): Record<string, MetadataValue> =>
  Object.fromEntries(
    Object.entries(metadata).map(([key, value]) => [key, { [kinds[typeof value as keyof typeof kinds]]: value }]),
  );
