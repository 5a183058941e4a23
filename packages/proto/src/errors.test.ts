import { describe, expect, test } from 'vitest';
import { ApiError, clip, errors, grpcStatus, unknown } from '#errors.ts';

describe('the catalogue', () => {
  test.each(Object.entries(errors))('%s has a sentence, something to do and both statuses', (code, entry) => {
    expect(code).toMatch(/^[a-z]+(_[a-z]+)*$/);
    expect(entry.detail).toMatch(/\.$/);
    expect(entry.action === '{suggestion}' || /[.}]$/.test(entry.action)).toBe(true);
    expect(entry.http).toBeGreaterThanOrEqual(400);
    expect(grpcStatus[entry.grpc]).toBeGreaterThan(0);
    // A request that comes too slowly is the caller's, and gRPC has no word for it but the one for answers that do.
    const isOurs = ['INTERNAL', 'UNAVAILABLE', 'DEADLINE_EXCEEDED'].includes(entry.grpc) && code !== 'request_too_slow';
    expect(entry.http >= 500).toBe(isOurs || code === 'busy');
  });
});

test('what is away is worth another try after some seconds, or when it is said', () => {
  expect(new ApiError('log_unavailable', { reason: 'x' }).retryAfter).toBe(5);
  expect(new ApiError('busy', { most: 1, retryAfter: 1 }).retryAfter).toBe(1);
  expect(new ApiError('internal', { id: 'x' }).retryAfter).toBeUndefined();
});

describe('an unknown name', () => {
  const tables = ['cpu', 'memory', 'disk_io'];

  test('is answered with the nearest', () => {
    const error = unknown('unknown_table', 'memroy', tables, { parameter: 'table' });
    expect(error.message).toBe('There is no table "memroy". Did you mean "memory"?');
    expect(error.grpcStatus).toBe(3);
    expect(error.problem).toEqual({
      type: '/docs/errors#unknown_table',
      title: 'Unknown table',
      status: 400,
      detail: 'There is no table "memroy". Did you mean "memory"?',
      code: 'unknown_table',
      parameter: 'table',
      nearest: 'memory',
    });
  });

  test('that is like none is answered with what there is', () => {
    const error = unknown('unknown_table', 'x'.repeat(30), tables);
    expect(error.message).toContain('There is: cpu, memory, disk_io.');
    expect(error.problem).not.toHaveProperty('nearest');
  });

  test('where there is nothing says so', () => {
    expect(unknown('unknown_host', 'a', []).message).toBe('There is no host "a". There is none yet.');
  });
});

test('a value is repeated short and without control characters', () => {
  expect(clip('a\u0000b\u202Ec\n')).toBe('a\uFFFDb\uFFFDc\uFFFD');
  expect(clip('x'.repeat(1000))).toHaveLength(103);
});

test('holes that nothing fills leave no trace', () => {
  expect(new ApiError('bad_time', { value: 'x', parameter: 'from' }).message).not.toMatch(/[{}]/);
});
