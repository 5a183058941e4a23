import { playwright } from '@vitest/browser-playwright';
import { defineConfig } from 'vitest/config';
import { chromiumFlags, chromiumPath } from './test/servers/chromium.ts';

export default defineConfig({
  test: {
    reporters: ['default', './test/closing-line.ts'],
    // Real servers share the machine's cores with what is tested: no time in a test is tighter than it has to be.
    testTimeout: 60_000,
    hookTimeout: 120_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['packages/*/src/**/*.test.ts', 'deploy/**/*.test.ts', 'test/*.test.ts'],
          exclude: ['**/node_modules/**', '**/*.servers.test.ts'],
        },
      },
      {
        extends: true,
        test: {
          name: 'servers',
          include: ['packages/*/src/**/*.servers.test.ts', 'deploy/**/*.servers.test.ts'],
          fileParallelism: false,
          // Alone, after what needs no servers: so are the end-to-end tests, which measure the machine.
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: './apps/web/vite.config.ts',
        root: 'apps/web',
        test: {
          name: 'web',
          include: ['src/**/*.svelte.test.ts'],
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
          name: 'e2e',
          include: ['test/{bench,e2e,faults,numbers}/**/*.test.ts'],
          testTimeout: 180_000,
          hookTimeout: 240_000,
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
