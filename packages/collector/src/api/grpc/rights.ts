// What each method asks of its caller, and who called.
import type { Metadata } from '@grpc/grpc-js';
import type { Identity, Need } from '#access/identity.ts';

/** What each method asks. The server does not start with one that is missing here. */
export const needs: Readonly<Record<string, Need>> = {
  '/fleetreel.v1.Query/ListHosts': 'read',
  '/fleetreel.v1.Query/Catalog': 'read',
  '/fleetreel.v1.Query/Latest': 'read',
  '/fleetreel.v1.Query/Rows': 'read',
  '/fleetreel.v1.Query/Series': 'read',
  '/fleetreel.v1.Query/Coverage': 'read',
  '/fleetreel.v1.Live/Watch': 'read',
  // It gives what the log has, from any time on, as a replay does.
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
  // The code is the right.
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
  // Whether it is well, and what the product's API is, has nothing of anybody's data in it.
  '/grpc.health.v1.Health/Check': 'public',
  '/grpc.health.v1.Health/List': 'public',
  '/grpc.health.v1.Health/Watch': 'public',
  '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo': 'public',
  '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo': 'public',
};

/** Who called: by the metadata, which is the one thing that every kind of call has. */
export const identities = new WeakMap<Metadata, Identity>();

/** From where, in the same way. */
export const addresses = new WeakMap<Metadata, string>();

/** From where a call comes, without the port. */
export const addressOf = ({ metadata }: { metadata: Metadata }): string => addresses.get(metadata) ?? '';

/** Who calls, and so the tenant. Not of a public method. */
export function identityOf({ metadata }: { metadata: Metadata }): Identity {
  const identity = identities.get(metadata);
  if (identity === undefined) throw new Error('a public method knows nobody');
  return identity;
}
