// What both faces share of enrolment.
import { ApiError } from '@fleetreel/proto/errors';
import type { Enrolled } from '@fleetreel/proto/http';
import type { Enrolment } from '#access/enrolment.ts';
import type { Identity } from '#access/identity.ts';
import type { FaceParts } from '#api/faces.ts';

/** @throws ApiError enrolment_unavailable */
export function enrolmentOf({ rooms }: Pick<FaceParts, 'rooms'>): Enrolment {
  const { enrolment } = rooms();
  if (enrolment === undefined) throw new ApiError('enrolment_unavailable', { reason: 'it has no keys to sign with' });
  return enrolment;
}

/** Lets a host of the caller's tenant in. */
export function enrol(
  enrolment: Enrolment,
  { tenant, name }: Identity,
  { host, ttl, code }: { host: string; ttl: string | undefined; code: boolean },
): Promise<Enrolled> {
  const wish = { tenant, host, ttl, by: name };
  return code ? enrolment.code(wish) : enrolment.credentials(wish);
}
