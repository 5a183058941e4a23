import { accessSync, constants } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import type { NatsConnection } from '@nats-io/transport-node';
import { HostName } from '#claim.ts';
import { systemClock } from '#clock.ts';
import type { Settings } from '#config.ts';
import { accessOf, connectOnce } from '#connect.ts';
import { addresses, type Identity } from '#host.ts';
import { closeMilliseconds } from '#limits.ts';
import { sentence, Telemetry } from '#telemetry.ts';

/** Says line by line whether the agent could run, and changes nothing; returns the exit code. */
export async function check(options: {
  settings: Settings;
  identity: Identity;
  session: string;
  print: (line: string) => void;
}): Promise<0 | 2> {
  const { settings, identity, print } = options;
  print(`settings: right; host "${identity.host}", machine ${identity.machineId}, every ${settings.interval}`);
  const unreadable = Object.entries(settings.roots).flatMap(([name, folder]) => whyUnreadable(`roots.${name}`, folder));
  for (const reason of unreadable) print(`folders: ${reason}`);
  if (unreadable.length === 0) print(`folders: ${Object.values(settings.roots).join(', ')} can be read`);
  const access = accessOf(settings, identity.host);
  let connection: NatsConnection;
  try {
    connection = await connectOnce(access, { tenant: settings.tenant, host: identity.host });
  } catch (cause) {
    const reason = await access.explain(cause, systemClock.now_us() / 1_000_000);
    print(`NATS: ${settings.nats.url} can't be reached: ${reason}. Is it running, and is nats.url right?`);
    return 2;
  }
  try {
    print(`NATS: connected to ${connection.getServer()}`);
    const isFree = await checkName(connection, access.isKnown, options);
    return isFree && unreadable.length === 0 ? 0 : 2;
  } finally {
    await Promise.race([connection.close(), setTimeout(closeMilliseconds)]);
  }
}

async function checkName(
  connection: NatsConnection,
  isKnown: boolean,
  { settings, identity, session, print }: Parameters<typeof check>[0],
): Promise<boolean> {
  try {
    const obstacle = await HostName.obstacle({
      connection,
      tenant: settings.tenant,
      host: identity.host,
      isKnown,
      claim: { machineId: identity.machineId, bootId: identity.bootId, session, addresses: addresses(), claimedAt: 0 },
      clock: systemClock,
      telemetry: new Telemetry('error'),
    });
    print(`name: ${obstacle ?? `"${identity.host}" can be claimed`}`);
    return obstacle === undefined;
  } catch (cause) {
    print(`name: the claims can't be read: ${sentence(cause)}. Has this NATS server JetStream enabled?`);
    return false;
  }
}

/** Only Linux keeps what is sampled in folders. */
function whyUnreadable(setting: string, folder: string): string[] {
  if (process.platform !== 'linux') return [];
  try {
    accessSync(folder, constants.R_OK | constants.X_OK);
    return [];
  } catch (cause) {
    return [`${folder} can't be read: ${sentence(cause)}. Is ${setting} right?`];
  }
}
