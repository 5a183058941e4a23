// Types and the table of rooms; format and everything else is biome's.
import { defineConfig, type OxlintOverride } from 'oxlint';

/** Inside the collector: which room may import which, besides the files that every room shares. */
const rooms: Record<string, readonly string[]> = {
  log: [],
  store: [],
  ingest: ['log', 'store'],
  query: ['store', 'live', 'log'],
  live: ['log'],
  replay: ['log', 'store'],
  access: ['log'],
  api: ['query', 'live', 'replay', 'access', 'log', 'store'],
};
const names = Object.keys(rooms);

/** Between packages: which may import which. */
const packages: Record<string, readonly string[]> = {
  proto: [],
  client: [],
  reel: ['proto'],
  agent: ['proto'],
  collector: ['proto', 'reel'],
  cli: ['proto', 'reel', 'deploy'],
};

/** What tests may import besides. */
const tests = ['test', 'deploy'];

const forbid = (allowed: readonly string[], room?: string): NonNullable<OxlintOverride['rules']> => ({
  'no-restricted-imports': [
    'error',
    {
      patterns: [
        { group: ['../../**'], message: 'Another package is imported by its name, a room by #room/file.ts.' },
        {
          group: [
            '@fleetreel/*',
            '@fleetreel/*/**',
            ...allowed.flatMap((name) => [`!@fleetreel/${name}`, `!@fleetreel/${name}/**`]),
          ],
          message: `This package may import of ours: ${allowed.join(', ') || 'nothing'} (see ARCHITECTURE.md).`,
        },
        ...(room === undefined
          ? []
          : [
              {
                group: names
                  .filter((name) => name !== room && !rooms[room]?.includes(name))
                  .map((name) => `#${name}/**`),
                message: `The room ${room} may import: ${rooms[room]?.join(', ') || 'no other room'} (see ARCHITECTURE.md).`,
              },
            ]),
      ],
    },
  ],
});

export default defineConfig({
  plugins: ['typescript', 'import', 'promise', 'unicorn'],
  ignorePatterns: [
    '**/gen/**',
    // biome lints the console and svelte-check types it.
    'apps/web/**',
    '**/dist/**',
    '**/build/**',
    '**/.svelte-kit/**',
    '**/fixtures/**',
    'test/output/**',
    '.fleetreel/**',
  ],
  categories: { correctness: 'error' },
  rules: {
    'typescript/no-floating-promises': 'error',
    'typescript/no-misused-promises': 'error',
    'typescript/await-thenable': 'error',
    'import/no-cycle': 'error',
    'max-lines-per-function': ['error', { max: 90, skipBlankLines: true, skipComments: true }],
  },
  overrides: [
    ...Object.entries(packages).map(([name, allowed]) => ({
      files: [`packages/${name}/src/**/*.ts`],
      rules: forbid(allowed),
    })),
    ...names.map((room) => ({
      files: [`packages/collector/src/${room}/**/*.ts`],
      rules: forbid(packages.collector ?? [], room),
    })),
    ...Object.entries(packages).map(([name, allowed]) => ({
      files: [`packages/${name}/src/**/*.test.ts`],
      rules: forbid([...allowed, ...tests]),
    })),
    { files: ['**/*.test.ts', 'test/**/*.ts'], rules: { 'max-lines-per-function': 'off' } },
  ],
});
