#!/usr/bin/env node
// `fleetreel`: the local launcher, and a client of the gRPC API. The only file that touches argv, exit codes and stdio.
import { enableCompileCache } from 'node:module';
import { SettingsError, suggestion } from '@fleetreel/proto/settings';
import { CallError } from '#client.ts';
import { type Command, helpOf, parse, UsageError } from '#command.ts';
import { hosts } from '#commands/hosts.ts';
import { latest } from '#commands/latest.ts';
import { series } from '#commands/series.ts';
import { tail } from '#commands/tail.ts';
import { Output } from '#output.ts';
import manifest from '#package.json' with { type: 'json' };

enableCompileCache();

const commands: Readonly<Record<string, Command>> = { hosts, latest, series, tail };
const upSummary = 'Start everything on this machine and keep it running; see fleetreel up --help';

const stopping = new AbortController();

/** @returns the exit code: 0 done, 1 it failed, 2 it was called wrongly */
async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(`${help()}\n`);
    return name === undefined ? 2 : 0;
  }
  if (name === '--version') {
    process.stdout.write(`fleetreel ${manifest.version}\n`);
    return 0;
  }
  try {
    if (name === 'up') {
      // Loaded only here: the launcher needs much that a client doesn't.
      const { run } = await import('#commands/up.ts');
      await run(rest);
      return 0;
    }
    const command = commands[name];
    if (command === undefined)
      throw new UsageError(`There is no command "${name}". ${suggestion(name, ['up', ...Object.keys(commands)])}`);
    const invocation = parse(command, rest, process.env);
    if (invocation === undefined) {
      process.stdout.write(`${helpOf(command)}\n`);
      return 0;
    }
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.abort());
    await command.run(invocation, new Output(process.stdout, process.env), stopping.signal);
    return 0;
  } catch (error) {
    if (error instanceof UsageError || error instanceof SettingsError) return say(error.message, 2);
    if (error instanceof CallError) return say(error.message, error.exitCode);
    // The launcher's own: what the user has to settle.
    if (error instanceof Error && 'exitCode' in error) return say(error.message, Number(error.exitCode));
    throw error;
  }
}

function say(message: string, exitCode: number): number {
  process.stderr.write(`${message}\n`);
  return exitCode;
}

function help(): string {
  const rows = [['up', upSummary], ...Object.values(commands).map(({ usage, summary }) => [usage, summary])];
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
