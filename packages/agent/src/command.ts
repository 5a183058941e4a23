// The agent's command line: reads the settings and does what can be done without sampling for long.
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { defaultTenant, subject, token } from '@fleetreel/proto';
import { readCredentialsFile } from '@fleetreel/proto/nats_access';
import { readSettings, SettingsError, suggestion } from '@fleetreel/proto/settings';
import { systemClock } from '#clock.ts';
import { checkIntervals, checkServers, program, type Settings } from '#config.ts';
import { enrolledPath } from '#enrolled.ts';
import { Events } from '#events.ts';
import { untilAsked } from '#exit.ts';
import { handOver, type Orders } from '#handover.ts';
import { type Identity, identify } from '#host.ts';
import { loadRules } from '#rules.ts';
import { systemSources } from '#sources/index.ts';
import { sentence } from '#telemetry.ts';

/** Does what the command line says; returns the exit code, or what this process has to sample. */
export async function command(
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): Promise<number | Orders> {
  try {
    const invocation = readSettings(program, argv, environment);
    if (!('help' in invocation))
      return await start(invocation.command, invocation.settings, invocation.switches.has('json'));
    console.log(invocation.help);
    return 0;
  } catch (error) {
    console.error(`${program.name}: ${sentence(error)}`);
    return error instanceof SettingsError ? error.exitCode : 1;
  }
}

async function start(name: string, given: Settings, json: boolean): Promise<number | Orders> {
  if (name === 'llm-proxy') {
    const { proxy } = await import('#llm/proxy.ts');
    return await proxy({ settings: given, clock: systemClock, signal: untilAsked() });
  }
  if (name === 'spool') {
    const { spoolReport } = await import('#spool_report.ts');
    const { text, code } = await spoolReport(given.data, json);
    console.log(text);
    return code;
  }
  if (name === 'enroll') {
    const { enroll } = await import('#enroll.ts');
    console.log(await enroll(given, process.env, process.stdin));
    return 0;
  }
  const settings = asCredentialsSay(withCredentials(given));
  checkIntervals(settings);
  checkServers(settings);
  // Also before sampling: what a source does not like in its settings is said here.
  const rules = loadRules(settings.process.rules);
  const { all, chosen } = systemSources(settings, rules, new Events(systemClock));
  const names = all.map((source) => source.name);
  for (const one of settings.sources.disable)
    if (!names.includes(one))
      throw new SettingsError(`sources.disable: there is no source "${one}". ${suggestion(one, names)}`);
  if (name === 'inventory') {
    const { inventory } = await import('#inventory.ts');
    console.log(await inventory(chosen, systemClock, json));
    return 0;
  }
  const identity = identityOf(settings, name === 'run');
  const session = randomBytes(8).toString('hex');
  if (name === 'check') {
    const { check } = await import('#check.ts');
    return check({ settings, identity, session, print: (line) => console.log(line) });
  }
  const orders = { settings, rules, identity, session };
  handOver(orders);
  return orders;
}

/** What `enroll` has fetched is used, unless others are named. */
function withCredentials(settings: Settings): Settings {
  const credentials = enrolledPath(settings);
  if (settings.nats.credentials !== undefined || !existsSync(credentials)) return settings;
  return { ...settings, nats: { ...settings.nats, credentials } };
}

/** With credentials, tenant and host are those that they were given for: under others nothing may be published. @throws SettingsError */
function asCredentialsSay(settings: Settings): Settings {
  const path = settings.nats.credentials;
  if (path === undefined) return settings;
  let claims: ReturnType<typeof readCredentialsFile>['claims'];
  try {
    claims = readCredentialsFile(path).claims;
  } catch (cause) {
    throw new SettingsError(`nats.credentials: ${sentence(cause)}.`, { cause });
  }
  const tags = new Map((claims.nats.tags ?? []).map((tag) => tag.split(':', 2) as [string, string]));
  const [tenant, host] = [tags.get('tenant'), tags.get('host')];
  // They were not made by an enrolment: what they allow is not known here.
  if (tenant === undefined || host === undefined) return settings;
  if (settings.tenant !== defaultTenant && settings.tenant !== tenant)
    throw new SettingsError(
      `tenant: this is to be a host of "${settings.tenant}", and the credentials in ${path} are for "${tenant}": leave the setting out, or enrol this host anew.`,
    );
  if (settings.host !== undefined && token('host', settings.host) !== host)
    throw new SettingsError(
      `host: this is to be "${settings.host}", and the credentials in ${path} are for "${claims.name}": leave the setting out, or enrol this host anew.`,
    );
  return { ...settings, tenant, host: settings.host ?? claims.name };
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
