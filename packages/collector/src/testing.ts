// What tests with real servers share: the rooms of a collector behind its faces, and a host that has said what it is.
import type { HostDescription } from '@fleetreel/proto';
import type { NatsSettings } from '@fleetreel/proto/nats_access';
import { Access, type Anonymous } from '#access/access.ts';
import type { Enrolment } from '#access/enrolment.ts';
import { Faces } from '#api/serve.ts';
import { type Clock, systemClock } from '#clock.ts';
import { Hub } from '#live/hub.ts';
import { Newest } from '#live/newest.ts';
import { AgentSettings } from '#log/agent_settings.ts';
import { type AllowanceSettings, Allowances } from '#log/allowance.ts';
import { Audit } from '#log/audit.ts';
import { connectLog, type Log } from '#log/connect.ts';
import { CustomLog } from '#log/custom.ts';
import { DeadLetters } from '#log/dead.ts';
import { Registry } from '#log/registry.ts';
import { keepLog, type LogSettings } from '#log/stream.ts';
import { Agents } from '#query/agents.ts';
import { Query } from '#query/query.ts';
import { Replays } from '#replay/replays.ts';
import { Reader } from '#store/reader.ts';
import { Telemetry } from '#telemetry.ts';

const day = 86_400_000;

/** What is needed of a QuestDB to read from it. */
type Store = { pgHost: string; pgPort: number; readUser: string; readPassword: string };

type RoomsOptions = {
  telemetry: Telemetry;
  faces: Faces;
  log: Log;
  registry: Registry;
  /** None where nothing is asked of the store. */
  questdb?: Store;
  clock?: Clock;
  enrolment?: Enrolment;
  /** How long the store keeps rows, milliseconds; a day of each width by default. */
  retention?: ConstructorParameters<typeof Query>[0]['retention'];
  /** How much a key may write. */
  allowances?: AllowanceSettings;
};

/**
 * Listens on free ports, where nothing is answered yet, until `closing` is.
 * @param anonymous what whoever brings no credentials may do
 * @param trustedProxies whose word on who calls is believed
 */
export async function startFaces(
  closing: AsyncDisposableStack,
  anonymous: Anonymous = 'admin',
  trustedProxies: readonly string[] = [],
): Promise<{ telemetry: Telemetry; faces: Faces }> {
  const telemetry = new Telemetry('silent');
  const anyPort = { host: '127.0.0.1', port: 0 };
  const http = { ...anyPort, trusted_proxies: trustedProxies };
  const faces = await Faces.start({ http, grpc: anyPort }, new Access({ anonymous, telemetry }), telemetry);
  closing.defer(() => faces.close());
  return { telemetry, faces };
}

/** Makes the log, which is read until `closing` is. */
export async function startLog(
  closing: AsyncDisposableStack,
  nats: NatsSettings | string,
  bounds: LogSettings,
  telemetry: Telemetry,
): Promise<{ log: Log; registry: Registry }> {
  const log = await connectLog(nats);
  closing.defer(() => log.connection.close());
  await keepLog(log, bounds, 'main', telemetry);
  const registry = closing.use(await Registry.open({ log, telemetry }));
  return { log, registry };
}

/** From now on the faces answer: the log is read for the newest state, and the store where there is one. */
export async function serveRooms(
  closing: AsyncDisposableStack,
  {
    telemetry,
    faces,
    log,
    registry,
    questdb,
    clock = systemClock,
    enrolment,
    retention = { raw: day, '1m': day, '1h': day },
    allowances = { rate: 20_000, bytes: 4 * 1024 * 1024, names: 10_000 },
  }: RoomsOptions,
): Promise<{ newest: Newest; query: Query; audit: Audit }> {
  const newest = await Newest.open(log, clock);
  closing.defer(() => newest.close());
  const { pgHost, pgPort, readUser, readPassword } = questdb ?? {
    pgHost: '127.0.0.1',
    pgPort: 1,
    readUser: '',
    readPassword: '',
  };
  const reader = closing.use(
    new Reader({ pg_host: pgHost, pg_port: pgPort, read_user: readUser, read_password: readPassword }),
  );
  const query = new Query({ reader, registry, newest, clock, telemetry, retention });
  closing.defer(() => query.close());
  const hub = new Hub(newest);
  closing.defer(() => hub.close());
  const replays = new Replays({ log, reader, clock, telemetry });
  await faces.access.open(log);
  closing.defer(() => faces.access.close());
  const agents = new Agents(registry, closing.use(await AgentSettings.open({ log, registry, telemetry, clock })));
  const custom = {
    log: new CustomLog(log, telemetry, clock),
    allowances: new Allowances(allowances, clock, (bound) => telemetry.customRefused(bound)),
    rawMilliseconds: retention.raw,
  };
  const audit = new Audit(log, 'test', telemetry, clock);
  closing.defer(() => audit.close());
  const deadLetters = new DeadLetters(log, telemetry);
  faces.open({ query, hub, deadLetters, replays, agents, enrolment, custom, audit });
  return { newest, query, audit };
}

/** What a host says of itself. */
export const describedHost = (host: string, more: Partial<HostDescription> = {}): HostDescription => ({
  host,
  machine_id: `machine-${host}`,
  session: 'fedcba9876543210',
  time_us: Math.round(systemClock.now_us()),
  agent_version: '0.1.0',
  platform: 'linux',
  os: 'Debian 12',
  kernel: '6.18',
  architecture: 'x64',
  cpu_model: 'Test',
  cpu_count: 2,
  memory_bytes: 1024,
  gpus: [],
  virtualization: '',
  boot_time_us: 1,
  interval_ms: 5000,
  addresses: [],
  tags: {},
  boot_id: 'boot',
  dmi_uuid: '',
  upload_interval_ms: 0,
  settings_digest: '',
  settings: {},
  settings_refused: {},
  own_tags: {},
  ...more,
});
