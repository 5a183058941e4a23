#!/usr/bin/env node
// `fleetreel`: the local launcher, and a client of the gRPC API. The only file that touches argv, exit codes and stdio.
import { enableCompileCache } from 'node:module';
import { suggestion } from '@fleetreel/proto/settings';
import { type Command, helpOf, parse, UsageError } from '#command.ts';
import { Output } from '#output.ts';
import manifest from '#package.json' with { type: 'json' };

enableCompileCache();

/** Loaded when they are called: the launcher needs no client, and a client no launcher. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  agents: async () => (await import('#commands/agents.ts')).agents,
  'dead-letters': async () => (await import('#commands/dead_letters.ts')).deadLetters,
  credentials: async () => (await import('#commands/credentials.ts')).credentials,
  enroll: async () => (await import('#commands/enroll.ts')).enroll,
  coverage: async () => (await import('#commands/coverage.ts')).coverage,
  hosts: async () => (await import('#commands/hosts.ts')).hosts,
  keys: async () => (await import('#commands/keys.ts')).keys,
  latest: async () => (await import('#commands/latest.ts')).latest,
  'nats-keys': async () => (await import('#commands/nats_keys.ts')).natsKeys,
  record: async () => (await import('#commands/record.ts')).record,
  reel: async () => (await import('#commands/reel.ts')).reel,
  replay: async () => (await import('#commands/replay.ts')).replay,
  rows: async () => (await import('#commands/rows.ts')).rows,
  series: async () => (await import('#commands/series.ts')).series,
  tail: async () => (await import('#commands/tail.ts')).tail,
  users: async () => (await import('#commands/users.ts')).users,
};
const upSummary = 'Start everything on this machine and keep it running; see fleetreel up --help';

const stopping = new AbortController();

/** @returns the exit code: 0 done, 1 it failed, 2 it was called wrongly */
async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(`${await help()}\n`);
    return name === undefined ? 2 : 0;
  }
  if (name === '--version') {
    process.stdout.write(`fleetreel ${manifest.version}\n`);
    return 0;
  }
  try {
    if (name === 'up') {
      const { run } = await import('#commands/up.ts');
      await run(rest);
      return 0;
    }
    const load = Object.hasOwn(commands, name) ? commands[name] : undefined;
    if (load === undefined)
      throw new UsageError(`There is no command "${name}". ${suggestion(name, ['up', ...Object.keys(commands)])}`);
    const command = await load();
    const invocation = parse(command, rest, process.env);
    if (invocation === undefined) {
      process.stdout.write(`${helpOf(command)}\n`);
      return 0;
    }
    // The client reads it from there, whoever named it.
    for (const [flag, variable] of [
      ['key-file', 'FLEETREEL_KEY_FILE'],
      ['ca-file', 'FLEETREEL_CA_FILE'],
    ] as const) {
      const [value] = invocation.flags.get(flag) ?? [];
      if (value === undefined) continue;
      process.env[variable] = value;
      // What is named on the command line comes before what the environment has.
      if (flag === 'key-file') delete process.env.FLEETREEL_KEY;
    }
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.abort());
    await command.run(invocation, new Output(process.stdout, process.env), stopping.signal);
    return 0;
  } catch (error) {
    // What the user has to settle; everything else is a mistake of ours, and shown as one.
    if (!(error instanceof Error && 'exitCode' in error)) throw error;
    process.stderr.write(`${error.message}\n`);
    return Number(error.exitCode);
  }
}

async function help(): Promise<string> {
  const all = await Promise.all(Object.values(commands).map((load) => load()));
  const rows = [['up', upSummary], ...all.map(({ usage, summary }) => [usage, summary])];
  const width = Math.max(...rows.map(([usage = '']) => usage.length)) + 2;
  return [
    `fleetreel ${manifest.version}: monitoring for fleets of machines`,
    '',
    'Usage: fleetreel COMMAND [ARGUMENTS] [FLAGS]; fleetreel COMMAND --help says more',
    '',
    ...rows.map(([usage = '', summary]) => `  ${usage.padEnd(width)}${summary}`),
  ].join('\n');
}

// A reader that has seen enough (`| head`) closes the pipe.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});
process.exitCode = await main(process.argv.slice(2));
