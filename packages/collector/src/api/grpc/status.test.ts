import { ApiError } from '@fleetreel/proto/errors';
import { status } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { statusOf } from '#api/grpc/status.ts';
import { Telemetry } from '#telemetry.ts';

test('a status says after how many seconds what is away is worth another try', () => {
  const parts = { telemetry: new Telemetry('silent') };
  const away = statusOf(new ApiError('store_unavailable', { reason: 'it refuses connections' }), 'Query/Series', parts);
  expect([away.code, away.metadata.get('retry-after')]).toEqual([status.UNAVAILABLE, ['5']]);
  const wrong = statusOf(new ApiError('bad_request', { reason: 'x' }), 'Query/Series', parts);
  expect(wrong.metadata.get('retry-after')).toEqual([]);
});
