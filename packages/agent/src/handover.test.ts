import { readFileSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { join } from 'node:path';
import { expect, test } from 'vitest';

/** The packages and files that a file needs to be loaded, through all files of the workspace. */
function needed(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen;
  seen.add(file);
  const require = createRequire(file);
  const text = readFileSync(file, 'utf8').replace(/^import type .*?;$/gms, '');
  for (const [, specifier = ''] of text.matchAll(/^(?:import|export)\s(?:[^;]*?\sfrom\s)?'([^']+)'/gm)) {
    if (isBuiltin(specifier) || specifier.endsWith('.json')) continue;
    if (specifier.startsWith('#')) needed(join(packageOf(file), 'src', specifier.slice(1)), seen);
    else if (specifier.startsWith('@fleetreel/')) needed(require.resolve(specifier), seen);
    else seen.add(specifier);
  }
  return seen;
}

const packageOf = (file: string): string => file.slice(0, file.lastIndexOf('/src/'));

test('the process that samples loads neither schemas nor YAML, nor what few hosts need', () => {
  const all = [...needed(join(import.meta.dirname, 'main.ts'))];
  expect(all).toContain('@nats-io/transport-node');
  expect(all.some((file) => file.endsWith('/sources/cpu.ts'))).toBe(true);
  for (const heavy of ['typebox', 'typebox/value', 'yaml', 'systeminformation', 'koffi', 'node:http'])
    expect(all).not.toContain(heavy);
});
