// Builds what is shipped: the agent as one file with its contracts beside it, and the console.
import { createHash } from 'node:crypto';
import { cpSync, existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { longStep, type Machine, thisMachine } from '#local/obtain.ts';

const root = join(import.meta.dirname, '..');
const dist = join(root, 'dist');

type Target = {
  name: string;
  /** What it is made of, as patterns from the root. */
  inputs: readonly string[];
  /** The file that exists when it is built. */
  output: string;
  make(machine: Machine): Promise<void>;
};

const tests = /\.test\.ts$|\/fixtures\//;
/** Changes of dependencies and of this file change every target. */
const common = ['pnpm-lock.yaml', 'deploy/build.ts', 'packages/proto/src/*.ts', 'packages/proto/fleetreel/v1/*.proto'];

const targets: readonly Target[] = [
  {
    name: 'agent',
    inputs: ['packages/agent/{package.json,classes.yaml}', 'packages/agent/src/**/*.ts'],
    output: join(dist, 'agent', 'main.js'),
    make: bundleAgent,
  },
  {
    name: 'console',
    inputs: ['apps/web/*.{ts,json}', 'apps/web/src/**/*', 'apps/web/static/**/*'],
    output: join(root, 'apps/web/build/index.html'),
    make: buildConsole,
  },
];

/** Where the built parts are: files and folders. */
export const built = {
  agent: join(dist, 'agent', 'main.js'),
  console: join(root, 'apps/web/build'),
} as const;

/** Builds what is missing or was made of other sources. @throws StepFailed */
export async function build(machine: Machine): Promise<void> {
  for (const target of targets) {
    const stamp = join(dist, `${target.name}.sha256`);
    const wanted = fingerprint([...common, ...target.inputs]);
    if (existsSync(target.output) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) continue;
    rmSync(stamp, { force: true });
    await target.make(machine);
    mkdirSync(dist, { recursive: true });
    writeFileSync(stamp, wanted);
  }
}

/** SHA-256 over the names and contents of all files that match. */
function fingerprint(patterns: readonly string[]): string {
  const hash = createHash('sha256');
  for (const path of globSync(patterns, { cwd: root }).sort()) {
    if (tests.test(path)) continue;
    let content: Buffer;
    try {
      content = readFileSync(join(root, path));
    } catch (error) {
      // A pattern with ** matches folders as well.
      if ((error as NodeJS.ErrnoException).code === 'EISDIR') continue;
      throw error;
    }
    hash.update(`${path}\0${content.length}\0`).update(content);
  }
  return hash.digest('hex');
}

/** In a process of its own: the bundler's memory would stay with the launcher as long as that runs. */
async function bundleAgent(machine: Machine): Promise<void> {
  await longStep('Bundling the agent', [process.execPath, import.meta.filename, 'bundle-agent'], machine);
}

async function bundle(): Promise<void> {
  const { build: rolldown } = await import('rolldown');
  const folder = dirname(built.agent);
  rmSync(folder, { recursive: true, force: true });
  await rolldown({
    input: ['main', 'machine'].map((name) => join(root, `packages/agent/src/${name}.ts`)),
    platform: 'node',
    // Native: copied beside the bundle as it is.
    external: ['koffi'],
    logLevel: 'warn',
    // What it imports only when needed stays apart, and out of memory; so do comments and indentation, but not names.
    output: {
      dir: folder,
      format: 'esm',
      entryFileNames: '[name].js',
      chunkFileNames: '[name].js',
      comments: false,
      minify: { mangle: false, compress: true },
    },
  });
  // V8 keeps a file with one character beyond Latin-1 in two bytes for each. Only strings and patterns have such characters.
  for (const file of globSync(join(folder, '*.js'))) {
    const text = readFileSync(file, 'utf8');
    const escaped = text.replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
    if (escaped !== text) writeFileSync(file, escaped);
  }
  // Read at run time, one folder above the program.
  cpSync(join(root, 'packages/proto/fleetreel/v1'), join(dist, 'fleetreel/v1'), { recursive: true });
  cpSync(join(root, 'packages/agent/classes.yaml'), join(dist, 'classes.yaml'));
  // The native library with the package of this platform, which it looks up beside itself.
  const koffi = dirname(createRequire(join(root, 'packages/agent/package.json')).resolve('koffi'));
  for (const name of ['koffi', '@koromix'])
    cpSync(join(dirname(koffi), name), join(folder, 'node_modules', name), {
      recursive: true,
      dereference: true,
      filter: (path) => !/[\\/]koffi[\\/](vendor|doc|lib)$/.test(path),
    });
}

async function buildConsole(machine: Machine): Promise<void> {
  const web = join(root, 'apps/web');
  const vite = join(web, 'node_modules/vite/bin/vite.js');
  await longStep('Building the console', [process.execPath, vite, 'build'], machine, { cwd: web });
}

if (import.meta.main) {
  if (process.argv[2] === 'bundle-agent') await bundle();
  else await build(thisMachine((line) => process.stdout.write(`${line}\n`)));
}
