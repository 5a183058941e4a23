import { fileURLToPath } from 'node:url';
import { loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { protoFolder } from '#catalog.ts';
import type { ProtoGrpcType as LiveTypes } from '#gen/live.ts';
import type { ProtoGrpcType as QueryTypes } from '#gen/query.ts';

export type { LiveClient, LiveHandlers } from '#gen/fleetreel/v1/Live.ts';
export type { QueryClient, QueryHandlers } from '#gen/fleetreel/v1/Query.ts';

/** The services' definitions, as the server, its reflection and the clients take them. */
export const packageDefinition = loadSync(['fleetreel/v1/query.proto', 'fleetreel/v1/live.proto'], {
  includeDirs: [fileURLToPath(protoFolder)],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  arrays: true,
  objects: true,
  oneofs: true,
});

const types = loadPackageDefinition(packageDefinition) as unknown as QueryTypes & LiveTypes;
export const { Query, Live } = types.fleetreel.v1;
