import { token } from '@fleetreel/proto';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { connectMilliseconds, pingMilliseconds, publishRetryMilliseconds } from '#limits.ts';
import { name as program } from '#program.ts';

/**
 * Connects to NATS; once it has succeeded, the client connects again by itself, for ever.
 * @param url one server, or several of one cluster, separated by commas
 */
export const connectLog = (url: string, host: string): Promise<NatsConnection> => connect(options(url, host));

/** Connects for as long as it lasts. */
export const connectOnce = (url: string, host: string): Promise<NatsConnection> =>
  connect({ ...options(url, host), reconnect: false });

const options = (url: string, host: string) => ({
  servers: url.split(',').map((server) => server.trim()),
  name: `${program} ${host}`,
  // Answers come to subjects that no other host has to be allowed to read.
  inboxPrefix: `_INBOX_${token('host', host)}`,
  timeout: connectMilliseconds,
  maxReconnectAttempts: -1,
  reconnectTimeWait: publishRetryMilliseconds.min,
  reconnectJitter: publishRetryMilliseconds.min,
  ignoreAuthErrorAbort: true,
  // Otherwise each request builds a stack trace in advance: half of the CPU time of publishing.
  noAsyncTraces: true,
  pingInterval: pingMilliseconds,
});
