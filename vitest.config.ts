import { availableParallelism } from 'node:os';
import { playwright } from '@vitest/browser-playwright';
import { defineConfig } from 'vitest/config';
import { chromiumFlags, chromiumPath } from './test/servers/chromium.ts';

/** Tests of the code alone: both cores of a small machine. */
const quick = Math.max(2, availableParallelism() - 1);
/** Tests with servers mostly wait: one alone uses less than one core. */
const waiting = 2;

/** What is polled for comes in its time, on a machine that is slow or busy, too. */
const expecting = { poll: { timeout: 30_000 } };

/** What every test with servers is looked through for: secrets where they may not be. */
const setupFiles = ['./test/watch_secrets.ts'];

/** What runs with nothing beside it, and why. */
const alone = [
  // They measure the machine, or programs on it.
  'test/{bench,numbers}/**/*.test.ts',
  'test/e2e/newcomer.test.ts',
  'packages/collector/src/replay/*.servers.test.ts',
  // They have containers and virtual machines, which every agent sees.
  'packages/agent/src/*engines.servers.test.ts',
  'packages/agent/src/sources/*.servers.test.ts',
  // They use all cores.
  'test/faults/{cluster,matrix}.test.ts',
  'test/e2e/openapi.test.ts',
];

export default defineConfig({
  test: {
    reporters: ['default', './test/closing-line.ts'],
    // Real servers share the machine's cores with what is tested: no time in a test is tighter than it has to be.
    testTimeout: 60_000,
    hookTimeout: 120_000,
    expect: expecting,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['packages/*/src/**/*.test.ts', 'deploy/**/*.test.ts', 'test/*.test.ts'],
          exclude: ['**/node_modules/**', '**/*.servers.test.ts'],
          maxWorkers: quick,
        },
      },
      {
        extends: './apps/web/vite.config.ts',
        root: 'apps/web',
        test: {
          name: 'web',
          include: ['src/**/*.svelte.test.ts'],
          maxWorkers: quick,
          expect: expecting,
          testTimeout: 60_000,
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            provider: playwright({ launchOptions: { executablePath: chromiumPath, args: chromiumFlags } }),
            instances: [{ browser: 'chromium' }],
          },
        },
      },
      {
        extends: true,
        test: {
          name: 'servers',
          setupFiles,
          include: ['packages/*/src/**/*.servers.test.ts', 'deploy/**/*.servers.test.ts'],
          exclude: ['**/node_modules/**', ...alone],
          maxWorkers: waiting,
          // After what needs no servers.
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'e2e',
          setupFiles,
          include: ['test/{e2e,faults}/**/*.test.ts'],
          exclude: ['**/node_modules/**', ...alone],
          testTimeout: 180_000,
          hookTimeout: 240_000,
          maxWorkers: waiting,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'alone',
          setupFiles,
          include: alone,
          testTimeout: 180_000,
          hookTimeout: 240_000,
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
