// Builds what is published: one file that browsers and Node load as it is, and its types.
import { execFileSync } from 'node:child_process';
import { globSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { build } from 'rolldown';

const folder = import.meta.dirname;
const dist = join(folder, 'dist');

rmSync(dist, { recursive: true, force: true });
await build({
  input: join(folder, 'src/client.ts'),
  platform: 'neutral',
  logLevel: 'warn',
  output: { file: join(dist, 'client.js'), format: 'esm', minify: true },
});
const compiler = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin/tsc');
execFileSync(process.execPath, [compiler, '-p', join(folder, 'tsconfig.json')], { stdio: 'inherit' });
// The names inside this package mean nothing outside.
for (const file of globSync('*.d.ts', { cwd: dist }))
  writeFileSync(join(dist, file), readFileSync(join(dist, file), 'utf8').replace(/'#(\w+)\.ts'/g, "'./$1.js'"));
