// Who may use what: every route and method of the running faces, from their own lists.
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { needs } from '#api/grpc/rights.ts';
import { startFaces } from '#testing.ts';

const closing = new AsyncDisposableStack();
let faces: Awaited<ReturnType<typeof startFaces>>['faces'];

beforeAll(async () => {
  ({ faces } = await startFaces(closing, 'none'));
});

afterAll(() => closing.disposeAsync());

describe('without credentials', () => {
  test('every route that is not public answers 401', async () => {
    const { needs, port } = faces.http;
    expect(needs.size).toBeGreaterThan(20);
    for (const [route, need] of needs) {
      const [method = '', path = ''] = route.split(' ');
      const answer = await fetch(`http://127.0.0.1:${port}${path.replaceAll(/:\w+/g, 'x').replace('*', 'x')}`, {
        method,
      });
      await answer.body?.cancel();
      expect.soft([route, answer.status === 401], route).toEqual([route, need !== 'public']);
      expect.soft(answer.headers.has('www-authenticate'), route).toBe(need !== 'public');
    }
  });

  test('every method that is not public answers UNAUTHENTICATED', async () => {
    const { needs, port } = faces.grpc;
    using client = openClient(port);
    for (const [path, need] of needs) {
      const error = await client.call(path);
      expect.soft([path, error?.code === status.UNAUTHENTICATED], path).toEqual([path, need !== 'public']);
      if (need !== 'public') expect.soft(error?.metadata.get('fleetreel-code'), path).toEqual(['not_signed_in']);
    }
  });
});

test('the table of methods has none that is not served', () => {
  expect(Object.keys(needs).sort()).toEqual([...faces.grpc.needs.keys()].sort());
});

/** Calls methods by their paths, with one empty message. */
function openClient(port: number) {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  const empty = () => Buffer.alloc(0);
  return {
    call: (path: string, metadata = new Metadata()): Promise<ServiceError | undefined> =>
      new Promise((resolve) => {
        const options = { deadline: Date.now() + 20_000 };
        const call = client.makeServerStreamRequest(path, empty, (bytes: Buffer) => bytes, {}, metadata, options);
        call.on('data', () => call.cancel());
        call.on('error', (error: ServiceError) => resolve(error));
        call.on('end', () => resolve(undefined));
      }),
    [Symbol.dispose]: () => client.close(),
  };
}
