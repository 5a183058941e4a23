import { setTimeout } from 'node:timers/promises';
import { connect } from '@nats-io/transport-node';
import { HostName } from '#claim.ts';
import { systemClock } from '#clock.ts';
import type { Settings } from '#config.ts';
import { addresses, type Identity } from '#host.ts';
import { connectOptions } from '#run.ts';
import { sentence, Telemetry } from '#telemetry.ts';

/** Says line by line whether the agent could run; returns the exit code. */
export async function check(options: {
  settings: Settings;
  identity: Identity;
  session: string;
  print: (line: string) => void;
}): Promise<0 | 2> {
  const { settings, identity, session, print } = options;
  print(`settings: right; host "${identity.host}", machine ${identity.machineId}, every ${settings.interval}`);
  let connection: Awaited<ReturnType<typeof connect>>;
  try {
    connection = await connect({ ...connectOptions(settings.nats.url), maxReconnectAttempts: 0, reconnect: false });
  } catch (cause) {
    print(`NATS: ${settings.nats.url} can't be reached: ${sentence(cause)}. Is it running, and is nats.url right?`);
    return 2;
  }
  try {
    print(`NATS: connected to ${connection.getServer()}`);
    const obstacle = await HostName.obstacle({
      connection,
      tenant: settings.tenant,
      host: identity.host,
      claim: { machineId: identity.machineId, bootId: identity.bootId, session, addresses: addresses(), claimedAt: 0 },
      clock: systemClock,
      telemetry: new Telemetry('error'),
    });
    print(`name: ${obstacle ?? `"${identity.host}" can be claimed`}`);
    return obstacle === undefined ? 0 : 2;
  } catch (cause) {
    print(`name: the claims can't be read: ${sentence(cause)}. Has this NATS server JetStream enabled?`);
    return 2;
  } finally {
    await Promise.race([connection.close(), setTimeout(1000)]);
  }
}
