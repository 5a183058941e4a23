// The collector's reading side on real servers, for the tests of the faces.
import { encodeFrame, type Frame, subject } from '@fleetreel/proto';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { type Questdb, startQuestdb } from '@fleetreel/test/servers/questdb';
import { Faces } from '#api/serve.ts';
import { systemClock } from '#clock.ts';
import { Hub } from '#live/hub.ts';
import { Newest } from '#live/newest.ts';
import { connectLog, type Log } from '#log/connect.ts';
import { Registry } from '#log/registry.ts';
import { keepLog } from '#log/stream.ts';
import { Query } from '#query/query.ts';
import { Reader } from '#store/reader.ts';
import { Telemetry } from '#telemetry.ts';

const day = 86_400_000;
export const retention = { raw: 30 * day, '1m': 180 * day, '1h': 3 * 365 * day };

export type Stack = Awaited<ReturnType<typeof startStack>>;

export async function startStack() {
  const stack = new AsyncDisposableStack();
  const nats: NatsServer = stack.use(await startNats());
  const questdb: Questdb = stack.use(await startQuestdb());
  const telemetry = new Telemetry('error');
  const log: Log = await connectLog(nats.url);
  stack.defer(() => log.connection.close());
  await keepLog(log, { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 }, 'main', telemetry);
  const registry = stack.use(await Registry.open(log));
  const newest = await Newest.open(log, systemClock);
  stack.defer(() => newest.close());
  const reader = stack.use(
    new Reader({
      pg_host: questdb.pgHost,
      pg_port: questdb.pgPort,
      read_user: questdb.readUser,
      read_password: questdb.readPassword,
    }),
  );
  const query = new Query({ reader, registry, newest, clock: systemClock, retention });
  stack.defer(() => query.close());
  const hub = new Hub(newest);
  stack.defer(() => hub.close());
  const faces = await Faces.start({ http: { host: '127.0.0.1', port: 0 }, grpc: { host: '127.0.0.1', port: 0 } }, telemetry);
  stack.defer(() => faces.close());
  return {
    nats,
    questdb,
    telemetry,
    log,
    registry,
    newest,
    reader,
    query,
    hub,
    faces,
    url: `http://127.0.0.1:${faces.http.port}`,
    grpc: `127.0.0.1:${faces.grpc.port}`,
    /** Publishes a frame of a host as an agent does. */
    async publish(host: string, frame: Frame): Promise<void> {
      await log.jetstream.publish(subject({ tenant: 'default', kind: 'frame', host }), encodeFrame(frame));
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}
