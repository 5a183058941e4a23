#!/usr/bin/env node
// The agent's entry: samples when it was told to, and else does what the command line says.
import { systemClock } from '#clock.ts';
import { Events } from '#events.ts';
import { exit, untilAsked } from '#exit.ts';
import { type Orders, receive } from '#handover.ts';
import { run } from '#run.ts';
import { systemSources } from '#sources/index.ts';

await exit(await main());

async function main(): Promise<number> {
  const orders = receive();
  if (orders) return await sample(orders);
  // Loaded only in the process that reads settings.
  const { command } = await import('#command.ts');
  const answer = await command(process.argv.slice(2), process.env);
  return typeof answer === 'number' ? answer : await sample(answer);
}

function sample({ settings, rules, identity, session }: Orders): Promise<number> {
  const events = new Events(systemClock);
  const live = { ...settings };
  return run({
    settings,
    identity,
    session,
    sources: systemSources(settings, rules, events, live).all,
    live,
    events,
    clock: systemClock,
    signal: untilAsked(),
    onLookAgain: (listener) => process.on('SIGHUP', listener),
  });
}
