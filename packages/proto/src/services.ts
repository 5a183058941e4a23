import { fileURLToPath } from 'node:url';
import { loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { protoFolder } from '#catalog.ts';
import type { ProtoGrpcType as AccessTypes } from '#gen/access.ts';
import type { ProtoGrpcType as AgentsTypes } from '#gen/agents.ts';
import type { ProtoGrpcType as AuditTypes } from '#gen/audit.ts';
import type { ProtoGrpcType as CustomTypes } from '#gen/custom.ts';
import type { ProtoGrpcType as DeadLetterTypes } from '#gen/dead_letter.ts';
import type { ProtoGrpcType as EnrolmentTypes } from '#gen/enrolment.ts';
import type { ProtoGrpcType as LiveTypes } from '#gen/live.ts';
import type { ProtoGrpcType as QueryTypes } from '#gen/query.ts';
import type { ProtoGrpcType as ReplayTypes } from '#gen/replay.ts';

export type { AccessHandlers } from '#gen/fleetreel/v1/Access.ts';
export type { AccessKey, AccessKey__Output } from '#gen/fleetreel/v1/AccessKey.ts';
export type { AccessLink, AccessLink__Output } from '#gen/fleetreel/v1/AccessLink.ts';
export type { AgentSetting__Output as AgentSettingMessage } from '#gen/fleetreel/v1/AgentSetting.ts';
export type { AgentState__Output as AgentStateMessage } from '#gen/fleetreel/v1/AgentState.ts';
export type { AgentsHandlers } from '#gen/fleetreel/v1/Agents.ts';
export type { AgentTarget__Output as AgentTargetMessage } from '#gen/fleetreel/v1/AgentTarget.ts';
export type { AuditClient, AuditHandlers } from '#gen/fleetreel/v1/Audit.ts';
export type { ChangeAgentSettingsRequest } from '#gen/fleetreel/v1/ChangeAgentSettingsRequest.ts';
export type { CustomClient, CustomHandlers } from '#gen/fleetreel/v1/Custom.ts';
export type { DeadLetter__Output as DeadLetterMessage } from '#gen/fleetreel/v1/DeadLetter.ts';
export type { DeadLetterChoice, DeadLetterChoice__Output } from '#gen/fleetreel/v1/DeadLetterChoice.ts';
export type { DeadLetterFilter, DeadLetterFilter__Output } from '#gen/fleetreel/v1/DeadLetterFilter.ts';
export type { DeadLetterOutcome__Output as DeadLetterOutcomeMessage } from '#gen/fleetreel/v1/DeadLetterOutcome.ts';
export type { DeadLettersHandlers } from '#gen/fleetreel/v1/DeadLetters.ts';
export type { EnrolmentHandlers } from '#gen/fleetreel/v1/Enrolment.ts';
export type { FollowRequest__Output } from '#gen/fleetreel/v1/FollowRequest.ts';
export type { FollowResponse, FollowResponse__Output } from '#gen/fleetreel/v1/FollowResponse.ts';
export type { LiveClient, LiveHandlers } from '#gen/fleetreel/v1/Live.ts';
export type { MetadataValue, MetadataValue__Output } from '#gen/fleetreel/v1/MetadataValue.ts';
export type { PlayRequest, PlayRequest__Output } from '#gen/fleetreel/v1/PlayRequest.ts';
export type { PlayResponse, PlayResponse__Output } from '#gen/fleetreel/v1/PlayResponse.ts';
export type { PlayStart, PlayStart__Output } from '#gen/fleetreel/v1/PlayStart.ts';
export type { QueryClient, QueryHandlers } from '#gen/fleetreel/v1/Query.ts';
export type { RecordedFrame, RecordedFrame__Output } from '#gen/fleetreel/v1/RecordedFrame.ts';
export type { ReplayClient, ReplayHandlers } from '#gen/fleetreel/v1/Replay.ts';
export type { User as UserMessage, User__Output } from '#gen/fleetreel/v1/User.ts';

/** The services' definitions, as the server, its reflection and the clients take them. */
export const packageDefinition = loadSync(
  ['query', 'live', 'replay', 'dead_letter', 'custom', 'audit', 'access', 'agents', 'enrolment'].map(
    (name) => `fleetreel/v1/${name}.proto`,
  ),
  {
    includeDirs: [fileURLToPath(protoFolder)],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    arrays: true,
    objects: true,
    oneofs: true,
  },
);

const types = loadPackageDefinition(packageDefinition) as unknown as QueryTypes &
  LiveTypes &
  ReplayTypes &
  DeadLetterTypes &
  CustomTypes &
  AuditTypes &
  AccessTypes &
  AgentsTypes &
  EnrolmentTypes;
export const { Query, Live, Replay, DeadLetters, Custom, Audit, Access, Agents, Enrolment } = types.fleetreel.v1;
