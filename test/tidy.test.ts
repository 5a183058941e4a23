// What a reader of the code may rely on, held by a test.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pages } from '@fleetreel/deploy/generate';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: root,
  encoding: 'utf8',
})
  .split('\n')
  .filter(Boolean);
const text = (path: string) => readFileSync(join(root, path), 'utf8');
const code = files.filter((path) => /\.(ts|svelte|mjs|proto)$/.test(path));
const own = 'test/tidy.test.ts';

/** Files that match, but for those that are named as allowed. */
const found = (paths: readonly string[], pattern: RegExp, allowed: readonly string[] = []) =>
  paths.filter((path) => path !== own && !allowed.includes(path) && pattern.test(text(path)));

test('nothing is left to be done later without an issue', () => {
  expect(found(code, /\b(TODO|FIXME|XXX|HACK)\b/)).toEqual([]);
});

test('time is read through a clock, so that a test can move it', () => {
  const programs = code.filter(
    (path) => /^packages\/(agent|collector)\/src\//.test(path) && !/\.(test|bench)\.ts$/.test(path),
  );
  expect(
    found(
      programs,
      /\bDate\.now\(|\bperformance\.now\(/,
      programs.filter((path) => path.endsWith('/clock.ts')),
    ),
  ).toEqual([]);
});

test('other programs are started in the few places that are named here', () => {
  const sources = code.filter((path) => /^packages\/(agent|collector)\/src\//.test(path) && !path.endsWith('.test.ts'));
  const named = [
    'packages/agent/src/gpu/nvidia_smi.ts',
    'packages/agent/src/host.ts',
    'packages/agent/src/sources/perf.ts',
  ];
  expect(found(sources, /node:child_process/, named)).toEqual([]);
});

test('no address of a registry and no path of one machine is written anywhere', () => {
  const texts = files.filter((path) => !/\.(png|binpb|svg)$/.test(path) && !path.includes('/fixtures/'));
  expect(found(texts, /registry\.npmjs|registry\.yarnpkg|repo1?\.maven|proxy\.golang|pypi\.org\/simple/)).toEqual([]);
  expect(found(texts, /\/work\/|\/root\/|\/home\/[a-z]/)).toEqual([]);
});

test('every bound has a reason', () => {
  for (const path of files.filter((name) => name.endsWith('/limits.ts'))) {
    const lines = text(path).split('\n');
    for (const [index, line] of lines.entries())
      if (/^export const \w+ = [\d(]/.test(line)) expect(lines[index - 1], `${path}: ${line}`).toMatch(/\*\/$|^\/\//);
  }
});

test('every module is imported by another, or is a program, a test or a page', () => {
  const entries = /(\.test\.ts|\.bench\.ts|\.config\.ts|\/main\.ts|\/\+[a-z]+\.(ts|svelte)|\.d\.ts|run\.mjs)$/;
  const named = [
    'test/closing-line.ts',
    'packages/proto/generate.ts',
    'deploy/build.ts',
    'deploy/generate.ts',
    'test/faults/soak.ts',
  ];
  const all =
    code.map(text).join('\n') +
    files
      .filter((path) => path.endsWith('package.json'))
      .map(text)
      .join('\n');
  const orphans = code
    .filter((path) => /\.(ts|svelte)$/.test(path) && !entries.test(path) && !named.includes(path))
    .filter((path) => {
      const name = path.split('/').at(-1) ?? '';
      const stem = name.replace(/\.ts$/, '');
      return !all.includes(`/${name}'`) && !all.includes(`#${name}'`) && !all.includes(`/${stem}'`);
    });
  expect(orphans).toEqual([]);
});

test('the reference pages are what their generator makes', async () => {
  for (const [path, content] of Object.entries(await pages()))
    expect(text(path), `${path} is out of step: run \`pnpm docs\``).toBe(content);
});
