import type { EnrolmentHandlers } from '@fleetreel/proto/services';
import { claim, enrol, enrolmentOf, revoke } from '#api/enrolment.ts';
import type { FaceParts } from '#api/faces.ts';
import { unary, unaryPublic } from '#api/grpc/status.ts';

export function enrolmentHandlers(parts: FaceParts): EnrolmentHandlers {
  return {
    Enrol: unary(parts, 'Enrolment/Enrol', async ({ host, ttl, code }, identity, address) => {
      const {
        credentials = '',
        code: made = '',
        expires,
        ...who
      } = await enrol(parts, identity, { host, ttl, code }, address);
      return { ...who, credentials, code: made, expires_ms: expires ?? 0 };
    }),
    ClaimEnrolment: unaryPublic(parts, 'Enrolment/ClaimEnrolment', async ({ code, public_key }, peer) => {
      const { expires, ...claimed } = await claim(parts, { code, publicKey: public_key }, peer);
      return { ...claimed, expires_ms: expires ?? 0 };
    }),
    ListCredentials: unary(parts, 'Enrolment/ListCredentials', async (_, { tenant }) => {
      const enrolment = enrolmentOf(parts);
      const issued = await enrolment.list(tenant);
      const credentials = issued.map((one) => ({
        host: one.host,
        public_key: one.publicKey,
        issued_by: one.by,
        by_code: one.byCode,
        issued_ms: one.issued,
        expires_ms: one.expires ?? 0,
        revoked_ms: one.revoked ?? 0,
      }));
      return { credentials, nats_url: enrolment.agentsUrl ?? '' };
    }),
    RevokeCredentials: unary(parts, 'Enrolment/RevokeCredentials', async ({ host }, identity, address) => ({
      revoked: await revoke(parts, identity, host, address),
    })),
  };
}
