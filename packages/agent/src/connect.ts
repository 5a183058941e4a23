import { inboxPrefix, token } from '@fleetreel/proto';
import { NatsAccess } from '@fleetreel/proto/nats_access';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import type { Settings } from '#config.ts';
import { enrolledPath } from '#enrolled.ts';
import { connectMilliseconds, pingMilliseconds, publishRetryMilliseconds } from '#limits.ts';
import { name as program } from '#program.ts';

/** Who connects. */
export type Who = { tenant: string; host: string };

/** The way into NATS; what `enroll` fetches while this agent runs is used, unless other credentials are named. */
export const accessOf = (settings: Settings, host: string): NatsAccess =>
  new NatsAccess({
    ...settings.nats,
    enrolled: { path: enrolledPath(settings), tenant: settings.tenant, host: token('host', host) },
  });

/** Connects to NATS; once it has succeeded, the client connects again by itself, for ever. */
export const connectLog = (access: NatsAccess, who: Who): Promise<NatsConnection> => connect(options(access, who));

/** Connects for as long as it lasts. */
export const connectOnce = (access: NatsAccess, who: Who): Promise<NatsConnection> =>
  connect({ ...options(access, who), reconnect: false });

const options = (access: NatsAccess, { tenant, host }: Who) => ({
  ...access.options,
  name: `${program} ${host}`,
  // Answers come to subjects that no other host is allowed to read.
  inboxPrefix: inboxPrefix(tenant, host),
  timeout: connectMilliseconds,
  maxReconnectAttempts: -1,
  // Whoever is refused asks less and less often: what it shows may be renewed.
  reconnectDelayHandler: () =>
    Math.min(publishRetryMilliseconds.min * 2 ** access.tries, publishRetryMilliseconds.max) +
    Math.random() * publishRetryMilliseconds.min,
  ignoreAuthErrorAbort: true,
  // Otherwise each request builds a stack trace in advance: half of the CPU time of publishing.
  noAsyncTraces: true,
  pingInterval: pingMilliseconds,
});
