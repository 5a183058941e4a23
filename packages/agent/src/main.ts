#!/usr/bin/env node
// The agent's command line: the only file that touches arguments, environment, exit code and signals.
import { randomBytes } from 'node:crypto';
import { subject } from '@fleetreel/proto';
import { readSettings, SettingsError, suggestion } from '@fleetreel/proto/settings';
import { check } from '#check.ts';
import { loadClasses } from '#classes.ts';
import { systemClock } from '#clock.ts';
import { interval, program, type Settings } from '#config.ts';
import { Events } from '#events.ts';
import { exit } from '#exit.ts';
import { type Identity, identify } from '#host.ts';
import { inventory } from '#inventory.ts';
import { ProcessIdentities } from '#processes.ts';
import { run } from '#run.ts';
import type { Context, Source } from '#source.ts';
import { sourcesFor } from '#sources/index.ts';
import { sentence } from '#telemetry.ts';

await exit(await main());

async function main(): Promise<number> {
  try {
    const invocation = readSettings(program, process.argv.slice(2), process.env);
    if (!('help' in invocation))
      return await start(invocation.command, invocation.settings, invocation.switches.has('json'));
    console.log(invocation.help);
    return 0;
  } catch (error) {
    console.error(`${program.name}: ${sentence(error)}`);
    return error instanceof SettingsError ? error.exitCode : 1;
  }
}

async function start(command: string, settings: Settings, json: boolean): Promise<number> {
  if (command === 'llm-proxy') {
    const { proxy } = await import('#llm/proxy.ts');
    return proxy({ settings, clock: systemClock, signal: untilAsked() });
  }
  const interval_ms = interval(settings);
  const events = new Events(systemClock);
  const sources = choose(settings, events);
  if (command === 'inventory') {
    console.log(await inventory(sources, systemClock, json));
    return 0;
  }
  const identity = identityOf(settings, command === 'run');
  const session = randomBytes(8).toString('hex');
  if (command === 'check') return check({ settings, identity, session, print: (line) => console.log(line) });
  return run({
    settings,
    identity,
    session,
    interval_ms,
    sources,
    events,
    clock: systemClock,
    signal: untilAsked(),
    onLookAgain: (listener) => process.on('SIGHUP', listener),
  });
}

/** Aborted when the process is asked to end. */
function untilAsked(): AbortSignal {
  const stopping = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () => {
      // Somebody who asks twice does not want to wait.
      if (stopping.signal.aborted) void exit(1);
      stopping.abort();
    });
  return stopping.signal;
}

function choose(settings: Settings, events: Events): Source[] {
  const context: Context = {
    roots: settings.roots,
    clock: systemClock,
    platform: process.platform,
    settings,
    events,
    processes: new ProcessIdentities(settings.roots, {
      classify: loadClasses(settings.process.rules),
      commands: settings.process.commands,
    }),
  };
  const sources = sourcesFor(process.platform).map((make) => make(context));
  const names = sources.map(({ name }) => name);
  for (const name of settings.sources.disable)
    if (!names.includes(name))
      throw new SettingsError(`sources.disable: there is no source "${name}". ${suggestion(name, names)}`);
  return sources.filter(({ name }) => !settings.sources.disable.includes(name));
}

function identityOf(settings: Settings, mayKeep: boolean): Identity {
  try {
    const identity = identify(settings, settings.roots, mayKeep);
    // A name that can't be part of a subject is found here, not at the first frame.
    subject({ tenant: settings.tenant, kind: 'frame', host: identity.host });
    return identity;
  } catch (cause) {
    if (cause instanceof RangeError)
      throw new SettingsError(`${sentence(cause)}. Give this host another one with --host.`, { cause });
    throw new SettingsError(
      `data: this machine has no machine id, and none can be kept in ${settings.data} (${sentence(cause)}). Give a folder that can be written to, or machine_id.`,
      { cause },
    );
  }
}
