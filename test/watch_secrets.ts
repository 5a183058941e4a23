// Loaded before each test file that has servers, which fails where a secret that came to be in it was written anywhere.
import { afterAll, expect } from 'vitest';
import { watch, watchedFetch } from './secrets.ts';

globalThis.fetch = watchedFetch(globalThis.fetch, watch);

// The first hook of a file is the last to be called.
afterAll(async () => {
  await watch.processes();
  expect(watch.leaks(), 'secrets are where they may not be').toEqual([]);
});
