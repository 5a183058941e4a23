// What both faces share of enrolment.
import { ApiError } from '@fleetreel/proto/errors';
import type { ClaimedEnrolment, Enrolled } from '@fleetreel/proto/http';
import type { Enrolment } from '#access/enrolment.ts';
import type { Identity } from '#access/identity.ts';
import { recorder } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';

/** @throws ApiError enrolment_unavailable */
export function enrolmentOf({ rooms }: Pick<FaceParts, 'rooms'>): Enrolment {
  const { enrolment } = rooms();
  if (enrolment === undefined) throw new ApiError('enrolment_unavailable', { reason: 'it has no keys to sign with' });
  return enrolment;
}

/** Lets a host of the caller's tenant in. @param address from where it is asked */
export async function enrol(
  parts: Pick<FaceParts, 'rooms'>,
  identity: Identity,
  { host, ttl, code }: { host: string; ttl: string | undefined; code: boolean },
  address: string,
): Promise<Enrolled> {
  const record = recorder(parts);
  const enrolment = enrolmentOf(parts);
  const wish = { tenant: identity.tenant, host, ttl, by: identity.name };
  const enrolled = code ? await enrolment.code(wish) : await enrolment.credentials(wish);
  const after = { mode: code ? 'code' : 'credentials', ttl: ttl || null, expires: enrolled.expires };
  await record({ identity, address }, { action: 'enrolment.create', target: host, after });
  return enrolled;
}

/** Credentials for a code. */
export async function claim(
  parts: Pick<FaceParts, 'rooms'>,
  given: { code: string; publicKey: string },
  address: string,
): Promise<ClaimedEnrolment> {
  const record = recorder(parts);
  const claimed = await enrolmentOf(parts).claim(given, address);
  const { tenant, host, expires } = claimed;
  const actor = { tenant, kind: 'system', id: '', name: 'enrolment code' } as const;
  const after = { publicKey: given.publicKey, expires };
  await record({ identity: actor, address }, { action: 'enrolment.claim', target: host, after });
  return claimed;
}

/** Takes a host's credentials and codes back; how many could be used. */
export async function revoke(
  parts: Pick<FaceParts, 'rooms'>,
  identity: Identity,
  host: string,
  address: string,
): Promise<number> {
  const record = recorder(parts);
  const { revoked, untold } = await enrolmentOf(parts).revoke(identity.tenant, host);
  const before = { valid: revoked };
  await record({ identity, address }, { action: 'credentials.revoke', target: host, before });
  if (untold !== undefined) throw untold;
  return revoked;
}
